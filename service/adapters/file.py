"""The adapter file: one safetensors file whose header carries the manifest.

Layout (safetensors): 8 bytes, the header's length N, little-endian; N bytes of JSON, tensor name → {dtype, shape,
data_offsets} and `__metadata__` → {"rootstock": manifest}; then the tensors' bytes without gaps. A file from outside
is judged by its header, before memory is taken for a single tensor.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from math import prod
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.adapters.manifest import Manifest, parse_manifest
from service.adapters.methods import Shape
from service.errors import BadAdapter, noting

MANIFEST_KEY = "rootstock"
MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TENSORS = 20_000
MAX_MARKS = 500_000  # of strings, lists and objects in the header: read, small ones take ten times their bytes
HEAD_BYTES = 8 + MAX_HEADER_BYTES  # of a file's start: the header is in there
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WORDS = {dtype: word for word, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """A tensor in a file."""

    dtype: str  # a key of DTYPES
    shape: Shape
    start: int  # its bytes [start, end), counted from the header's end
    end: int


class Header(NamedTuple):
    manifest: Manifest
    tensors: dict[str, Stored]
    length: int  # bytes of the file before its tensors

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: stored.shape for name, stored in self.tensors.items()}

    @property
    def parameters(self) -> int:
        """|v|."""
        return sum(prod(shape) for shape in self.shapes.values())


def digest(data: bytes | memoryview) -> str:
    """The name of a file's content: SHA-256, hexadecimal."""
    return sha256(data).hexdigest()


