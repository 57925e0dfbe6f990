"""The program `rootstock` on a disk that does what a file says, which a test writes while it runs.

    python -m tests.troubled_disk FILE serve …

The file holds a step of `tests.registry.disks.STEPS` or `all`, and what becomes of it: the name of an error, or
`hangs`. A step that hangs leaves a file with the suffix `.hangs` beside it, and goes on when the plan is gone.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

from service.cli import main
from tests.registry.disks import STEPS

PAUSE = 0.01  # seconds


class Disk:
    def __init__(self, plan: Path) -> None:
        self._plan = plan

    def step(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def planned(*args: Any, **kwargs: Any) -> Any:
            fate = self._fate(name)
            if fate == "hangs":
                self._plan.with_suffix(".hangs").write_bytes(b"")
                while self._plan.exists():
                    sleep(PAUSE)
            elif fate and not (name == "open" and args[1] == os.O_RDONLY):
                number = getattr(errno, fate)
                raise OSError(number, os.strerror(number))
            return work(*args, **kwargs)

        return planned

    def _fate(self, name: str) -> str:
        try:
            step, fate = self._plan.read_text().split()
        except FileNotFoundError:
            return ""
        return fate if step in (name, "all") else ""


if __name__ == "__main__":
    disk = Disk(Path(sys.argv.pop(1)))
    for name in STEPS:
        setattr(os, name, disk.step(name, getattr(os, name)))
    main()
