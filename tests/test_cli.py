"""The program: each command does its work, and what goes wrong ends with a sentence and exit code 1."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import service
from service.adapters.file import digest, write_adapter
from service.adapters.manifest import KindName
from service.api.app import create_app
from service.cli import main
from service.client import Client
from service.engine.base_model import BaseModel
from service.settings import Settings
from service.tasks import KINDS
from service.training.trainer import Progress
from tests.adapters.forge import with_header, with_manifest
from tests.live import listening
from tests.tiny import make_adapter, make_manifest, make_tensors
from tests.training.toys import TOYS, as_row, sentiment, write_csv, write_jsonl


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel) -> Iterator[str]:
    """A service with three tasks."""
    settings = Settings(store=tmp_path_factory.mktemp("store"), threads=1)
    with listening(create_app(settings, tiny_base)) as url:
        with Client(url) as client:
            client.push("mood", make_adapter(tiny_base, labels=("a", "b", "c", "d", "e"), seed=1))
            client.push("same", make_adapter(tiny_base, kind="regression", pair=True, seed=2))
            client.push("where", make_adapter(tiny_base, kind="answer", seed=4))
        yield url


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: BaseModel) -> Path:
    """A good file."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(make_adapter(tiny_base, task="toy", seed=3, description="A toy.", licence="CC0"))
    return path


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.measure.RESAMPLES", 50)


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
    for command in ("serve", "push", "predict", "tasks", "release", "inspect", "train", "evaluate", "import", "export"):
        assert command in output("--help")
        assert "Usage: main " + command in output(command, "-h")


def test_inspect_shows_what_a_file_says_of_itself(adapter: Path) -> None:
    shown = dict(line.split(maxsplit=1) for line in output("inspect", adapter).splitlines())
    assert shown["task"] == "toy (classification, text)"
    assert shown["description"] == "A toy."
    assert shown["labels"] == "negative, positive"
    assert shown["licence"] == "CC0"
    assert shown["method"].startswith("houlsby norms=True bottleneck=4 ")
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
        "base.layers: Input should be less than or equal to 1000": with_manifest(whole, base=huge),
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


def test_predict_takes_the_passage_that_answers(url: str) -> None:
    context = "the cat is in the place"
    lines = output("predict", "where", "the cat", "a dog", "--context", context, "--url", url).splitlines()
    for line in lines:
        found = json.loads(line)
        assert found["answer"] == context[found["start"] : found["end"]] != ""
    assert len(lines) == 2


def test_predict_takes_a_second_text_or_a_passage_and_not_both(url: str) -> None:
    result = run("predict", "where", "the cat", "--context", "a dog", "--pair", "a dog", "--url", url)
    assert (result.exit_code, "--pair and --context exclude each other" in result.output) == (2, True)


def test_predict_wants_a_text(url: str) -> None:
    result = run("predict", "mood", "--url", url, given="\n")
    assert (result.exit_code, "no text given" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("predict", "nope", "good"), "there is no task 'nope'"),
        (("predict", "mood", ""), r"inputs\[0\]: text is empty"),
        (("predict", "same", "good"), "reads {text, text_pair}; a text was sent"),
        (("predict", "mood", "good", "--pair", "bad"), "reads a text"),
        (("predict", "mood", "good", "--context", "bad"), "reads a text; {question, context} was sent"),
        (("predict", "where", "good", "--pair", "bad"), "reads {question, context}; {text, text_pair} was sent"),
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


