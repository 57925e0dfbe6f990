"""Named tensors as the Open Inference Protocol sends them: as JSON, or as bytes after it.

The bytes are the protocol's binary tensor data extension: little-endian numbers in row-major order, and texts as their
length (uint32) and their UTF-8.
"""

from collections.abc import Sequence
from math import prod
from struct import pack, unpack_from
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from service.errors import BadInput
from service.strict import Strict

LENGTH = 4  # bytes of a text's length
NUMPY = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
Datatype = Literal["BYTES", "FP32", "INT64", "BOOL"]
Name = Annotated[str, Field(max_length=200)]


class _Part(Strict):
    model_config = ConfigDict(strict=True)


class InputParameters(_Part):
    binary_data_size: int | None = Field(default=None, ge=0, description="bytes of this tensor after the JSON")
    content_type: Literal["str"] | None = Field(default=None, description="what some clients say of texts")


class InputTensor(_Part):
    name: Name
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=2, description="[n] or [n, 1]")
    datatype: Literal["BYTES"]
    parameters: InputParameters = InputParameters()
    data: list[str | Annotated[list[str], Field(min_length=1, max_length=1)]] | None = Field(
        default=None, fail_fast=True, description="texts, or lists of one text; left out where they follow the JSON"
    )


class OutputTensor(NamedTuple):
    """One answer tensor; `values` are numbers as `NUMPY` has them, or for BYTES an array of objects: texts."""

    name: str
    datatype: Datatype
    values: NDArray[Any]

    def described(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.values.shape)}

    def flat(self) -> list[Any]:
        """Elements in row-major order, for JSON."""
        return self.values.reshape(-1).tolist()

    def packed(self) -> bytes:
        """Elements in row-major order, as bytes."""
        return pack_texts(self.flat()) if self.datatype == "BYTES" else self.values.tobytes()


def tensor(name: str, datatype: Datatype, values: object) -> OutputTensor:
    """From numbers, an array of them, or texts."""
    return OutputTensor(name, datatype, np.asarray(values, dtype=NUMPY.get(datatype, object)))


def pack_texts(texts: Sequence[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(pack("<I", len(one)) + one for one in encoded)


def read_texts(tensors: Sequence[InputTensor], binary: bytes) -> dict[str, list[str]]:
    """The tensors' texts by name; those that are not in the JSON stand one after another in `binary`.

    Raises:
        BadInput: naming the tensor, and where it helps the element.
    """
    found: dict[str, list[str]] = {}
    start = 0
    for one in tensors:
        if one.name in found:
            raise BadInput(f"inputs: tensor {one.name} is there twice")
        size = one.parameters.binary_data_size
        if (size is None) == (one.data is None):
            both = "both data and" if size is not None else "neither data nor"
            raise BadInput(f"inputs: tensor {one.name} has {both} parameters.binary_data_size")
        if size is None:
            texts = [text if isinstance(text, str) else text[0] for text in one.data or ()]
        else:
            texts = _unpack_texts(one.name, binary[start : start + size], size)
            start += size
        if prod(one.shape) != len(texts) or one.shape[1:] not in ([], [1]):
            raise BadInput(f"inputs: tensor {one.name} has {len(texts)} elements; its shape is {one.shape}")
        found[one.name] = texts
    if start != len(binary):
        raise BadInput(f"{len(binary)} bytes stand after the JSON; its tensors have {start}")
    return found


def _unpack_texts(name: str, data: bytes, size: int) -> list[str]:
    if len(data) < size:
        raise BadInput(f"inputs: tensor {name} has {size} bytes; {len(data)} were sent")
    texts: list[str] = []
    place = 0
    while place < size:
        start = place + LENGTH
        if start > size or (place := start + unpack_from("<I", data, place)[0]) > size:
            raise BadInput(f"inputs: tensor {name} ends in the middle of element {len(texts)}")
        try:
            texts.append(data[start:place].decode())
        except UnicodeDecodeError as error:
            raise BadInput(f"inputs: element {len(texts)} of tensor {name} is not UTF-8") from error
    return texts
