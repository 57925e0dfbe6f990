"""The program: each command does its work, and what goes wrong ends with a sentence and exit code 1."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import service
from service.adapters.file import digest, write_adapter
from service.api.app import create_app
from service.cli import main
from service.client import Client
from service.engine.base_model import BaseModel
from service.settings import Settings
from tests.adapters.forge import with_header, with_manifest
from tests.live import listening
from tests.tiny import make_adapter, make_manifest, make_tensors
from tests.training.toys import sentiment, write_csv


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[str]:
    """A service with two tasks."""
    settings = Settings(store=tmp_path_factory.mktemp("store"), threads=1)
    with listening(create_app(settings, tiny_base)) as url:
        with Client(url) as client:
            client.push("mood", make_adapter(tiny_base, labels=("a", "b", "c", "d", "e"), seed=1))
            client.push("same", make_adapter(tiny_base, kind="regression", pair=True, seed=2))
        yield url


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: BaseModel) -> Path:
    """A good file."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(make_adapter(tiny_base, task="toy", seed=3, description="A toy.", licence="CC0"))
    return path


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def run(*arguments: object, given: str | bytes | None = None, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=given, env=environment)


def output(*arguments: object, **options: Any) -> str:
    """What a command prints that must end well."""
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_sentence(result: Result, cause: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert re.match(rf"Error: .*{cause}.*\n\Z", result.stderr.splitlines(keepends=True)[-1]), result.stderr
    assert "Traceback" not in result.output


def test_the_program_names_its_version_and_its_commands() -> None:
    assert output("--version") == f"rootstock, version {service.__version__}\n"
    for command in ("serve", "push", "predict", "tasks", "inspect", "train"):
        assert command in output("--help")
        assert "Usage: main " + command in output(command, "-h")


def test_inspect_shows_what_a_file_says_of_itself(adapter: Path) -> None:
    shown = dict(line.split(maxsplit=1) for line in output("inspect", adapter).splitlines())
    assert shown["task"] == "toy (classification, text)"
    assert shown["description"] == "A toy."
    assert shown["labels"] == "negative, positive"
    assert shown["licence"] == "CC0"
    assert shown["method"].startswith("name=houlsby bottleneck=4 ")
    assert shown["trained"].startswith("accuracy 0.5000 on validation; 100 rows")
    assert shown["file"].endswith(f"sha256 {digest(adapter.read_bytes())}")


def test_inspect_prints_the_whole_manifest_as_json(adapter: Path, tiny_base: BaseModel) -> None:
    manifest = json.loads(output("inspect", adapter, "--json"))
    assert manifest["base"] == tiny_base.identity.model_dump()
    assert manifest["labels"] == ["negative", "positive"]


def test_inspect_tells_what_is_wrong_with_a_file(tmp_path: Path, tiny_base: BaseModel, adapter: Path) -> None:
    whole, manifest = adapter.read_bytes(), make_manifest(tiny_base)
    tensors = make_tensors(tiny_base, manifest)
    some = {name: tensor for name, tensor in tensors.items() if name != "head.bias"}
    huge = tiny_base.identity.model_dump() | {"layers": 10**15}
    damaged = {
        "it is cut short": whole[:-1],
        "too few for a safetensors header": b"",
        "header is not JSON": with_header(b"\x80\x04"),
        "manifest: kind": with_manifest(whole, kind="singing"),
        r"tensor head\.bias \[2\] is missing": write_adapter(manifest, some),
        r"tensor head\.bias holds values that are not finite": write_adapter(
            manifest, tensors | {"head.bias": torch.tensor([0, torch.nan])}
        ),
        "base.layers is 1000000000000000": with_manifest(whole, base=huge),
    }
    path = tmp_path / "damaged.safetensors"
    for cause, data in damaged.items():
        path.write_bytes(data)
        assert_sentence(run("inspect", path), cause)
        assert_sentence(run("inspect", path, "--json"), cause)


def test_predict_prints_one_answer_a_line(url: str) -> None:
    lines = output("predict", "mood", "good film", "bad film", "--url", url).splitlines()
    with Client(url) as client:
        expected = client.predict("mood", ["good film", "bad film"], top_k=3)
    assert [json.loads(line)["label"] for line in lines] == [prediction["label"] for prediction in expected]
    assert [len(json.loads(line)["scores"]) for line in lines] == [3, 3]


def test_predict_reads_the_lines_of_standard_input(url: str) -> None:
    given = "good film\n\n  \nbad film\n"
    assert output("predict", "mood", "--url", url, given=given) == output(
        "predict", "mood", "good film", "bad film", "--url", url
    )


def test_predict_takes_a_second_text_and_a_number_of_labels(url: str) -> None:
    assert set(json.loads(output("predict", "same", "good film", "--pair", "bad film", "--url", url))) == {"value"}
    assert len(json.loads(output("predict", "mood", "good film", "--top-k", 1, "--url", url))["scores"]) == 1


def test_predict_wants_a_text(url: str) -> None:
    result = run("predict", "mood", "--url", url, given="\n")
    assert (result.exit_code, "no text given" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("predict", "nope", "good"), "there is no task 'nope'"),
        (("predict", "mood", ""), r"inputs\[0\]: text is empty"),
        (("predict", "same", "good"), "compares two texts"),
        (("predict", "mood", "good", "--pair", "bad"), "reads one text"),
        (("predict", "mood", "\ud800"), "cannot be sent as JSON"),
    ],
)
def test_what_cannot_be_answered_ends_with_a_sentence(url: str, arguments: tuple[str, ...], cause: str) -> None:
    assert_sentence(run(*arguments, "--url", url), cause)


