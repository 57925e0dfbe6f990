"""The bank: active versions stay, others come and go, and a file for another base never gets in."""

from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.adapters.file import digest
from service.adapters.manifest import BaseIdentity, TokenizerSettings
from service.adapters.methods import Head, Houlsby
from service.engine.arranging import load_resident
from service.engine.bank import BARE_TASK, Bank, Resident, bare_resident
from service.engine.base_model import BaseModel, load_base
from service.errors import BadAdapter
from tests.adapters.forge import with_manifest
from tests.tiny import build_tiny, make_adapter, make_resident


@pytest.fixture(scope="module")
def versions(tiny_base: BaseModel) -> list[Resident]:
    return [make_resident(tiny_base, version, seed=version, method=Head()) for version in range(6)]


def test_others_do_not_push_out_what_is_active(versions: list[Resident]) -> None:
    bank = Bank(others=1)
    bank.serve("toy", versions[1])
    for number in (2, 3, 4):
        bank.keep("toy", versions[number])
    assert bank.get("toy", 1) is versions[1]


def test_what_was_active_stays_among_the_others_for_a_roll_back(versions: list[Resident]) -> None:
    bank = Bank(others=1)
    bank.serve("toy", versions[1])
    bank.serve("toyota", versions[1])
    bank.serve("toy", versions[2])
    assert [bank.get("toy", number) for number in (1, 2)] == versions[1:3]
    bank.serve("toy", versions[3])
    assert [bank.get("toy", number) for number in (1, 2, 3)] == [None, *versions[2:4]]
    bank.serve("toy", versions[2])
    assert [bank.get("toy", number) for number in (2, 3)] == versions[2:4]
    assert bank.get("toyota", 1) is versions[1]
    assert bank.active() == [versions[1], versions[2]]


def test_of_the_others_the_one_unused_longest_makes_room(versions: list[Resident]) -> None:
    bank = Bank(others=2)
    bank.keep("toy", versions[1])
    bank.keep("toy", versions[2])
    assert bank.get("toy", 1) is versions[1]
    bank.keep("toy", versions[3])
    assert [bank.get("toy", number) for number in (1, 2, 3)] == [versions[1], None, versions[3]]


def test_of_the_active_ones_one_not_asked_for_does_but_never_a_pinned_tasks(versions: list[Resident]) -> None:
    bank = Bank(active=3, pinned=["a"])
    for number, task in enumerate("abc"):
        bank.serve(task, versions[number])
    assert bank.full
    assert bank.get("b", 1) is versions[1]
    assert bank.holds("c", 2)
    bank.serve("d", versions[3])
    assert [bank.get(task, number) for number, task in enumerate("abcd")] == [*versions[:2], None, versions[3]]


def test_pinned_tasks_may_be_more_than_fit(versions: list[Resident]) -> None:
    bank = Bank(active=1, pinned=["a", "b"])
    for number, task in enumerate("abc"):
        bank.serve(task, versions[number])
    assert [bank.holds(task, number) for number, task in enumerate("abc")] == [True, True, True]
    bank.serve("d", versions[3])
    assert not bank.holds("c", 2)


class BankMachine(RuleBasedStateMachine):
    """Whatever is asked: a bank gives what was put in, holds no more than its limits, and keeps what is pinned."""

    versions: list[Resident]  # set by the test that runs it

    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank(active=3, others=2, pinned=["a"])
        self.active: dict[str, int] = {}
        self.dropped: set[tuple[str, int]] = set()

    @rule(task=st.sampled_from("abcdef"), number=st.integers(0, 5))
    def serve(self, task: str, number: int) -> None:
        self.bank.serve(task, self.versions[number])
        self.active[task] = number
        self.dropped.discard((task, number))
        assert self.bank.get(task, number) is self.versions[number]

    @rule(task=st.sampled_from("abcdef"), number=st.integers(0, 5))
    def keep(self, task: str, number: int) -> None:
        self.bank.keep(task, self.versions[number])
        self.dropped.discard((task, number))
        assert self.bank.get(task, number) is self.versions[number]

    @rule(task=st.sampled_from("abcdef"), number=st.integers(0, 5))
    def drop(self, task: str, number: int) -> None:
        self.bank.drop(task, number)
        self.dropped.add((task, number))
        if self.active.get(task) == number:
            del self.active[task]

    @rule(task=st.sampled_from("abcdef"), number=st.integers(0, 5))
    def get(self, task: str, number: int) -> None:
        assert self.bank.get(task, number) in (None, self.versions[number])
        assert self.bank.holds(task, number) == (self.bank.get(task, number) is not None)

    @invariant()
    def it_holds_no_more_than_it_may_and_nothing_that_was_dropped(self) -> None:
        assert len(list(self.bank)) <= 3 + 2
        assert not any(self.bank.holds(*one) for one in self.dropped)
        if "a" in self.active:
            assert self.bank.holds("a", self.active["a"])