def test_a_release_goes_from_the_shadow_to_its_end(url: str, tmp_path: Path, tiny_base: BaseModel) -> None:
    for seed in (1, 2):
        (tmp_path / f"{seed}.safetensors").write_bytes(make_adapter(tiny_base, seed=seed))
    place = ("--url", url)
    output("push", tmp_path / "1.safetensors", "--task", "new", *place)
    output("push", tmp_path / "2.safetensors", "--task", "new", "--no-activate", *place)
    assert_sentence(run("release", "status", "new", *place), "new has no candidate: version 1 answers all")
    assert_sentence(run("release", "share", "new", "0.1", *place), "new has no candidate")
    said = output("release", "shadow", "new", "2", *place)
    assert said == "new version 1 answers all requests, version 2 shadows 100% of them\n"
    assert "agreement unknown of 0 inputs" in output("release", "status", "new", *place)
    said = output("release", "share", "new", "0.25", *place)
    assert said == "new version 2 answers 25% of the requests, version 1 the rest\n"
    said = output("release", "share", "new", "1", "--version", "2", *place)
    assert said == "new version 2 answers 100% of the requests, version 1 the rest\n"
    with Client(url) as client:
        for key in ("", "--sticky-key=me"):
            answer = output("predict", "new", "good film", *filter(None, [key]), *place)
            assert json.loads(answer) == client.predict("new", "good film", version=2)[0]
        give_up = monotonic() + 30
        while (seen := client.versions("new")["candidate"]) and seen["compared"] < 2:
            assert monotonic() < give_up
    lines = output("release", "status", "new", *place).splitlines()
    assert re.search(r"agreement \d+\.\d+% of 2 inputs compared; 0 failed, 0 dropped", lines[1])
    assert re.fullmatch(r"version 1 +active +2 requests +0 failed +p50 \d+\.\d ms +p95 \d+\.\d ms", lines[2])
    assert re.match(r"version 2 +candidate +2 requests", lines[3])
    assert output("release", "promote", "new", *place) == "new version 2 is active\n"
    output("release", "shadow", "new", "1", "--share", "0.5", *place)
    assert output("release", "abandon", "new", *place) == "new has no candidate any more\n"
    assert_sentence(run("release", "abandon", "new", *place), "new has no candidate")


def test_predict_asks_a_version_that_is_named(url: str) -> None:
    assert_sentence(run("predict", "mood", "good", "--version", "99", "--url", url), "no version 99")


def test_the_services_address_may_come_from_the_environment(url: str) -> None:
    assert "mood" in output("tasks", ROOTSTOCK_URL=url)


@pytest.mark.parametrize("command", [("tasks",), ("predict", "mood", "good")])
def test_a_service_that_is_not_there_ends_with_a_sentence(command: tuple[str, ...]) -> None:
    assert_sentence(run(*command, "--url", "http://127.0.0.1:1"), "no answer from http://127.0.0.1:1: ")
    assert_sentence(run(*command, "--url", "http://[::1"), "is no address")


@pytest.mark.parametrize("command", ["inspect", "push", "train", "evaluate"])
def test_a_file_that_is_not_there_is_a_wrong_call(command: str, tmp_path: Path) -> None:
    none = tmp_path / "none"
    result = run(command, *{"train": (none, "--task", "x"), "evaluate": ("mood", none)}.get(command, (none,)))
    assert result.exit_code == 2
    assert "does not exist" in result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "training.csv", sentiment(120, 1))


def train(tiny_folder: Path, data: Path, *options: object) -> Result:
    common = ("--base-model", tiny_folder, "--threads", 1, "--dtype", "float32", "--max-length", 32)
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
        "--bottleneck",
        8,
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