def test_input_that_is_not_utf8_ends_with_a_sentence(url: str) -> None:
    assert_sentence(run("predict", "mood", "--url", url, given=b"good \xff film\n"), "standard input is not UTF-8")


def test_tasks_lists_what_is_served(url: str) -> None:
    lines = {line.split()[0]: line.split() for line in output("tasks", "--url", url).splitlines()}
    assert lines["mood"] == ["mood", "v1", "classification", "text", "5", "labels", "accuracy", "0.500"]
    assert lines["same"] == ["same", "v1", "regression", "pair", "accuracy", "0.500"]
    assert lines["embedding"] == ["embedding", "v0", "embedding", "text"]


def test_push_serves_a_file_under_its_own_name_or_another(url: str, adapter: Path) -> None:
    assert output("push", adapter, "--url", url) == "toy version 1 is active\n"
    assert output("push", adapter, "--url", url) == "toy version 1 is active\n"
    assert output("push", adapter, "--task", "other", "--url", url) == "other version 1 is active\n"
    assert output("push", adapter, "--task", "third", "--no-activate", "--url", url) == "third version 1 is inactive\n"


def test_push_tells_why_a_file_is_refused(url: str, adapter: Path) -> None:
    assert_sentence(run("push", adapter, "--task", "embedding", "--url", url), "answered by the bare base")
    assert_sentence(run("push", adapter, "--task", "No Name", "--url", url), "is no task name")
    adapter.write_bytes(adapter.read_bytes()[:-1])
    assert_sentence(run("push", adapter, "--url", url), "cut short")
    assert_sentence(run("push", adapter, "--task", "toy", "--url", url), "cut short")


def test_the_services_address_may_come_from_the_environment(url: str) -> None:
    assert "mood" in output("tasks", ROOTSTOCK_URL=url)


@pytest.mark.parametrize("command", [("tasks",), ("predict", "mood", "good")])
def test_a_service_that_is_not_there_ends_with_a_sentence(command: tuple[str, ...]) -> None:
    assert_sentence(run(*command, "--url", "http://127.0.0.1:1"), "no answer from http://127.0.0.1:1: ")
    assert_sentence(run(*command, "--url", "http://[::1"), "is no address")


@pytest.mark.parametrize("command", ["inspect", "push", "train"])
def test_a_file_that_is_not_there_is_a_wrong_call(command: str, tmp_path: Path) -> None:
    result = run(command, tmp_path / "none", *(["--task", "x"] if command == "train" else []))
    assert result.exit_code == 2
    assert "does not exist" in result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "training.csv", sentiment(120, 1))


