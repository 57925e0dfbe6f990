"""The sieve against its definition: one queue, a bit for each, and a hand."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sieve import Sieve


class Queue:
    """As the paper draws it."""

    def __init__(self) -> None:
        self.keys: list[int] = []  # oldest first
        self.asked: set[int] = set()
        self.hand = 0

    def add(self, key: int) -> None:
        self.remove(key)
        self.keys.append(key)

    def remove(self, key: int) -> None:
        if key in self.keys:
            self.hand -= self.keys.index(key) < self.hand
            self.keys.remove(key)
            self.asked.discard(key)

    def pop(self) -> int:
        while True:
            self.hand %= len(self.keys)
            key = self.keys[self.hand]
            if key not in self.asked:
                del self.keys[self.hand]
                return key
            self.asked.discard(key)
            self.hand += 1


keys = st.integers(0, 9)
steps = st.one_of(st.tuples(st.sampled_from(["add", "ask", "remove"]), keys), st.just(("pop", 0)))


@given(st.lists(steps, max_size=60))
def test_the_same_one_goes_as_by_the_definition(made: Sequence[tuple[str, int]]) -> None:
    sieve, queue = Sieve[int](), Queue()
    for step, key in made:
        match step:
            case "add":
                sieve.add(key)
                queue.add(key)
            case "ask":
                sieve.ask(key)
                queue.asked |= {key} & {*queue.keys}
            case "remove":
                sieve.remove(key)
                queue.remove(key)
            case _ if queue.keys:
                assert sieve.pop() == queue.pop()
        assert len(sieve) == len(queue.keys)


def test_an_empty_one_has_nothing_to_give() -> None:
    with pytest.raises(KeyError):
        Sieve[int]().pop()


def test_what_is_asked_for_once_pushes_out_nothing_that_is_asked_for_often() -> None:
    sieve = Sieve[int]()
    often = range(50)
    for key in often:
        sieve.add(key)
    for once in range(100, 1000):
        for key in often:
            sieve.ask(key)
        if len(sieve) == 60:
            assert sieve.pop() not in often
        sieve.add(once)