@pytest.mark.parametrize("kind", TOYS)
def test_every_kind_is_trained_measured_and_served_from_files(
    tmp_path: Path, tiny_folder: Path, url: str, kind: KindName
) -> None:
    training, test = (write_jsonl(tmp_path / f"{n}.jsonl", kind, TOYS[kind](n, n)) for n in (100, 30))
    named = ("--kind", kind) if kind == "regression" else ()
    options = ("--task", f"{kind}-toy", "--method", "lora", "--rank", 4, "--norms", "--test", test, "--out", tmp_path)
    result = train(tiny_folder, training, *named, *options)
    assert result.exit_code == 0, result.output
    aside = 10
    assert f"{kind}: {100 - aside} rows to train on, {aside} to validate on\n" in result.stderr
    metric = KINDS[kind].metrics[0]
    figures = r"[-0-9.]+ \([-0-9.]+ to [-0-9.]+\) on {} rows"
    lines = result.stdout.splitlines()
    assert re.match(rf"validation \(epoch [123]\): {metric} {figures.format(aside)}", lines[0])
    assert re.match(rf"test: {metric} {figures.format(30)}", lines[1])
    assert ("calibration error" in lines[1]) == (kind == "classification")
    assert re.match(r"trained [0-9,]+ parameters, [0-9.]+% of the base", lines[2])
    assert lines[3] == f"wrote {tmp_path / f'{kind}-toy-report.html'}"
    file = tmp_path / f"{kind}-toy-1.safetensors"
    assert re.match(rf"wrote {file} \([0-9.]+ MB\); serve it with: rootstock push {file}", lines[4])
    assert (tmp_path / f"{kind}-toy-report.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob("*.checkpoint"))

    here = output("evaluate", file, test, "--base-model", tiny_folder, "--threads", 1)
    assert here.splitlines()[0] == lines[1].removeprefix("test: ")
    output("push", file, "--url", url)
    assert output("evaluate", f"{kind}-toy", test, "--url", url) == here
    [facts] = [json.loads(output("evaluate", f"{kind}-toy", test, "--json", "--url", url))]
    assert (facts["metric"], facts["rows"]) == (metric, 30)
    assert f"{metric} {facts['value']:.4f}" in here
    assert len(here.splitlines()) == 1 + len(facts["by_label"])
    for label, counts in facts["by_label"].items():
        assert re.search(rf"  {label} +{counts['hits'] + counts['missed']:.0f} rows  precision [0-9.]+ ", here)

    row = as_row(kind, TOYS[kind](2, 5)[1])
    passage = ("--context", row["context"]) if kind == "answer" else ()
    answer = output("predict", f"{kind}-toy", row.get("text") or row["question"], *passage, "--url", url)
    parts = {"classification": "label", "multilabel": "labels", "regression": "value", "tagging": "entities"}
    assert parts.get(kind, "answer") in json.loads(answer)


def test_a_kind_that_is_named_is_not_guessed(tmp_path: Path, tiny_folder: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"cat {n},{('pets', 'pets|rain', 'rain')[n % 3]}\n" for n in range(30)))
    options = ("--task", "x", "--method", "head", "--epochs", 1, "--out", tmp_path)
    assert "classification: 27 rows" in train(tiny_folder, data, *options).stderr
    assert "multilabel: 27 rows" in train(tiny_folder, data, *options, "--kind", "multilabel").stderr
    assert json.loads(output("inspect", tmp_path / "x-1.safetensors", "--json"))["labels"] == ["pets", "rain"]


