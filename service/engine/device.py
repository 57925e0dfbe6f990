"""Where the engine runs, and how tensors get there without stopping what runs there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


def device_of(asked: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here.

    Raises:
        ValueError: it is not here, or nothing that the engine knows; says why.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {asked} is not known; choose one of auto, cpu, cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds none here (is it torch's CUDA build?)")
    return torch.device("cuda") if asked != "cpu" and torch.cuda.is_available() else CPU


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. Nothing waits for it: what is called on it later comes after it there."""
    return tensor.to(device) if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Upload:
    """Copies to a device from any thread, beside what the engine's thread has under way there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def fill(self, target: Tensor, source: Tensor) -> None:
        """Returns when all is there; `source` is on the host or on the device."""
        with self._beside():
            staged = source.pin_memory() if self._stream is not None and not source.is_cuda else source
            target.copy_(staged, non_blocking=True)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        # The target's memory may have been another tensor's, which a batch that was begun before still reads.
        self._stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()
