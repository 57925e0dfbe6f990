"""What is shipped is compared over the same seeds as its yardsticks, and the file itself stands apart."""

import pytest

from quality import row, summary, table
from service.training.measure import Interval, Measured
from tests.benchmarks.made_up import results

SHIPPED = Measured(
    metric="accuracy", value=0.93, interval=Interval(0.91, 0.94), rows=1031, others={}, by_label={}, confusion=None,
    mistakes=[], calibration_error=0.01,
)  # fmt: skip


def test_every_method_has_its_mean_over_seeds_and_the_file_its_own_figure() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92), ("spam", "full"): (0.95, 0.97), ("spam", "head"): (0.8,)})
    told = row(found, "spam", SHIPPED)
    assert (told["houlsby"], told["full"], told["head"]) == pytest.approx((0.91, 0.96, 0.8))
    assert (told["shipped"], told["test_rows"]) == (0.93, 1031)
    assert told["seeds"] == {"houlsby": 2, "full": 2, "head": 1}


def test_means_are_over_the_tasks_that_have_every_method() -> None:
    found = results(
        {("spam", "houlsby"): (0.91,), ("spam", "full"): (0.96,), ("spam", "head"): (0.8,), ("topic", "full"): (0.5,)}
    )
    result = summary({task: row(found, task, SHIPPED) for task in ("spam", "topic")})
    assert result["mean"] == pytest.approx({"houlsby": 0.91, "full": 0.96, "head": 0.8, "shipped": 0.93})
    assert result["distance"] == pytest.approx(-0.05)
    lines = table(result).splitlines()
    assert lines[0].endswith("| adapter | full fine-tuning | head only | shipped file, over HTTP | trained, of w |")
    assert lines[2] == "| spam | accuracy | 1,031 | 91.0 | 96.0 | 80.0 | 93.0 | 2.7% |"
    assert lines[3] == "| topic | accuracy | 1,031 |  | 50.0 |  | 93.0 |  |"
    assert lines[4] == "| mean | | | 91.0 | 96.0 | 80.0 | 93.0 | |"
    assert summary({})["distance"] is None
