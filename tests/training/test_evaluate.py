"""A file on this machine and the same file in a service are measured alike, by answers alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from service.adapters.manifest import KindName, TokenizerSettings
from service.api.app import create_app
from service.cli.training import served
from service.client import Client
from service.engine.arranging import load_resident
from service.engine.bank import bare_resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadData
from service.settings import Settings
from service.tasks import Floats, Given, Span
from service.training.columns import Columns
from service.training.data import Example
from service.training.evaluate import Asked, asking, evaluate
from service.training.measure import Measured
from tests.live import listening
from tests.tiny import make_adapter, make_manifest
from tests.training.conftest import Run
from tests.training.toys import TOYS, sentiment, write_csv, write_jsonl

every_kind = pytest.mark.parametrize("kind", TOYS)


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: BaseModel, runs: Mapping[KindName, Run]
) -> Iterator[Client]:
    """Of a service that serves the trained files."""
    settings = Settings(store=tmp_path_factory.mktemp("store"), threads=1)
    with listening(create_app(settings, tiny_base)) as url, Client(url) as client:
        for kind, run in runs.items():
            client.push(kind, run.file)
        yield client


def _local(base: BaseModel, file: bytes, path: Path, metric: str | None = None) -> Measured:
    resident = load_resident(base, file, version=1)
    return evaluate(resident.manifest, path, asking(base, resident), metric=metric)


@every_kind
def test_a_file_here_and_in_a_service_give_the_same_figures(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], client: Client, kind: KindName
) -> None:
    path = runs[kind].plan.test
    assert path is not None
    local = _local(tiny_base, runs[kind].file, path)
    manifest, ask = served(client, kind)
    remote = evaluate(manifest, path, ask)
    assert _close(local, remote)
    assert local.rows == 40
    assert local.value >= 0.85


def _close(one: Measured, other: Measured) -> bool:
    """Equal but for the last digits of the figures."""
    counts = [(m.metric, m.rows, m.by_label, m.confusion) for m in (one, other)]
    figures = [(m.value, *m.interval, *m.others.values(), m.calibration_error or 0.0) for m in (one, other)]
    return counts[0] == counts[1] and figures[0] == pytest.approx(figures[1], abs=1e-4)


@every_kind
def test_a_file_is_measured_as_its_training_measured_it(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName
) -> None:
    run = runs[kind]
    assert run.plan.test is not None
    assert run.outcome.test is not None
    assert _close(_local(tiny_base, run.file, run.plan.test), run.outcome.test)


def test_a_version_is_measured_though_another_is_activated_meanwhile(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], client: Client
) -> None:
    run = runs["classification"]
    assert run.plan.test is not None
    client.push("moving", run.file)
    manifest, ask = served(client, "moving")
    assert client.push("moving", runs["regression"].file)["state"] == "active"
    assert _close(evaluate(manifest, run.plan.test, ask), _local(tiny_base, run.file, run.plan.test))


@pytest.mark.parametrize(
    ("kind", "example", "cause"),
    [
        ("classification", Example("good", None, "mauve"), "'mauve' is not one of the labels negative, positive"),
        ("multilabel", Example("cat", None, ("pets", "mauve")), "'mauve' is not one of the labels pets, weather"),
        ("tagging", Example("red", None, (Span(0, 3, "mauve"),)), "'mauve' is not one of the labels animal, colour"),
        ("regression", Example("good", None, "inf"), "'inf' is not a finite number"),
        ("classification", Example("good", "bad", "positive"), "the task reads one text"),
    ],
)
def test_data_of_another_task_is_refused_with_its_line(
    tmp_path: Path, tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName, example: Example, cause: str
) -> None:
    rows = [*TOYS[kind](2, 1), example]
    if example.text_pair:
        rows = [Example(row.text, "bad", row.label) for row in rows]
    path = write_jsonl(tmp_path / "data.jsonl", kind, rows)
    row = 1 if example.text_pair else 3
    with pytest.raises(BadData, match=f"^{path}:{row}: {cause}"):
        _local(tiny_base, runs[kind].file, path)


def test_a_metric_of_another_kind_is_refused(tiny_base: BaseModel, runs: Mapping[KindName, Run]) -> None:
    run = runs["tagging"]
    with pytest.raises(BadData, match="kind tagging is not measured by accuracy; choose one of f1"):
        _local(tiny_base, run.file, run.plan.training, metric="accuracy")


def test_embeddings_have_no_right_answers(tiny_base: BaseModel, tmp_path: Path) -> None:
    resident = bare_resident(tiny_base)
    path = write_csv(tmp_path / "data.csv", sentiment(2))
    with pytest.raises(BadData, match="kind embedding has no right answers"):
        evaluate(resident.manifest, path, asking(tiny_base, resident))


def test_columns_may_be_named_and_many_rows_are_asked_in_turns(tmp_path: Path, tiny_base: BaseModel) -> None:
    path = tmp_path / "data.csv"
    path.write_text("body,topic\n" + "".join(f"text {n},{'positive' if n % 3 else 'negative'}\n" for n in range(150)))
    sizes: list[int] = []

    def ask(inputs: object) -> list[dict[str, object]]:
        assert isinstance(inputs, list)
        sizes.append(len(inputs))
        return [{"label": "positive", "score": 1.0} for _ in inputs]

    measured = evaluate(make_manifest(tiny_base), path, ask, Columns("body", None, "topic"))
    assert (measured.rows, measured.value, sum(sizes)) == (150, 100 / 150, 150)
    assert max(sizes) < 150


def test_inputs_that_are_cut_are_counted(tmp_path: Path, tiny_base: BaseModel) -> None:
    resident = load_resident(tiny_base, make_adapter(tiny_base, tokenizer=TokenizerSettings(max_length=8)), version=1)
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "cat,positive\none two three one two three one,negative\n" * 50)
    ask = asking(tiny_base, resident)
    assert evaluate(resident.manifest, path, ask).rows == 100
    assert ask.cut == 50


def test_long_passages_are_read_in_batches_of_bounded_size(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = load_resident(tiny_base, runs["answer"].file, version=1)
    passages = [" ".join(["the rain in this place"] * length) for length in (300, 1, 40, 7, 300)]
    inputs = [Given("the place", passage) for passage in passages]
    whole = Asked(tiny_base, resident)(inputs)
    sizes = []

    class Counting(Engine):
        def run(self, rows: Sequence[Row]) -> list[Floats]:
            sizes.append(sum(len(row.tokens) for row in rows))
            return super().run(rows)

    monkeypatch.setattr("service.training.evaluate.Engine", Counting)
    monkeypatch.setattr("service.training.evaluate.BATCH_TOKENS", 100)
    again = asking(tiny_base, resident)(inputs)
    assert max(sizes) <= 100 < sum(sizes)
    for one, other in zip(again, whole, strict=True):
        assert one["answer"] == other["answer"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
