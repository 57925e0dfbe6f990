"""The log in its two forms."""

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from service import logs
from service.client import NEVER, Client
from service.errors import RootstockError

PATIENCE = 120.0  # seconds; only a failing test waits so long


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    return logging.getLogger("service.some").makeRecord(
        "service.some", level, "file.py", 1, message, (), None, extra=fields
    )


def test_text_is_the_message_and_its_fields() -> None:
    assert logs.formatter("text").format(record("answered", status=200, task="mood")) == (
        "INFO service.some: answered status=200 task=mood"
    )
    assert logs.formatter("text").format(record("ready")) == "INFO service.some: ready"


def test_the_servers_coloured_messages_are_left_out() -> None:
    coloured = record("listening", color_message="\x1b[1mlistening")
    assert logs.formatter("text").format(coloured) == "INFO service.some: listening"
    assert "color_message" not in json.loads(logs.formatter("json").format(coloured))


def test_json_is_an_object_a_line() -> None:
    line = logs.formatter("json").format(record("two\nlines “quoted”", logging.ERROR, status=500))
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "ERROR", "logger": "service.some", "message": "two\nlines “quoted”", "status": 500}


def test_json_holds_the_stack_of_an_error() -> None:
    failed = record("failed")
    try:
        raise RuntimeError("why")
    except RuntimeError:
        failed.exc_info = sys.exc_info()
    assert "RuntimeError: why" in json.loads(logs.formatter("json").format(failed))["exc_info"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_everything_is_written_to_standard_error(form: logs.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.set_up(form)
        logging.getLogger("uvicorn.error").info("listening")
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.startswith("{") for line in err.splitlines()] == [form == "json"]
    assert "listening" in err


def test_every_line_of_a_service_is_json_from_its_start_to_its_end(tmp_path: Path, tiny_folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "service.cli", "serve", "--port", url.rpartition(":")[2], "--log-format", "json"]
    command += ["--store", str(tmp_path), "--base-model", str(tiny_folder), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with Client(url, retry=NEVER) as client:
                give_up = monotonic() + PATIENCE
                while True:
                    try:
                        client.predict("embedding", "good film")
                        break
                    except RootstockError:
                        assert process.poll() is None
                        assert monotonic() < give_up
                        sleep(0.2)
            process.terminate()
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (out, process.returncode) == ("", 0)
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"service.api.services", "service.api.journal", "uvicorn.error"} <= {line["logger"] for line in lines}
    assert [line["status"] for line in lines if line.get("path") == "/predict/embedding"][-1:] == [200]