def test_a_bank_keeps_its_promises_whatever_is_asked(versions: list[Resident]) -> None:
    BankMachine.versions = versions
    run_state_machine_as_test(BankMachine)


def test_a_kept_version_that_becomes_active_is_held_once(versions: list[Resident]) -> None:
    bank = Bank()
    bank.keep("toy", versions[1])
    bank.serve("toy", versions[1])
    assert list(bank) == [versions[1]]


def test_what_is_dropped_is_gone(versions: list[Resident]) -> None:
    bank = Bank()
    bank.serve("toy", versions[1])
    bank.keep("toy", versions[2])
    bank.drop("toy", 1)
    bank.drop("toy", 2)
    bank.drop("toy", 3)
    assert list(bank) == []
    assert bank.get("toy", 1) is None


def test_a_bank_can_be_walked_while_it_changes(versions: list[Resident]) -> None:
    bank = Bank()
    for number in (1, 2, 3):
        bank.keep("toy", versions[number])
    seen = []
    for resident in bank:
        bank.drop("toy", resident.version)
        seen.append(resident)
    assert seen == versions[1:4]


def test_a_resident_knows_its_version_its_content_and_its_cost(tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, labels=["a", "b", "c"], method=Houlsby(bottleneck=4))
    resident = load_resident(tiny_base, data, version=7)
    parameters = 4 * (2 * 4 * 32 + 32 + 4 + 2 * 32) + 3 * 32 + 3
    assert (resident.version, resident.digest) == (7, digest(data))
    assert (resident.parameters, resident.bytes) == (parameters, 4 * parameters)


def test_an_adapter_of_another_base_of_equal_shape_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    other = load_base(str(build_tiny(tmp_path / "other", seed=1)))
    data = make_adapter(other)
    assert load_resident(other, data, version=1)
    with pytest.raises(
        BadAdapter, match=f"base other with fingerprint {other.fingerprint[:16]}.* runs {tiny_base.name}"
    ):
        load_resident(tiny_base, data, version=1)


def test_a_bases_name_does_not_matter(tiny_base: BaseModel) -> None:
    renamed = BaseIdentity(**(tiny_base.identity.model_dump() | {"name": "another name"}))
    assert load_resident(tiny_base, make_adapter(tiny_base, base=renamed), version=1)


def test_an_adapter_that_reads_further_than_the_base_is_refused(tiny_base: BaseModel) -> None:
    data = make_adapter(tiny_base, tokenizer=TokenizerSettings(max_length=65))
    with pytest.raises(BadAdapter, match=r"tokenizer\.max_length is 65, the base reads 64"):
        load_resident(tiny_base, data, version=1)


def test_a_layer_that_the_base_has_not_is_refused(tiny_base: BaseModel) -> None:
    deep = with_manifest(make_adapter(tiny_base), method={"name": "houlsby", "bottleneck": 4, "layers": [2]})
    with pytest.raises(BadAdapter, match=r"method\.layers names \[2\], but the base has layers 0 to 1"):
        load_resident(tiny_base, deep, version=1)


def test_the_bare_base_costs_nothing(tiny_base: BaseModel) -> None:
    bare = bare_resident(tiny_base)
    assert (bare.manifest.task, bare.manifest.kind, bare.version) == (BARE_TASK, "embedding", 0)
    assert (bare.parameters, bare.bytes) == (0, 0)
    assert bare.manifest.tokenizer.max_length == 64
