"""A whole training: from data files to a file that the engine serves as its trainer saw it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.adapters.file import digest
from service.adapters.manifest import Calibration, Input, KindName
from service.adapters.methods import AnyMethod, Head, Houlsby, Lora
from service.engine.arranging import load_resident
from service.engine.bank import Resident
from service.engine.base_model import BaseModel
from service.engine.engine import Engine, Row
from service.errors import BadData, Diverged
from service.tasks import KINDS, Answer, Floats, Span
from service.training.answers import decoded
from service.training.data import Example
from service.training.measure import measure_answers
from service.training.outcome import Outcome
from service.training.plan import Data, Plan, count_cut_rows, read_data
from service.training.run import Watch, run
from service.training.sets import Set, prepare
from service.training.trainer import Progress
from tests.tiny import read_one
from tests.training.conftest import RECIPE, Run
from tests.training.toys import LABELS, TOYS, counting, sentiment, where, write_csv, write_jsonl

every_kind = pytest.mark.parametrize("kind", TOYS)


@pytest.fixture
def plan(plans: dict[KindName, Plan]) -> Plan:
    return plans["classification"]


def _run(base: BaseModel, plan: Plan, watch: Watch = lambda run, runs, progress: None) -> Outcome:
    return run(base, plan, read_data(plan), watch)


def _resident(base: BaseModel, file: bytes | None) -> Resident:
    assert file is not None
    return load_resident(base, file, version=1)


def _raw(base: BaseModel, resident: Resident, examples: Set) -> list[list[Floats]]:
    return [Engine(base).run([Row(row, resident) for row in reading.rows]) for reading in examples.readings]


def _assert_golden(base: BaseModel, resident: Resident, tolerance: float) -> None:
    manifest = resident.manifest
    assert manifest.golden
    for golden in manifest.golden:
        reading = read_one(base, manifest, golden.input.text, golden.input.text_pair)
        raw = Engine(base).run([Row(row, resident) for row in reading.rows])
        np.testing.assert_allclose(resident.kind.decode(manifest, reading, raw).outputs, golden.outputs, atol=tolerance)


@every_kind
def test_the_file_says_what_was_trained_and_how_well(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName
) -> None:
    plan, data = runs[kind].plan, runs[kind].data
    manifest = _resident(tiny_base, runs[kind].file).manifest
    assert (manifest.task, manifest.kind, manifest.method) == (f"{kind}-toy", kind, plan.method)
    assert manifest.labels == list(LABELS.get(kind, ()))
    assert (manifest.tokenizer.max_length, manifest.licence) == (32, "CC0")
    assert manifest.head.pair == (kind == "answer")
    facts = manifest.trained
    assert facts is not None
    assert (facts.metric, facts.seed, facts.source) == (KINDS[kind].metrics[0], 0, f"{kind}.jsonl")
    assert facts.rows == len(data.training) == 160 - len(data.validation)
    assert facts.value >= 0.9
    assert facts.test_value is not None
    assert facts.test_value >= 0.85


@every_kind
def test_the_engine_gives_the_golden_outputs(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName
) -> None:
    resident, data = _resident(tiny_base, runs[kind].file), runs[kind].data
    given = [(golden.input.text, golden.input.text_pair) for golden in resident.manifest.golden]
    assert given == [example.given for example in data.validation[:4]]
    _assert_golden(tiny_base, resident, tolerance=0.01 if kind == "regression" else 1e-4)


@every_kind
def test_the_same_plan_gives_the_same_bytes(tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName) -> None:
    assert _run(tiny_base, runs[kind].plan).file == runs[kind].file


@every_kind
def test_the_report_tells_what_the_file_holds(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName
) -> None:
    outcome, resident = runs[kind].outcome, _resident(tiny_base, runs[kind].file)
    report, facts = outcome.report, resident.manifest.trained
    assert facts is not None
    assert (report["task"], report["kind"], report["metric"]) == (f"{kind}-toy", kind, facts.metric)
    assert (report["digest"], report["file_bytes"]) == (digest(runs[kind].file), len(runs[kind].file))
    assert report["trained_parameters"] == resident.parameters
    assert report["share_of_base"] == resident.parameters / tiny_base.parameters
    assert report["calibration"] == resident.manifest.calibration.model_dump()
    assert (report["validation"], report["test"]) == (facts.value, facts.test_value)
    assert report["measured"]["validation"]["value"] == facts.value
    assert report["rows"] == facts.rows
    assert report["curve"][report["best_epoch"] - 1] == max(report["curve"])


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_calibration_changes_how_sure_answers_are_and_no_answer(
    tiny_base: BaseModel, runs: Mapping[KindName, Run], kind: KindName
) -> None:
    resident, data = _resident(tiny_base, runs[kind].file), runs[kind].data
    assert resident.manifest.calibration.temperature != 1
    validation = prepare(tiny_base, resident.manifest, data.validation)
    raw = _raw(tiny_base, resident, validation)
    fitted = decoded(resident.manifest, validation, raw)
    unfitted = decoded(resident.manifest.model_copy(update={"calibration": Calibration()}), validation, raw)
    assert _without_scores(fitted) == _without_scores(unfitted)
    assert fitted != unfitted


def test_scores_that_are_far_from_the_truth_are_brought_near_it(tiny_base: BaseModel, plan: Plan) -> None:
    """A short training at a low rate is right, but hardly sure of it."""
    hasty = replace(plan, method=Head(), recipe=replace(RECIPE, epochs=8, learning_rate=2e-3, dropout=0.0))
    outcome = _run(tiny_base, hasty)
    manifest, resident = outcome.manifest, _resident(tiny_base, outcome.file)
    unfitted = manifest.model_copy(update={"calibration": Calibration()})
    validation = prepare(tiny_base, manifest, read_data(hasty).validation)
    answers = decoded(unfitted, validation, _raw(tiny_base, resident, validation))
    before, after = measure_answers(unfitted, answers, validation.labels), outcome.validation
    assert after.value == before.value >= 0.8
    assert before.calibration_error is not None
    assert after.calibration_error is not None
    assert after.calibration_error < before.calibration_error - 0.05


def test_a_passage_without_the_answer_gets_none(
    tiny_base: BaseModel, plans: Mapping[KindName, Plan], tmp_path: Path
) -> None:
    training = write_jsonl(tmp_path / "some.jsonl", "answer", where(160, 1, unanswerable=True))
    plan = replace(plans["answer"], training=training, test=None)
    plan = replace(plan, recipe=replace(plan.recipe, epochs=30))
    outcome = _run(tiny_base, plan)
    answered = [bool(example.label) for example in read_data(plan).validation]
    assert outcome.manifest.calibration.none_margin is not None
    assert sum(answered) / len(answered) < outcome.validation.value  # more than always answering could reach
    # The epoch was chosen by what is served: with the margin, and before rounding to half precision.
    assert outcome.validation.value == pytest.approx(max(outcome.report["curve"]), abs=0.05)


def test_named_inputs_become_the_golden_examples(tiny_base: BaseModel, plan: Plan) -> None:
    inputs = [Input(text="the food was great"), Input(text="")]
    resident = _resident(tiny_base, _run(tiny_base, replace(plan, method=Head(), golden=inputs)).file)
    assert [golden.input for golden in resident.manifest.golden] == inputs
    _assert_golden(tiny_base, resident, tolerance=1e-4)


def test_a_rate_that_diverges_loses_to_the_others(tiny_base: BaseModel, plan: Plan) -> None:
    rates = replace(plan, learning_rates=(1e-2, 1e38), recipe=replace(RECIPE, epochs=1))
    outcome = _run(tiny_base, rates)
    assert outcome.report["recipe"]["learning_rate"] == 1e-2
    assert [one["learning_rate"] for one in outcome.report["tried"]] == [1e-2]
    with pytest.raises(Diverged, match="try a smaller one"):
        _run(tiny_base, replace(rates, learning_rates=(1e38,)))


def test_where_nothing_is_learned_the_rate_is_halved(
    tiny_base: BaseModel, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    idle: list[float] = []
    monkeypatch.setattr("service.tasks.classification.Classification.idle_loss", lambda *_: idle.pop(0))
    monkeypatch.setattr("service.training.trainer.PROOF_STEPS", 1)
    told: list[int] = []
    slow = replace(plan, recipe=replace(RECIPE, epochs=4, learning_rate=1e-2), checkpoints=tmp_path)

    def watch(run: int, runs: int, progress: Progress) -> None:
        if progress.value is not None:
            told.append(progress.epoch)

    idle += [0.0, 9.0]  # the first training learns less than nothing, the second one something
    outcome = _run(tiny_base, slow, watch)
    assert outcome.report["recipe"]["learning_rate"] == 5e-3
    assert told == [1, 2, 3, 4]  # of the first, no epoch counts
    assert not list(tmp_path.iterdir())
    idle += [0.0, 0.0, 0.0]  # the third goes on, come what may
    assert _run(tiny_base, slow).report["recipe"]["learning_rate"] == 2.5e-3
    idle += [0.0]  # a rate that was asked for is kept
    assert _run(tiny_base, replace(slow, learning_rates=(1e-2,))).report["recipe"]["learning_rate"] == 1e-2


def test_a_rate_that_wrecks_the_encoder_is_found_out(
    tiny_base: BaseModel, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.training.trainer.PROOF_STEPS", 10)
    outcome = _run(tiny_base, replace(plan, recipe=replace(RECIPE, epochs=6, learning_rate=1.0)))
    assert outcome.report["recipe"]["learning_rate"] < 1.0


@pytest.mark.parametrize("kind", ["classification", "answer"])
def test_a_golden_example_of_another_form_is_refused_before_the_training(
    tiny_base: BaseModel, plans: Mapping[KindName, Plan], kind: KindName
) -> None:
    good, bad = Input(text="good", text_pair="bad"), Input(text="good")
    golden = [good, bad] if kind == "answer" else [bad, good]
    form = "two texts" if kind == "answer" else "one text"
    with pytest.raises(BadData, match=f"golden example 2: the task reads {form}"):
        _run(tiny_base, replace(plans[kind], golden=golden))


def test_an_example_with_more_outputs_than_a_header_should_hold_is_left_out(
    tiny_base: BaseModel, plans: Mapping[KindName, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.training.packing.MAX_OUTPUTS", 60)
    plan = replace(plans["tagging"], recipe=RECIPE, golden=[Input(text="red cat"), Input(text="red cat " * 9)])
    resident = _resident(tiny_base, _run(tiny_base, plan).file)
    assert [golden.input.text for golden in resident.manifest.golden] == ["red cat"]


@pytest.mark.parametrize(
    "method",
    [Houlsby(layers=(0, 9)), Lora(targets=("query", "query")), Head(norms=True, layers=(2,))],
    ids=lambda method: method.name,
)
def test_a_method_that_does_not_fit_the_base_is_refused(tiny_base: BaseModel, plan: Plan, method: AnyMethod) -> None:
    with pytest.raises(BadData, match="method"):
        _run(tiny_base, replace(plan, method=method))


def test_a_metric_of_another_kind_is_refused(tiny_base: BaseModel, plan: Plan) -> None:
    with pytest.raises(BadData, match="classification is not measured by spearman; choose one of accuracy, macro_f1"):
        _run(tiny_base, replace(plan, metric="spearman"))


def test_another_metric_chooses_and_is_noted(tiny_base: BaseModel, plan: Plan) -> None:
    outcome = _run(tiny_base, replace(plan, metric="matthews", method=Head()))
    facts = outcome.manifest.trained
    assert facts is not None
    assert (facts.metric, outcome.validation.metric) == ("matthews", "matthews")
    assert outcome.validation.others.keys() == {"accuracy", "macro_f1"}


def test_of_several_seeds_and_rates_the_best_on_validation_is_kept(tiny_base: BaseModel, plan: Plan) -> None:
    told: list[tuple[int, int]] = []
    several = replace(plan, seeds=(3, 4), learning_rates=(1e-5, 1e-2), recipe=replace(RECIPE, epochs=2))
    outcome = run(tiny_base, several, read_data(several), lambda number, runs, progress: told.append((number, runs)))
    assert sorted(set(told)) == [(number, 4) for number in (1, 2, 3, 4)]
    tried = outcome.report["tried"]
    assert [(one["learning_rate"], one["seed"]) for one in tried] == [(1e-5, 3), (1e-5, 4), (1e-2, 3), (1e-2, 4)]
    best = max(tried, key=lambda one: one["validation"])
    assert best["validation"] > tried[0]["validation"]
    recipe = outcome.report["recipe"]
    assert (recipe["seed"], recipe["learning_rate"]) == (best["seed"], best["learning_rate"])
    assert max(outcome.report["curve"]) == best["validation"]
    facts = outcome.manifest.trained
    assert facts is not None
    assert facts.seed == best["seed"]


def test_fine_tuning_is_measured_and_gives_no_file(tiny_base: BaseModel, plan: Plan) -> None:
    recipe = replace(RECIPE, learning_rate=3e-3, full=True, dtype=torch.float32)
    outcome = _run(tiny_base, replace(plan, method=Head(), recipe=recipe))
    assert outcome.file is None
    assert outcome.report["method"] == "full"
    assert outcome.report["file_bytes"] is None
    assert outcome.report["test"] >= 0.9
    assert outcome.report["trained_parameters"] > tiny_base.parameters


def test_pairs_are_trained_and_served_as_pairs(tiny_base: BaseModel, plan: Plan, tmp_path: Path) -> None:
    training = write_csv(tmp_path / "pairs.csv", sentiment(160, 1, pair=True))
    resident = _resident(tiny_base, _run(tiny_base, replace(plan, training=training, test=None)).file)
    assert resident.manifest.head.pair
    assert all(golden.input.text_pair for golden in resident.manifest.golden)
    _assert_golden(tiny_base, resident, tolerance=1e-4)


def test_regression_answers_in_the_datas_units(tiny_base: BaseModel, plan: Plan, tmp_path: Path) -> None:
    training = write_csv(tmp_path / "counts.csv", counting(240, 1))
    validation = write_csv(tmp_path / "validation.csv", counting(60, 2))
    outcome = _run(tiny_base, replace(plan, kind="regression", training=training, validation=validation, test=None))
    resident = _resident(tiny_base, outcome.file)
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
        ("classification", [("a film", "good")] * 20, ": only one label, 'good'"),
        ("classification", [("a film", "good"), ("a book", "bad")], ": too few rows .*--validation"),
        ("classification", [(f"film {n}", f"label {n}") for n in range(30)], ": each of the 30 rows .* swapped"),
        ("regression", [("a film", "1"), ("a book", "many")] * 9, ":3: regression needs numbers: 'many'"),
        ("regression", [("a film", "1"), ("a book", "nan")] * 9, ":3: .*'nan' is not a finite number"),
        ("regression", [("a film", "3")] * 20, ": .*not all the same"),
        ("multilabel", [(f"film {n}", "|") for n in range(20)], ": no row has a label"),
        ("tagging", [(f"film {n}", "O O") for n in range(20)], ": no row has a label"),
    ],
)
def test_data_with_nothing_to_learn_is_refused(
    tiny_base: BaseModel, plan: Plan, tmp_path: Path, kind: KindName, rows: list[tuple[str, str]], cause: str
) -> None:
    training = tmp_path / "training.csv"
    training.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    with pytest.raises(BadData, match=f"^{training}{cause}"):
        _run(tiny_base, replace(plan, kind=kind, training=training))


def test_questions_without_any_answer_are_nothing_to_learn(plan: Plan, tmp_path: Path) -> None:
    rows = [Example(f"what is {n}", f"it is {n}", ()) for n in range(20)]
    training = write_jsonl(tmp_path / "none.jsonl", "answer", rows)
    with pytest.raises(BadData, match=f"^{training}: no question has an answer"):
        read_data(replace(plan, kind="answer", training=training))


def test_questions_on_one_passage_alone_cannot_be_set_aside(plan: Plan, tmp_path: Path) -> None:
    rows = [Example(f"what is {n}", "it is rain", (Span(6, 10, "rain"),)) for n in range(20)]
    training = write_jsonl(tmp_path / "one.jsonl", "answer", rows)
    with pytest.raises(BadData, match=f"^{training}: too few rows .*questions on one passage stay together"):
        read_data(replace(plan, training=training))


def test_rows_that_were_seen_before_are_told(plan: Plan, tmp_path: Path) -> None:
    training, validation, test = (
        write_csv(tmp_path / f"{part}.csv", sentiment(40, 1)[:rows] + sentiment(20, seed))
        for part, rows, seed in (("training", 40, 2), ("validation", 3, 3), ("test", 0, 3))
    )
    named = replace(plan, training=training, validation=validation, test=test)
    assert [line.split(" rows ")[0] for line in read_data(named).doubts] == ["3 of 23 validation", "20 of 20 test"]
    assert not read_data(replace(named, validation=None)).doubts


@pytest.mark.parametrize("kind", ["multilabel", "tagging"])
def test_a_label_that_stands_in_one_row_alone_can_be_trained(
    tiny_base: BaseModel, plans: Mapping[KindName, Plan], tmp_path: Path, kind: KindName
) -> None:
    examples = TOYS[kind](60, 1)
    for n in range(30):
        label = (f"rare{n}",) if kind == "multilabel" else (Span(0, 3, f"rare{n}"),)
        examples.append(Example(f"cat {n}", None, label))
    training = write_jsonl(tmp_path / "rare.jsonl", kind, examples)
    plan = replace(plans[kind], training=training, test=None, method=Head(), recipe=replace(RECIPE, epochs=1))
    assert set(_run(tiny_base, plan).manifest.labels) == {*LABELS[kind], *(f"rare{n}" for n in range(30))}


def test_more_tokens_than_the_base_reads_are_refused(tiny_base: BaseModel, plan: Plan) -> None:
    with pytest.raises(BadData, match=r"--max-length 65 is too long: tiny\d* reads 64 tokens at most"):
        _run(tiny_base, replace(plan, max_length=65))
    assert _run(tiny_base, replace(plan, max_length=None, method=Head())).manifest.tokenizer.max_length == 64


def test_rows_that_are_cut_are_counted(tiny_base: BaseModel, plans: Mapping[KindName, Plan]) -> None:
    single, pair = Example("one two three", None, "a"), Example("one two three", "one two three one", "b")
    for one, tokens in ((single, 5), (pair, 10)):  # special ones included
        data = Data("classification", [one] * 3, [one], [])
        for length, cut in ((tokens, 0), (tokens - 1, 3)):
            assert count_cut_rows(tiny_base, replace(plans["classification"], max_length=length), data) == cut
    answers = replace(plans["answer"], max_length=8)
    assert count_cut_rows(tiny_base, answers, read_data(answers)) == 0  # windows read all of it


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_label_that_training_never_saw_is_refused(
    tiny_base: BaseModel, plan: Plan, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.csv"
    path.write_text("text,label\na film,positive\na book,mauve\n")
    changed = replace(plan, validation=path) if name == "validation" else replace(plan, test=path)
    with pytest.raises(BadData, match=f"^{path}:3: 'mauve' is not one of the labels"):
        _run(tiny_base, changed)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_pairs_cannot_be_measured_on_single_texts(tiny_base: BaseModel, plan: Plan, tmp_path: Path, name: str) -> None:
    training = write_csv(tmp_path / "pairs.csv", sentiment(40, 1, pair=True))
    single = write_csv(tmp_path / "single.csv", sentiment(40, 1))
    pairs = replace(plan, training=training, test=None)
    changed = replace(pairs, validation=single) if name == "validation" else replace(pairs, test=single)
    with pytest.raises(BadData, match=f"^{single}:2: the task reads two texts"):
        _run(tiny_base, changed)


def _without_scores(answers: Sequence[Answer]) -> list[object]:
    return [answer.get("label") or [entity | {"score": 0} for entity in answer["entities"]] for answer in answers]
