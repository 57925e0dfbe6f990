"""A whole training: from data files to a file that the engine serves as its trainer saw it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.adapters.file import digest
from service.adapters.manifest import Input
from service.adapters.methods import Head, Houlsby
from service.engine.bank import Resident, load_resident
from service.engine.base_model import BaseModel, load_base
from service.engine.engine import Engine, Row
from service.engine.tokens import tokenize
from service.errors import BadData
from service.training.run import Outcome, Plan, run
from service.training.trainer import Recipe
from tests.training.toys import counting, sentiment, write_csv

RECIPE = Recipe(epochs=3, learning_rate=1e-2, batch_size=16)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("data")
    return Plan(
        task="mood",
        kind="classification",
        method=Houlsby(bottleneck=8),
        recipe=RECIPE,
        training=write_csv(folder / "training.csv", sentiment(160, 1)),
        test=write_csv(folder / "test.csv", sentiment(40, 2)),
        max_length=32,
        licence="CC0",
    )


@pytest.fixture(scope="module")
def outcome(tiny_base: BaseModel, plan: Plan) -> Outcome:
    return run(tiny_base, plan)


def _resident(base: BaseModel, outcome: Outcome) -> Resident:
    assert outcome.file is not None
    return load_resident(base, outcome.file, version=1)


def _assert_golden(base: BaseModel, resident: Resident, tolerance: float) -> None:
    manifest = resident.manifest
    assert manifest.golden
    texts = [golden.input.text for golden in manifest.golden]
    pairs = [golden.input.text_pair or "" for golden in manifest.golden] if manifest.head.pair else None
    rows = tokenize(base.tokenizer, texts, pairs, manifest.tokenizer.max_length)
    for golden, raw in zip(manifest.golden, Engine(base).run([Row(row, resident) for row in rows]), strict=True):
        np.testing.assert_allclose(resident.kind.decode(manifest, raw).outputs, golden.outputs, atol=tolerance)


def test_the_file_says_what_was_trained_and_how_well(tiny_base: BaseModel, plan: Plan, outcome: Outcome) -> None:
    manifest = _resident(tiny_base, outcome).manifest
    assert (manifest.task, manifest.kind, manifest.method) == ("mood", "classification", plan.method)
    assert manifest.labels == ["negative", "positive"]
    assert (manifest.tokenizer.max_length, manifest.licence, manifest.head.pair) == (32, "CC0", False)
    facts = manifest.trained
    assert facts is not None
    assert (facts.metric, facts.rows, facts.seed, facts.source) == ("accuracy", 144, 0, "training.csv")
    assert facts.value >= 0.9
    assert facts.test_value is not None
    assert facts.test_value >= 0.9


def test_the_engine_gives_the_golden_outputs(tiny_base: BaseModel, outcome: Outcome) -> None:
    resident = _resident(tiny_base, outcome)
    assert len(resident.manifest.golden) == 4
    _assert_golden(tiny_base, resident, tolerance=1e-4)


def test_a_base_in_half_precision_is_within_the_tolerance(tiny_folder: Path, outcome: Outcome) -> None:
    half = load_base(str(tiny_folder), dtype="bfloat16")
    resident = _resident(half, outcome)
    _assert_golden(half, resident, resident.manifest.tolerance)


def test_the_report_tells_what_the_file_holds(tiny_base: BaseModel, outcome: Outcome) -> None:
    assert outcome.file is not None
    report, resident = outcome.report, _resident(tiny_base, outcome)
    assert report["digest"] == digest(outcome.file)
    assert report["file_bytes"] == len(outcome.file)
    assert report["trained_parameters"] == resident.parameters
    assert report["share_of_base"] == resident.parameters / tiny_base.parameters
    assert report["validation"] == max(report["curve"])
    assert len(report["curve"]) == 3


def test_named_inputs_become_the_golden_examples(tiny_base: BaseModel, plan: Plan) -> None:
    inputs = [Input(text="the food was great"), Input(text="")]
    resident = _resident(tiny_base, run(tiny_base, replace(plan, method=Head(), golden=inputs)))
    assert [golden.input for golden in resident.manifest.golden] == inputs
    _assert_golden(tiny_base, resident, tolerance=1e-4)


def test_fine_tuning_is_measured_and_gives_no_file(tiny_base: BaseModel, plan: Plan) -> None:
    recipe = replace(RECIPE, learning_rate=3e-3, full=True, dtype=torch.float32)
    outcome = run(tiny_base, replace(plan, method=Head(), recipe=recipe))
    assert outcome.file is None
    assert outcome.report["method"] == "full"
    assert outcome.report["file_bytes"] is None
    assert outcome.report["test"] >= 0.9
    assert outcome.report["trained_parameters"] > tiny_base.parameters


def test_pairs_are_trained_and_served_as_pairs(tiny_base: BaseModel, plan: Plan, tmp_path: Path) -> None:
    training = write_csv(tmp_path / "pairs.csv", sentiment(160, 1, pair=True))
    resident = _resident(tiny_base, run(tiny_base, replace(plan, training=training, test=None)))
    assert resident.manifest.head.pair
    assert all(golden.input.text_pair for golden in resident.manifest.golden)
    _assert_golden(tiny_base, resident, tolerance=1e-4)


def test_regression_answers_in_the_datas_units(tiny_base: BaseModel, plan: Plan, tmp_path: Path) -> None:
    training = write_csv(tmp_path / "counts.csv", counting(240, 1))
    validation = write_csv(tmp_path / "validation.csv", counting(60, 2))
    outcome = run(tiny_base, replace(plan, kind="regression", training=training, validation=validation, test=None))
    resident = _resident(tiny_base, outcome)
    calibration = resident.manifest.calibration
    assert calibration.mean == 125
    assert calibration.deviation == pytest.approx(17.078, abs=1e-3)  # of 100, 110 … 150, equally often
    facts = resident.manifest.trained
    assert facts is not None
    assert (facts.metric, facts.rows) == ("spearman", 240)
    assert facts.value >= 0.9
    answers = [golden.outputs[0] for golden in resident.manifest.golden]
    np.testing.assert_allclose(answers, [100, 110, 120, 130], atol=12)
    _assert_golden(tiny_base, resident, tolerance=0.01)


@pytest.mark.parametrize(
    ("kind", "rows", "cause"),
    [
        ("classification", [("a film", "good")] * 20, "only one label, 'good'"),
        ("classification", [("a film", "good"), ("a book", "bad")], "too few rows"),
        ("regression", [("a film", "1"), ("a book", "many")] * 9, "regression needs numbers: .*'many'"),
        ("regression", [("a film", "1"), ("a book", "nan")] * 9, "finite numbers that are not all the same"),
        ("regression", [("a film", "3")] * 20, "finite numbers that are not all the same"),
    ],
)
def test_data_with_nothing_to_learn_is_refused(
    tiny_base: BaseModel, plan: Plan, tmp_path: Path, kind: str, rows: list[tuple[str, str]], cause: str
) -> None:
    training = tmp_path / "training.csv"
    training.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    with pytest.raises(BadData, match=f"^{training}: .*{cause}"):
        run(tiny_base, replace(plan, kind=kind, training=training))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_label_that_training_never_saw_is_refused(
    tiny_base: BaseModel, plan: Plan, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.csv"
    path.write_text("text,label\na film,positive\na book,mauve\n")
    changed = replace(plan, validation=path) if name == "validation" else replace(plan, test=path)
    with pytest.raises(BadData, match=f"^{path}: row 2: 'mauve' is not one of the labels"):
        run(tiny_base, changed)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_pairs_cannot_be_measured_on_single_texts(tiny_base: BaseModel, plan: Plan, tmp_path: Path, name: str) -> None:
    training = write_csv(tmp_path / "pairs.csv", sentiment(40, 1, pair=True))
    single = write_csv(tmp_path / "single.csv", sentiment(40, 1))
    pairs = replace(plan, training=training, test=None)
    changed = replace(pairs, validation=single) if name == "validation" else replace(pairs, test=single)
    with pytest.raises(BadData, match=f"^{single}: "):
        run(tiny_base, changed)
