"""Reports are read as they are there, and figures come with the uncertainty that they have."""

import json
from math import hypot, sqrt
from pathlib import Path

import pytest

from quality import RESULT
from reproduce import BEHIND
from reproduce_results import Difference, Results, adapter_file
from reproduce_tables import TASKS
from service.adapters.file import digest
from tests.benchmarks.made_up import report, results


def test_reports_are_known_by_task_recipe_and_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "reproduce"
    folder.mkdir()
    for task, recipe, seed in [("question-type", "scale-1e-7", 0), ("spam", "houlsby", 2)]:
        (folder / f"{task}-{recipe}-{seed}.json").write_text(json.dumps(report(task, 0.9)))
    (folder / "spam-houlsby-1.json").write_text('{"task": "sp')
    found = Results.read(tmp_path)
    assert found.reports.keys() == {("question-type", "scale-1e-7", 0), ("spam", "houlsby", 2)}
    assert "spam-houlsby-1.json: not readable; left out" in capsys.readouterr().out
    assert found.ablation is found.forgetting is None


def test_a_score_is_the_mean_over_seeds_with_their_deviation() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92), ("spam", "full"): (0.95,)})
    assert found.score("spam", "houlsby") == pytest.approx((91, sqrt(2)))
    assert found.score("spam", "houlsby", "validation") == pytest.approx((92, sqrt(2)))
    assert found.score("spam", "full") == (95, None)
    assert found.score("spam", "head") is None
    assert found.change("spam", "houlsby") == pytest.approx(-4)


def test_of_two_learning_rates_the_better_one_on_validation_counts_seed_by_seed() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.94, 0.8), ("spam", "houlsby-lower"): (0.92, 0.91)})
    assert [run["test"] for run in found.runs("spam", "houlsby")] == [0.92, 0.94, 0.8]
    assert found.score("spam", "houlsby-lower") == pytest.approx((91.5, sqrt(0.5)))
    assert found.score("spam", "full") is None


def test_what_had_few_rows_is_compared_with_full_fine_tuning_on_few_rows() -> None:
    found = results({("spam", "few-norms"): (0.90,), ("spam", "few-full"): (0.91,), ("spam", "full"): (0.95,)})
    assert found.change("spam", "few-norms") == pytest.approx(-1)
    assert found.change("spam", "houlsby") is None


def test_a_report_is_of_the_file_that_has_its_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for way in ("houlsby", "houlsby-lower"):
        path = tmp_path / f"spam-{way}-0" / "spam-1.safetensors"
        path.parent.mkdir()
        path.write_bytes(way.encode())
    told = report("spam", 0.9, digest=digest(b"houlsby-lower"))
    assert adapter_file(tmp_path, told) == tmp_path / "spam-houlsby-lower-0" / "spam-1.safetensors"
    assert adapter_file(tmp_path, report("spam", 0.9, digest=digest(b"full"))) is None
    assert "no file of spam with seed 0" in capsys.readouterr().out


def test_the_second_rate_is_tried_where_adapters_are_two_points_behind_on_validation() -> None:
    found = Results.read(RESULT.parent)
    first = Results({key: one for key, one in found.reports.items() if not key[1].endswith("-lower")}, None, None)
    behind = set()
    for task in TASKS:
        adapters, full = (first.score(task, recipe, "validation") for recipe in ("houlsby", "full"))
        if adapters and full and adapters.mean < full.mean - 2:
            behind.add(task)
    assert behind == set(BEHIND)


def test_a_difference_over_seeds_has_their_spread() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92, 0.91), ("spam", "full"): (0.93, 0.97)})
    difference = found.difference("spam", "houlsby")
    assert difference is not None
    assert difference[:2] == pytest.approx((-4, hypot(1 / sqrt(3), sqrt(8) / sqrt(2))))
    assert difference.seeds == (3, 2)


def test_a_difference_of_single_seeds_has_that_of_two_samples() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92), ("spam", "full"): (0.95,)}, half=0.0196)
    assert found.difference("spam", "houlsby") == pytest.approx(Difference(-4, sqrt(2), None))
    assert found.difference("spam", "head") is None


def test_a_point_is_over_the_tasks_that_can_be_compared() -> None:
    found = results({("spam", "lora"): (0.9,), ("spam", "full"): (0.95,), ("topic", "lora"): (0.8,)})
    point = found.point("lora", ["spam", "topic"])
    assert point is not None
    assert point.changes == pytest.approx({"spam": -5})
    assert found.point("lora", ["topic"]) is None
