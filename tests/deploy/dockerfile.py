"""A Dockerfile's steps, taken in a folder of this machine, for want of an engine that builds images.

The absolute paths that it writes to are led into the folder; packages of the system and its users are left out.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROOTS = "/venv", "/build", "/srv"  # what the Dockerfile writes to
LEFT_OUT = "apt-get", "useradd"


class Image:
    """What the last stage of the Dockerfile leaves."""

    def __init__(self, folder: Path, python: str, user: int | None) -> None:
        """
        Args:
            python: stands for the base image's.
            user: number of the one that owns what `rootstock` shall own; None: the one that runs this.
        """
        self.folder, self._python, self._user = folder, python, user
        self.environment: dict[str, str] = {}
        self.command: Sequence[str] = ()
        self.health: Sequence[str] = ()
        self.user = ""
        self.work = folder
        for instruction, rest in instructions():
            getattr(self, f"_take_{instruction.lower()}")(rest)

    def led(self, text: str) -> str:
        """The text with the image's paths led into the folder."""
        return re.sub(rf"(?<![\w.])({'|'.join(ROOTS)})\b", lambda found: f"{self.folder}{found[0]}", text)

    def _take_from(self, rest: str) -> None:
        self.environment = {"PATH": os.environ["PATH"]}

    def _take_arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.environment[name] = os.environ.get(name, value.strip('"'))

    def _take_env(self, rest: str) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", rest):
            self.environment[name] = self.led(value).replace("$PATH", self.environment["PATH"])

    def _take_workdir(self, rest: str) -> None:
        self.work = Path(self.led(rest))
        self.work.mkdir(parents=True, exist_ok=True)

    def _take_copy(self, rest: str) -> None:
        options = re.findall(r"--\S+", rest)
        *sources, target = re.sub(r"--\S+\s+", "", rest).split()
        if any(option.startswith("--from") for option in options):
            return  # both stages are the same folder
        for source in sources:
            copied = self.work / target / ("" if target == source else source)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, copied, ignore=shutil.ignore_patterns("__pycache__", "*.so", ".lock"))
            else:
                shutil.copy(ROOT / source, copied)
            if any(option.startswith("--chown") for option in options) and self._user is not None:
                self._own(copied)

    def _own(self, path: Path) -> None:
        assert self._user is not None
        for each in (path, *path.rglob("*")):
            os.chown(each, self._user, self._user)

    def _take_run(self, rest: str) -> None:
        if rest.startswith(LEFT_OUT):
            return
        command = self.led(rest)
        command = re.sub(r"\bpip --python\b", f"{sys.executable} -m pip --python", command)
        command = re.sub(r"^python -m venv", f"{self._python} -m venv", command)
        owner = str(os.getuid() if self._user is None else self._user)
        command = command.replace("--owner=rootstock", f"--owner={owner}").replace("chown rootstock", f"chown {owner}")
        subprocess.run(["sh", "-euc", command], cwd=self.work, env=os.environ | self.environment, check=True)

    def _take_user(self, rest: str) -> None:
        self.user = rest

    def _take_cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _take_healthcheck(self, rest: str) -> None:
        self.health = json.loads(rest[rest.index("[") :])

    def _take_label(self, rest: str) -> None:
        pass

    _take_expose = _take_label


def instructions() -> Iterator[tuple[str, str]]:
    """Each instruction and what stands behind it, on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()
