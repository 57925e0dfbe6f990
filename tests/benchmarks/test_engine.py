"""What `benchmarks/engine.py` makes of its times, and that each turn it plans is one that somebody can run."""

import pytest

from engine_contestants import CONTESTANTS
from engine_parts import PARTS
from engine_results import ratios, shares, spread
from engine_turns import FAST, OURS, PRODUCTS, SIDES, Asked, Scale, Turn, asked, product, turns

OF, TO = Turn("real", "ours", "bare"), Turn("real", "peer", "bare")


def test_ratios_are_of_speeds_round_by_round() -> None:
    times = {OF: [[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]], TO: [[2.0, 1.0], [2.0, 2.0], [2.0, 2.0]]}
    (found,) = ratios([Asked("a", OF, TO, 1.5), Asked("not run", OF, Turn("real", "absent", "bare"), None)], times)
    assert found["rounds"] == [3, 2, 1]
    assert (found["median"], found["lower_quartile"], found["upper_quartile"]) == (2, 1.5, 2.5)


def test_one_round_has_no_spread() -> None:
    assert spread([3.0]) == {"median": 3, "lower_quartile": 3, "upper_quartile": 3}


@pytest.mark.parametrize("scale", [FAST, Scale()])
def test_everything_that_is_compared_is_timed_once(scale: Scale) -> None:
    planned = list(turns(scale))
    assert len(planned) == len(set(planned))
    assert {turn.contestant for turn in planned} == set(CONTESTANTS)
    assert {turn for one in asked(scale) for turn in (one.of, one.to)} <= set(planned)


def test_the_parts_of_a_pass_are_the_whole_of_it() -> None:
    ours, real = OURS[1], [[[1, 2, 3], [4, 5]]]
    seconds = {"bare": 1.0} | dict(zip(PARTS, (0.05, 0.1, 0.5, 0.05), strict=True))
    times = {Turn("real", ours, way): [[one]] for way, one in seconds.items()}
    times |= {Turn("products", ours, product(side, PRODUCTS[0])): [[2.0]] for side in SIDES}
    ((name, found),) = shares(times, real, {ours: 1000})
    assert name == ours
    assert found["pass_gops"] == pytest.approx(2e-9 * 1000 * 5)
    part = found["where_the_time_goes"]
    assert sum(part.values()) == pytest.approx(1)
    assert part["attention, sums and LayerNorms"] == pytest.approx(0.3)
