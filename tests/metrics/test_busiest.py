"""The busiest tasks have a label of their own, and it changes hands only for good reason."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.metrics.busiest import MORE, OTHER, TIMES, Busiest, Change

TASKS = st.sampled_from("abcdefgh")


def used(busiest: Busiest, **uses: int) -> None:
    for task, times in uses.items():
        for _ in range(times):
            busiest.label(task)


def test_the_first_tasks_have_a_label_of_their_own_while_there_is_room() -> None:
    busiest = Busiest(2)
    assert [busiest.label(task) for task in "abacb"] == ["a", "b", "a", OTHER, "b"]


def test_without_room_all_are_others() -> None:
    busiest = Busiest(0)
    used(busiest, a=100)
    assert busiest.label("a") == OTHER
    assert busiest.choose() == []


def test_a_busy_task_takes_the_label_of_the_idlest() -> None:
    busiest = Busiest(2)
    used(busiest, a=30, b=3, c=100)
    assert busiest.choose() == [Change(lost="b", got="c")]
    assert [busiest.label(task) for task in "abc"] == ["a", OTHER, "c"]


def test_tasks_that_are_much_alike_do_not_take_turns() -> None:
    busiest = Busiest(1)
    used(busiest, a=50, b=50 * TIMES + MORE)
    assert busiest.choose() == []
    used(busiest, a=50, b=50 * TIMES + MORE + 1)
    assert busiest.choose() == [Change(lost="a", got="b")]


def test_only_the_last_round_counts() -> None:
    busiest = Busiest(1)
    used(busiest, a=1000)
    assert busiest.choose() == []
    used(busiest, b=MORE + 1)
    assert busiest.choose() == [Change(lost="a", got="b")]


@given(st.integers(0, 4), st.lists(st.one_of(TASKS, st.none()), max_size=200))
def test_no_more_have_a_label_than_may_and_those_that_have_none_were_not_much_busier(
    most: int, events: list[str | None]
) -> None:
    busiest, own, uses = Busiest(most), set[str](), Counter[str]()
    for task in events:
        if task is None:
            for lost, got in busiest.choose():
                assert uses[got] > TIMES * uses[lost] + MORE
                own.remove(lost)
                own.add(got)
            assert not [
                (one, task) for one in own for task in uses.keys() - own if uses[task] > TIMES * uses[one] + MORE
            ]
            uses.clear()
        else:
            uses[task] += 1
            label = busiest.label(task)
            own.update({label} - {OTHER})
            assert label == (task if task in own else OTHER)
            assert len(own) <= most
