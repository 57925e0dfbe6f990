"""From an adapter file to a version that is ready to run."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.adapters.file import (
    Header,
    Stored,
    check_seal,
    check_shapes,
    digest,
    payload_of,
    read_header,
    read_tensors,
)
from service.adapters.manifest import Manifest
from service.adapters.methods import Adaptation, AnyMethod
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.layout import AnyAdaptation, placed
from service.engine.native import Mould, NativeAdaptation
from service.errors import BadAdapter, noting
from service.tasks import expected_shapes, kind_of


def load_resident(base: BaseModel, data: bytes | memoryview, version: int) -> Resident:
    """Validates an adapter file for this base, header first, and arranges it for the engine.

    Raises:
        BadAdapter: naming the field or tensor that is wrong.
    """
    return Arranger(base).judge(data, version).resident


class Judged(NamedTuple):
    """A file that fits its base."""

    header: Header
    resident: Resident
    sealed: bool  # and as it was sealed


def fitting_header(base: BaseModel, head: bytes | memoryview, size: int) -> Header:
    """What a file of `size` bytes says of itself, if by its header it fits this base.

    Args:
        head: the file, or its first `HEAD_BYTES`.

    Raises:
        BadAdapter: naming the field or tensor that is wrong.
    """
    header = read_header(head, size)
    with noting(step="base"):
        check_base(base, header.manifest)
    with noting(step="tensors"):
        check_shapes(header.shapes, expected_shapes(header.manifest, base.dims))
    return header


def check_base(base: BaseModel, manifest: Manifest) -> None:
    """An adapter fits one base only: equal shapes are not enough."""
    if manifest.base.fingerprint != base.fingerprint:
        raise BadAdapter(
            f"manifest: the adapter was trained on base {manifest.base.name} with fingerprint "
            f"{manifest.base.fingerprint[:16]}…, this service runs {base.name} with {base.fingerprint[:16]}…",
            expected=base.fingerprint,
            got=manifest.base.fingerprint,
        )
    if manifest.tokenizer.max_length > base.max_length:
        raise BadAdapter(
            f"manifest: tokenizer.max_length is {manifest.tokenizer.max_length}, the base reads {base.max_length}",
            expected=base.max_length,
            got=manifest.tokenizer.max_length,
        )


class _Known(NamedTuple):
    """How files with one table of tensors and one method are packed."""

    mould: Mould
    address: int  # of the payload that the mould was made from
    parameters: int

    def cast(self, payload: memoryview) -> tuple[NativeAdaptation, dict[str, Tensor]] | None:
        """A file's adaptation and its head; None where a number is not finite."""
        adaptation, head, finite = self.mould.cast(_address(payload) - self.address)
        return (adaptation, head) if finite else None


class Arranger:
    """Arranges files for the engine. Of thousands that are laid out alike, all but the first are packed in one call."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._tables: dict[tuple[tuple[str, Stored], ...], dict[str, Stored]] = {}
        self._known: dict[tuple[int, AnyMethod], _Known] = {}

    def header(self, head: bytes | memoryview, size: int) -> Header:
        """As `fitting_header`; headers with equal tables share one."""
        found = fitting_header(self._base, head, size)
        return found._replace(tensors=self._tables.setdefault(tuple(found.tensors.items()), found.tensors))

    def judge(self, data: bytes | memoryview, version: int) -> Judged:
        """Judges a whole file from outside, the header before memory is taken for a tensor.

        Raises:
            BadAdapter
        """
        header = self.header(data, len(data))
        with noting(step="values"):
            resident = self.arrange(header, data, version, digest(data))
        return Judged(header, resident, check_seal(data, header))

    def arrange(self, header: Header, data: bytes | memoryview, version: int, content: str) -> Resident:
        """Arranges the tensors of a file that has passed with this header. Nothing of what comes out refers to `data`.

        Args:
            header: one of `self.header` is the quickest.
            content: the file's digest.

        Raises:
            BadAdapter: a tensor holds NaN or infinity.
        """
        manifest, payload = header.manifest, payload_of(data, header)
        known = self._known.get((id(header.tensors), manifest.method))
        made = known.cast(payload) if known is not None else None
        adaptation, head = made or self._arrange_anew(header, payload)  # which names what is not finite
        return Resident(
            manifest=manifest,
            version=version,
            digest=content,
            kind=kind_of(manifest),
            adaptation=adaptation,
            head=head,
            parameters=known.parameters if known is not None else header.parameters,
            bytes=adaptation.nbytes + sum(tensor.nbytes for tensor in head.values()),
        )

    def _arrange_anew(self, header: Header, payload: memoryview) -> tuple[AnyAdaptation, dict[str, Tensor]]:
        weights, dims, method = self._base.weights, self._base.dims, header.manifest.method
        head = read_tensors(payload, header._replace(length=0))
        tensors = {name: head.pop(name) for name in method.shapes(dims)}
        if weights.native is not None:
            return self._mould(header, payload, method.adapt(dims, tensors, dtype=None), head)
        own = {name: tensor.to(torch.float32, copy=True) for name, tensor in head.items()}
        if weights.slots is not None:
            return placed(weights, method.adapt(dims, tensors, dtype=None)), own
        kept = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}  # as training has it
        return method.adapt(dims, kept, weights.dtype), own

    def _mould(
        self, header: Header, payload: memoryview, adapted: Adaptation, head: Mapping[str, Tensor]
    ) -> tuple[NativeAdaptation, dict[str, Tensor]]:
        """Packs an adapter, and keeps how for the next one that is laid out alike."""
        weights = self._base.weights
        assert weights.native is not None
        mould = Mould(adapted, head, self._base.dims, weights.native.matrices, weights.native.blocks)
        adaptation, own, _ = mould.cast()
        address = _address(payload)
        shared = self._tables.get(tuple(header.tensors.items())) is header.tensors
        if shared and mould.reusable(address, len(payload)):
            self._known[id(header.tensors), header.manifest.method] = _Known(mould, address, header.parameters)
        return adaptation, own


def _address(payload: memoryview) -> int:
    return int(np.frombuffer(payload, dtype=np.uint8).ctypes.data) if payload else 0