def train(tiny_folder: Path, data: Path, *options: object) -> Result:
    common = ("--base-model", tiny_folder, "--dtype", "float32", "--max-length", 32, "--bottleneck", 8)
    return run("train", data, *common, "--epochs", 3, "--learning-rate", "0.01", "--batch-size", 16, *options)


def test_a_trained_file_can_be_inspected_pushed_and_asked(
    tmp_path: Path, tiny_folder: Path, data: Path, url: str
) -> None:
    golden, out, report = tmp_path / "golden.jsonl", tmp_path / "new" / "out", tmp_path / "reports" / "mood.json"
    golden.write_text('{"text": "good great love"}\n{"text": "a\u2028bad film"}\n', encoding="utf-8")
    test = write_csv(tmp_path / "test.csv", sentiment(40, 2))
    facts = ("--source", "toys", "--description", "What one feels.", "--licence", "CC0")
    result = train(
        tiny_folder,
        data,
        "--task",
        "feeling",
        "--golden",
        golden,
        "--test",
        test,
        "--out",
        out,
        *facts,
        "--report",
        report,
    )
    assert result.exit_code == 0, result.output
    file = out / "feeling-1.safetensors"
    assert f"serve it with: rootstock push {file}" in result.stdout
    assert "epoch 3: loss" in result.stderr
    assert json.loads(report.read_text())["digest"] == digest(file.read_bytes())

    shown = output("inspect", file)
    for fact in ("toys", "What one feels.", "CC0", "32 tokens", "bottleneck=8", "on test; 108 rows"):
        assert fact in shown
    manifest = json.loads(output("inspect", file, "--json"))
    assert [golden["input"]["text"] for golden in manifest["golden"]] == ["good great love", "a\u2028bad film"]

    assert output("push", file, "--url", url) == "feeling version 1 is active\n"
    answers = output("predict", "feeling", "good great love", "bad awful hate", "--url", url).splitlines()
    assert [json.loads(answer)["label"] for answer in answers] == ["positive", "negative"]


def test_fine_tuning_leaves_a_report_and_no_file(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    report = tmp_path / "report.json"
    result = train(
        tiny_folder, data, "--task", "mood", "--method", "full", "--epochs", 1, "--out", tmp_path, "--report", report
    )
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["method"] == "full"
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--task", "No Name"), "task: String should match pattern"),
        (("--task", "x", "--source", "s" * 3000), "source: String should have at most 2000"),
        (("--task", "x", "--label", "mood"), "training.csv.*mood"),
        (("--task", "x", "--base-model", "/none"), "base model /none: there is no such folder"),
    ],
)
def test_what_cannot_be_trained_ends_with_a_sentence(
    tmp_path: Path, tiny_folder: Path, data: Path, options: tuple[str, ...], cause: str
) -> None:
    assert_sentence(train(tiny_folder, data, *options, "--out", tmp_path), cause)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"text": "x"}\nno json\n', ":2: Invalid JSON"),
        (b"\xff\n", ":1: Invalid JSON"),
        (b"{}\n", ":1: Field required"),
    ],
)
def test_golden_examples_that_cannot_be_read_are_named_by_their_line(
    tmp_path: Path, tiny_folder: Path, data: Path, content: bytes, cause: str
) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_bytes(content)
    assert_sentence(train(tiny_folder, data, "--task", "x", "--golden", golden), re.escape(f"{golden}{cause}"))


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_folder_that_cannot_be_made_is_known_before_the_training(
    tmp_path: Path, tiny_folder: Path, data: Path, option: str
) -> None:
    result = train(tiny_folder, data, "--task", "x", "--out", tmp_path, option, data / "folder" / "file")
    assert_sentence(result, f"{data}.*: Not a directory")
    assert "epoch" not in result.output


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--port", "99999"), "port: Input should be less than or equal to 65535"),
        (("--base-model", "/none"), "base model /none: there is no such folder"),
    ],
)
def test_a_service_that_cannot_start_ends_with_a_sentence(options: tuple[str, ...], cause: str) -> None:
    assert_sentence(run("serve", *options), cause)


def test_a_store_that_is_no_folder_ends_with_a_sentence(tiny_folder: Path, data: Path) -> None:
    assert_sentence(run("serve", "--base-model", tiny_folder, "--store", data), f"store {data}: ")