def test_a_training_that_was_cut_is_resumed(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--task", "x", "--out", tmp_path, "--bottleneck", 4)
    assert train(tiny_folder, data, *options).exit_code == 0
    whole = (tmp_path / "x-1.safetensors").read_bytes()

    def cut(bar: object, run: int, runs: int, progress: Progress) -> None:
        if progress.epoch == 2 and progress.value is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("service.cli.training.Bar.show", cut)
        assert train(tiny_folder, data, *options).exit_code == 130
    assert list(tmp_path.glob("*.checkpoint"))
    assert_sentence(train(tiny_folder, data, *options, "--resume", "--bottleneck", 5), "is of another training")
    (tmp_path / "x-1.safetensors").unlink()
    result = train(tiny_folder, data, *options, "--resume")
    assert [line.split(":")[0] for line in result.stderr.splitlines() if "loss" in line] == ["epoch 3"]
    assert (tmp_path / "x-1.safetensors").read_bytes() == whole
    assert not list(tmp_path.glob("*.checkpoint"))


def test_several_runs_are_told_apart(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    report = tmp_path / "report.json"
    options = ("--task", "x", "--method", "head", "--epochs", 2, "--seed", 1, "--seed", 2, "--patience", 1)
    result = train(tiny_folder, data, *options, "--out", tmp_path, "--report", report)
    assert "run 1 of 2, epoch 1: loss" in result.stderr
    assert "run 2 of 2, epoch 2: loss" in result.stderr
    assert [one["seed"] for one in json.loads(report.read_text())["tried"]] == [1, 2]


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("houlsby", ("--rank", 4), "--rank"),
        ("lora", ("--bottleneck", 4), "--bottleneck"),
        ("lora", ("--activation", "relu", "--init-scale", "0.1"), "--activation, --init-scale"),
        ("prefix", ("--layer", 1), "--layer"),
        ("head", ("--length", 4), "--length"),
        ("pfeiffer", ("--target", "query"), "--target"),
        ("full", ("--norms",), "--norms"),
        ("full", ("--layer", 1), "--layer"),
    ],
)
def test_an_option_that_a_method_does_not_have_is_a_wrong_call(
    tiny_folder: Path, data: Path, method: str, options: tuple[object, ...], named: str
) -> None:
    result = train(tiny_folder, data, "--task", "x", "--method", method, *options)
    assert result.exit_code == 2
    assert f"method {method} has no {named}\n" in result.output


def test_the_methods_options_reach_the_file(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    options = ("--method", "parallel", "--bottleneck", 3, "--activation", "relu", "--layer", 1, "--no-norms")
    result = train(tiny_folder, data, "--task", "x", *options, "--epochs", 1, "--pooling", "first", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    manifest = json.loads(output("inspect", tmp_path / "x-1.safetensors", "--json"))
    assert manifest["head"]["pooling"] == "first"
    assert manifest["method"] == {
        "name": "parallel", "layers": [1], "norms": False, "bottleneck": 3, "activation": "relu", "init_scale": 0.001,
    }  # fmt: skip


def test_what_cannot_be_measured_ends_with_a_sentence(
    tmp_path: Path, tiny_folder: Path, adapter: Path, url: str
) -> None:
    data = write_csv(tmp_path / "data.csv", sentiment(4))
    here = ("--base-model", tiny_folder)
    assert_sentence(run("evaluate", adapter, data, *here, "--metric", "f1"), "not measured by f1")
    assert_sentence(run("evaluate", adapter, data, *here, "--label", "mood"), "no column mood; found text, label")
    assert_sentence(run("evaluate", "mood", data, "--url", url), "data.csv:2: 'positive' is not one of the labels a, b")
    assert_sentence(run("evaluate", "same", data, "--url", url), "data.csv:2: the task reads two texts")
    assert_sentence(run("evaluate", "nope", data, "--url", url), "there is no task 'nope'")
    assert_sentence(run("evaluate", "embedding", data, "--url", url), "embedding")
    assert_sentence(run("evaluate", "mood", data, "--url", "http://127.0.0.1:1"), "no answer from")
    result = run("evaluate", tmp_path / "none.safetensors", data, "--url", url)
    assert (result.exit_code, "there is no file" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--task", "No Name"), "'No Name' is no task name: small letters, digits"),
        (("--task", "x", "--source", "s" * 3000), "source: String should have at most 2000"),
        (("--task", "x", "--label", "mood"), "training.csv.*mood"),
        (("--task", "x", "--base-model", "/none"), "base model /none: there is no such folder"),
        (("--task", "x", "--layer", "2"), r"method.layers names \[2\], but the base has layers 0 to 1"),
        (("--task", "x", "--metric", "f1"), "classification is not measured by f1; choose one of accuracy"),
        (("--task", "x", "--kind", "regression"), "regression needs numbers"),
        (("--task", "x", "--kind", "tagging"), r"training.csv:2: \d words, but 1 tags"),
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
