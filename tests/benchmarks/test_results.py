"""Reports are read as they are there, and figures come with the uncertainty that they have."""

import json
from math import hypot, sqrt
from pathlib import Path

import pytest

from reproduce_results import Difference, Results
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
