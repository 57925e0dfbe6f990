"""The page says what is there, how sure it is, and what else may explain it."""

from dataclasses import replace

import pytest

from reproduce import runs
from reproduce_page import confounds, main_result, page
from reproduce_tables import TASKS, main_table, percent, signed
from service.training.recipe import RECIPES
from tests.benchmarks.made_up import BASE, results


def test_points_are_shown_with_their_sign() -> None:
    assert [signed(points) for points in (1.26, -1.26, 0.04, -0.04)] == ["+1.3", "−1.3", "0.0", "0.0"]
    assert [percent(share) for share in (0.0268, 1.00003, None)] == ["2.7 %", "100 %", "—"]


def test_the_main_table_has_a_row_a_task_and_means_of_what_can_be_compared() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92), ("spam", "full"): (0.95,), ("topic", "full"): (0.8,)})
    lines = main_table(found).splitlines()
    assert len(lines) == 2 + len(TASKS) + 3
    assert "| `spam` | accuracy | 4,000 | 95.0 | 91.0 ± 1.4 | −4.0 | — | 2.7 % |" in lines
    assert "| `topic` | accuracy | 4,000 | 80.0 | — | — | — | — |" in lines
    assert "| mean of 1 |  |  | 95.0 | **91.0** | **−4.0** | — |  |" in lines
    assert f"1.0{round(100 * 600_000 / BASE)}·\\|w\\|" in lines[-1]
    assert main_table(results({})) == ""


def test_a_task_that_is_behind_is_explained_by_the_seeds_where_there_are_several() -> None:
    found = results({("spam", "houlsby"): (0.90, 0.92), ("spam", "full"): (0.93, 0.94)})
    told = "\n".join(main_result(found))
    error = "with a standard error of 1.1 from the spread of 2 and 2 seeds"
    assert f"- `spam`: −2.5, {error}: more than two standard errors. On validation the distance is −2.5." in told


def test_a_task_that_is_behind_is_explained_by_the_test_rows_where_there_is_one_seed() -> None:
    found = results({("spam", "houlsby"): (0.90,), ("spam", "full"): (0.92,)})
    told = "\n".join(main_result(found))
    sure = "with 95 % confidence −4.8 to +0.8 from the intervals of one seed each on 1,000 test rows"
    assert f"- `spam`: −2.0, {sure}: less than two standard errors. On validation the distance is −2.0." in told


def test_a_task_that_is_not_behind_needs_no_explanation() -> None:
    assert "- `spam`" not in "\n".join(main_result(results({("spam", "houlsby"): (0.94,), ("spam", "full"): (0.95,)})))


def test_what_else_differs_is_read_from_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    full = RECIPES["full"]
    row = replace(full, learning_rate=0.125, averaging=4.0, epochs=3, full=False)
    monkeypatch.setitem(RECIPES, "houlsby", row)
    monkeypatch.setitem(RECIPES, "full", replace(full, learning_rate=0.25, averaging=None, epochs=8))
    assert "in learning rate (0.125 against 0.25) and averaging (4 against none); a part" in confounds()
    monkeypatch.setitem(RECIPES, "full", replace(row, epochs=8, full=True))
    assert "in nothing" in confounds()


def test_the_page_is_whole_whatever_is_there() -> None:
    some = page(results({("spam", "houlsby"): (0.90,), ("spam", "full"): (0.92,)}), set())
    for text in (page(results({}), set()), some):
        assert text.count("\n## ") == 9
        assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith(("|", "- ")))
    assert "Not run yet." in some
    planned = len(list(runs()))
    assert f"Still missing are {planned - 2} of {planned} trainings" in some