def write_adapter(manifest: Manifest, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> bytes:
    """The file's bytes, sealed. Deterministic: equal manifests and tensors give equal bytes."""
    stored = {name: tensors[name].detach().to("cpu", dtype).contiguous() for name in sorted(tensors)}
    word = WORDS[dtype]
    parts = ((name, word, tensor.shape, _bytes(tensor)) for name, tensor in stored.items())
    sealed = manifest.model_copy(update={"seal": _seal(_text(manifest), parts)})
    return save_tensors(stored, metadata={MANIFEST_KEY: _text(sealed)})


def _text(manifest: Manifest) -> str:
    return manifest.model_dump_json(exclude_none=True)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_header(data: bytes | memoryview, size: int | None = None) -> Header:
    """Checks the header against the file's true size, and reads the manifest.

    Args:
        data: the file, or its first `HEAD_BYTES`.
        size: of the whole file, where `data` is its start.

    Raises:
        BadAdapter: naming what is wrong, and in which tensor.
    """
    size = len(data) if size is None else size
    with noting(step="header"):
        entries, metadata, payload = _parse_header(data, size)
        tensors = dict[str, Stored]()
        for name, entry in entries.items():
            with noting(tensor=name):
                tensors[name] = _check_entry(name, entry, payload)
        _check_spans(tensors, payload)
    with noting(step="manifest"):
        return Header(parse_manifest(metadata[MANIFEST_KEY]), tensors, size - payload)


def check_seal(data: bytes | memoryview, header: Header) -> bool:
    """Whether the file, which has passed with this header, is sealed: damage that leaves numbers finite shows here.

    Raises:
        BadAdapter: it is, and manifest or tensors are not those that were sealed.
    """
    sealed = header.manifest.seal
    if sealed is None:
        return False
    _, metadata, _ = _parse_header(data, len(data))
    payload = memoryview(data)[header.length :]
    parts = ((name, one.dtype, one.shape, payload[one.start : one.end]) for name, one in header.tensors.items())
    found = _seal(metadata[MANIFEST_KEY], parts)
    if found != sealed:
        raise BadAdapter(
            f"the file is not as it was written: manifest and tensors come to {found}, its seal is {sealed}",
            step="seal", expected=sealed, got=found,
        )  # fmt: skip
    return True


def _seal(manifest: str, parts: Iterable[tuple[str, str, Sequence[int], memoryview]]) -> str:
    """SHA-256 of the manifest without `seal`, then of each tensor's name, dtype, shape and bytes in the order of names.

    The manifest as JSON with sorted keys and no spaces: not by its model, which may learn new fields.
    """
    fields = json.loads(manifest)
    fields.pop("seal", None)
    hashed = sha256(_plain(fields))
    for name, dtype, shape, data in sorted(parts, key=itemgetter(0)):
        hashed.update(_plain([name, dtype, list(shape)]))
        hashed.update(data)
    return hashed.hexdigest()


def _plain(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Every expected tensor is there in its shape, and no other: a tensor left over would change nothing in silence."""
    for name, shape in expected.items():
        if name not in found:
            raise BadAdapter(f"tensor {name} {list(shape)} is missing", tensor=name, expected=list(shape))
        if found[name] != shape:
            raise BadAdapter(
                f"tensor {name} has shape {list(found[name])}, expected {list(shape)}",
                tensor=name, expected=list(shape), got=list(found[name]),
            )  # fmt: skip
    for name, shape in found.items():
        if name not in expected:
            raise BadAdapter(f"tensor {name} belongs to no part of this method and kind", tensor=name, got=list(shape))


def payload_of(data: bytes | memoryview, header: Header) -> memoryview:
    """The tensors' bytes: in `data` itself where that can be written to, otherwise in a copy."""
    payload = memoryview(data)[header.length :]
    return memoryview(bytearray(payload)) if payload.readonly else payload  # torch refers to none that is


def runs(tensors: Mapping[str, Stored]) -> list[tuple[str, ...]]:
    """The tensors in the order of their bytes, neighbours of one dtype together."""
    order = sorted(tensors, key=lambda name: tensors[name].start)
    return [tuple(run) for _, run in groupby(order, key=lambda name: tensors[name].dtype)]


def read_run(payload: memoryview, places: Sequence[Stored]) -> tuple[Tensor, bool]:
    """Neighbours of one dtype as one tensor in the payload; and whether they are certainly finite.

    That is quick, and never wrongly so; numbers near the largest may add up to more than there is.
    """
    span, dtype = payload[places[0].start : places[-1].end], DTYPES[places[0].dtype]
    block = torch.frombuffer(span, dtype=dtype) if span else torch.empty(0, dtype=dtype)
    return block, bool(torch.isfinite(block.sum()))


def read_tensors(data: bytes | memoryview, header: Header) -> dict[str, Tensor]:
    """The tensors as they are stored, of a file that has passed with this header. They lie in `payload_of` it.

    Raises:
        BadAdapter: a tensor holds NaN or infinity.
    """
    payload, tensors = payload_of(data, header), dict[str, Tensor]()
    for names in runs(header.tensors):
        places = [header.tensors[name] for name in names]
        block, finite = read_run(payload, places)
        parts = dict(zip(names, torch.split(block, [prod(place.shape) for place in places]), strict=True))
        for name, part in parts.items():
            if not finite and not torch.isfinite(part).all():
                raise BadAdapter(f"tensor {name} holds values that are not finite numbers", tensor=name)
            tensors[name] = part.view(header.tensors[name].shape)
    return tensors


def _parse_header(data: bytes | memoryview, size: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What the header says of tensors, its metadata, and how many bytes of tensors follow it."""
    if size < 8:
        raise BadAdapter(f"the file has {size} bytes, too few for a safetensors header")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise BadAdapter(f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if length > size - 8:
        raise BadAdapter(f"the header claims {length} bytes, but only {size - 8} follow: the file is cut short")
    text = bytes(data[8 : 8 + length])
    marks = sum(map(text.count, (b'"', b"[", b"{")))
    if marks > MAX_MARKS:
        raise BadAdapter(
            f"the header has {marks} strings, lists and objects by their marks; at most {MAX_MARKS} are read"
        )
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BadAdapter("the header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(MANIFEST_KEY), str):
        raise BadAdapter(f"the header has no manifest under __metadata__.{MANIFEST_KEY}")
    if len(header) > MAX_TENSORS:
        raise BadAdapter(f"the header names {len(header)} tensors; at most {MAX_TENSORS} are read")
    return header, metadata, size - 8 - length


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadAdapter(f"the header names {name!r} twice")
        found[name] = value
    return found


def _check_entry(name: str, entry: Any, payload: int) -> Stored:
    """One tensor's claims: a known dtype, a sane shape, and a span of just that size inside the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadAdapter(f"tensor {name}: the header entry needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadAdapter(f"tensor {name} has dtype {dtype}; accepted are {', '.join(DTYPES)}")
    if not _naturals(shape):
        raise BadAdapter(f"tensor {name}: shape {shape} is not a list of at most four whole numbers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise BadAdapter(f"tensor {name}: data_offsets {offsets} are not two whole numbers")
    start, end = offsets
    if not start <= end <= payload:
        raise BadAdapter(f"tensor {name} lies at bytes {start} to {end}, but the file holds {payload}: it is cut short")
    needed = prod(shape) * DTYPES[dtype].itemsize
    if end - start != needed:
        raise BadAdapter(f"tensor {name} {shape} of {dtype} needs {needed} bytes, its span has {end - start}")
    return Stored(dtype, tuple(shape), start, end)


def _naturals(value: Any) -> bool:
    # Below 2^63: Python refuses to print numbers of thousands of digits, and the error would be that.
    return (
        isinstance(value, list) and len(value) <= 4 and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _check_spans(tensors: Mapping[str, Stored], payload: int) -> None:
    """The tensors fill the rest of the file: no overlap, no gap, nothing after the last."""
    position = 0
    for start, end, name in sorted((stored.start, stored.end, name) for name, stored in tensors.items()):
        if start != position:
            raise BadAdapter(
                f"tensor {name} starts at byte {start}, expected {position}: tensors overlap or leave a gap"
            )
        position = end
    if position != payload:
        raise BadAdapter(f"{payload - position} bytes follow the last tensor")
