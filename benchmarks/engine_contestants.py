"""Who runs in `benchmarks/engine.py`: each a process of its own, the peers in environments of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
# By name, what pip installs; made at the first run.
ENVIRONMENTS = {
    "adapters": ["torch==2.13.0", "adapters==1.3.0", "accelerate"],
    "latefuse": ["torch==2.13.0", "transformers==4.57.6", "latefuse==0.1.0"],
    "peft": ["torch==2.13.0", "transformers==5.23.0", "peft==0.21.2"],
    "runtimes": [
        "torch==2.13.0", "transformers==5.23.0", "onnx==1.23.2", "onnxscript==0.7.2", "onnxruntime==1.32.0",
        "openvino==2026.4.1",
    ],
}  # fmt: skip
BFLOAT16 = ("bfloat16", "bf16")  # as an argument


class Contestant(NamedTuple):
    script: str
    argument: str
    environment: str | None = None  # None: ours


CONTESTANTS = {
    "rootstock float32": Contestant("engine_ours.py", "float32"),
    "rootstock bfloat16": Contestant("engine_ours.py", "bfloat16"),
    "rootstock int8": Contestant("engine_ours.py", "int8"),
    "rootstock int16": Contestant("engine_ours.py", "int16"),
    "transformers float32": Contestant("peers/bare_transformers.py", "float32", "runtimes"),
    "transformers bfloat16": Contestant("peers/bare_transformers.py", "bfloat16", "runtimes"),
    "ONNX Runtime float32": Contestant("peers/bare_onnxruntime.py", "float32", "runtimes"),
    "ONNX Runtime int8": Contestant("peers/bare_onnxruntime.py", "int8", "runtimes"),
    "OpenVINO float32": Contestant("peers/bare_openvino.py", "f32", "runtimes"),
    "OpenVINO bfloat16": Contestant("peers/bare_openvino.py", "bf16", "runtimes"),
    "adapters float32": Contestant("peers/mixed_adapters.py", "float32", "adapters"),
    "adapters bfloat16": Contestant("peers/mixed_adapters.py", "bfloat16", "adapters"),
    "peft float32": Contestant("peers/mixed_peft.py", "float32", "peft"),
    "peft bfloat16": Contestant("peers/mixed_peft.py", "bfloat16", "peft"),
    "latefuse float32": Contestant("peers/mixed_latefuse.py", "float32", "latefuse"),
    "latefuse bfloat16": Contestant("peers/mixed_latefuse.py", "bfloat16", "latefuse"),
}


class Failed(Exception):
    """A contestant could not do what it was asked to; says why."""


class Running:
    """A contestant's process, which waits on its stdin whenever it has nothing to do."""

    def __init__(self, name: str, peers: Path, settings: Mapping[str, Any]) -> None:
        """Starts it; `loaded` waits until it is ready."""
        contestant = CONTESTANTS[name]
        python = environment(contestant.environment, peers) if contestant.environment else Path(sys.executable)
        log = peers / "logs" / f"{name}.txt"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), str(HERE / contestant.script), contestant.argument],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        with suppress(Failed):  # `loaded` says so
            self._send(settings)

    def loaded(self) -> dict[str, Any]:
        return self._receive()

    def ask(self, way: str, workload: str, batches: int | None = None, vectors: bool = False) -> dict[str, Any]:
        """Runs the workload, or its first batches, and says how long each batch took."""
        self._send({"way": way, "workload": workload, "batches": batches, "vectors": vectors})
        return self._receive()

    def end(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _send(self, asked: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("its process has ended") from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Failed("its process has ended")
        found: dict[str, Any] = json.loads(line)
        if "failed" in found:
            raise Failed(found["failed"])
        return found


def environment(name: str, peers: Path) -> Path:
    """The Python of a peers' environment, made if need be."""
    python = peers / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(peers / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
    return python


def exported(base: str, peers: Path) -> Path:
    """The folder with the base as ONNX, written if need be."""
    folder = peers / "exported"
    if not (folder / "int8.onnx").exists():
        script = HERE / "peers" / "export_base.py"
        command = [str(environment("runtimes", peers)), str(script), base, str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder
