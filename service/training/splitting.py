"""Which rows are set aside for validation: of every label its share, and no copy of a row that is trained on."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from service.adapters.manifest import KindName
from service.tasks import Span
from service.training.data import Example

NONE = ""  # the stratum of rows without a label, and of numbers


def set_aside(
    examples: Sequence[Example], kind: KindName, share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Sets about `share` of the rows aside, and at least one where any may be; at random but repeatably.

    Equal inputs stay together, and so do all questions on one passage. The last bearers of a label are never set
    aside; a label with few rows may have none aside.

    Returns:
        (what stays, what was set aside), each in its first order.
    """
    groups = _groups(examples, kind)
    strata = [Counter(one for index in group for one in _strata(kind, examples[index])) for group in groups]
    chosen = _Choice([len(group) for group in groups], strata, share, random.Random(seed)).make()
    aside = {index for number in chosen for index in groups[number]}
    return (
        [example for index, example in enumerate(examples) if index not in aside],
        [example for index, example in enumerate(examples) if index in aside],
    )


def _groups(examples: Sequence[Example], kind: KindName) -> list[list[int]]:
    """What must lie on one side, as the examples' numbers."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        found[example.text_pair if kind == "answer" else example.given].append(index)
    return list(found.values())


def _strata(kind: KindName, example: Example) -> list[str]:
    """What shall be on both sides in equal shares: labels; for kind answer, whether there is an answer."""
    if kind == "regression" or not example.label:
        return [NONE]
    if kind == "answer":
        return ["answered"]
    parts = [example.label] if isinstance(example.label, str) else example.label
    return list(dict.fromkeys(part.label if isinstance(part, Span) else part for part in parts))


class _Choice:
    """Iterative stratification in two parts: the rarest label's rows first, as few others could make up for them.

    Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-Label Data", section 3. Of many labels with
    a fraction of a row due to each, every so manieth gives a whole one: what is rounded off goes to the next label.
    """

    def __init__(
        self, sizes: Sequence[int], strata: Sequence[Counter[str]], share: float, generator: random.Random
    ) -> None:
        self._sizes, self._strata, self._share = sizes, strata, share  # rows by group; the same by stratum
        self._order = generator.sample(range(len(sizes)), len(sizes))
        self._rows: Counter[str] = Counter()  # of each stratum
        for found in strata:
            self._rows.update(found)
        ranks = {label: generator.random() for label in self._rows}
        self._labels = sorted(self._rows, key=lambda label: (self._rows[label], ranks[label]))
        self._room = max(1, round(share * sum(sizes)))  # rows
        self._taken: Counter[str] = Counter()  # rows set aside, of each stratum
        self._chosen: set[int] = set()

    def make(self) -> set[int]:
        """The numbers of the groups that are set aside."""
        self._share_out()
        self._fill_up()
        return self._chosen or self._smallest()

    def _share_out(self) -> None:
        bearers: dict[str, list[int]] = defaultdict(list)
        for number in self._order:
            for label in self._strata[number]:
                bearers[label].append(number)
        settled: set[int] = set()  # a group is thought of once, for its rarest label
        rest = 0.5  # rows; so that the sum is rounded to the nearest
        for label in self._labels:
            due = max(0.0, self._share * self._rows[label] - self._taken[label]) + rest
            wanted = int(due)
            rest = due - wanted
            for number in bearers[label]:
                rows = self._strata[number][label]
                if number not in settled and rows <= wanted and self._may_go(number):
                    self._take(number)
                    wanted -= rows
            settled.update(bearers[label])

    def _fill_up(self) -> None:
        """Where groups were too large for their labels' shares, others make up for it, within bounds."""
        for number in self._order:
            moderate = all(
                self._taken[label] == 0 or self._taken[label] + rows <= 2 * self._share * self._rows[label]
                for label, rows in self._strata[number].items()
            )
            if number not in self._chosen and moderate and self._may_go(number):
                self._take(number)

    def _smallest(self) -> set[int]:
        """One row is too few, but none is worse: a group that is larger than the share."""
        allowed = [number for number in self._order if self._leaves_some(number)]
        return set(sorted(allowed, key=lambda number: self._sizes[number])[:1])

    def _may_go(self, number: int) -> bool:
        return self._sizes[number] <= self._room and self._leaves_some(number)

    def _leaves_some(self, number: int) -> bool:
        """Whether each of the group's labels has others that stay."""
        return all(self._taken[label] + rows < self._rows[label] for label, rows in self._strata[number].items())

    def _take(self, number: int) -> None:
        self._chosen.add(number)
        self._taken.update(self._strata[number])
        self._room -= self._sizes[number]
