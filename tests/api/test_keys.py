"""API keys: who has the secret has the key, nobody else has, and the file follows what is said of it."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from click.testing import CliRunner, Result
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from pydantic import ValidationError

from service.api.keys import SECRET_PREFIX, Key, Keyring, KeysFile, Scope
from service.cli import main
from service.errors import BadKeys

SCOPES: tuple[Scope, ...] = get_args(Scope)


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


def test_a_secret_is_found_by_its_key_alone(file: KeysFile) -> None:
    secrets = {name: file.add(name, ["predict"], None) for name in ("old", "new")}
    table = file.read()
    for name, secret in secrets.items():
        found = table.find(secret)
        assert found is not None
        assert found.name == name
    hashes = [key.sha256 for key in table.keys]
    for other in ("", "secret", SECRET_PREFIX, *hashes, *(secret[:-1] for secret in secrets.values()), "ä"):
        assert table.find(other) is None


def test_the_file_holds_no_secret(file: KeysFile) -> None:
    secret = file.add("ci", ["predict"], None)
    written = file.path.read_text()
    assert secret.removeprefix(SECRET_PREFIX) not in written
    assert json.loads(written)["keys"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()


def test_secrets_differ_and_are_long(file: KeysFile) -> None:
    secrets = {file.add(f"key-{number}", ["predict"], None) for number in range(20)}
    assert len(secrets) == 20
    assert all(secret.startswith(SECRET_PREFIX) and len(secret) > len(SECRET_PREFIX) + 40 for secret in secrets)


def test_the_file_is_its_owners_alone_unless_it_was_others_too(file: KeysFile) -> None:
    file.add("ci", ["predict"], None)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o640)
    file.add("other", ["predict"], None)
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]


def test_changes_at_once_undo_none_of_each_other(file: KeysFile) -> None:
    names = [f"key-{number}" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: KeysFile(file.path).add(name, ["predict"], None), names))
    assert sorted(key.name for key in file.read().keys) == sorted(names)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-a", "line\nbreak", "a" * 65, "ключ"])
def test_a_name_that_could_not_stand_in_a_log_is_refused(file: KeysFile, name: str) -> None:
    with pytest.raises(BadKeys, match="is no name for a key"):
        file.add(name, ["predict"], None)
    assert not file.path.exists()


def test_a_key_cannot_be_limited_to_what_is_no_task(file: KeysFile) -> None:
    with pytest.raises(ValidationError, match="tasks"):
        file.add("ci", ["predict"], ["No Task"])
    assert not file.path.exists()


KEY = {"name": "ci", "sha256": "0" * 64, "scopes": ["predict"], "made": "2026-01-31"}


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        ("", "Invalid JSON"),
        ("[]", "should be an object"),
        ("{}", "keys: Field required"),
        ({"keys": [KEY | {"scopes": []}]}, r"keys\.0\.scopes"),
        ({"keys": [KEY | {"scopes": ["all"]}]}, r"keys\.0\.scopes\.0"),
        ({"keys": [KEY | {"tasks": []}]}, r"keys\.0\.tasks"),
        ({"keys": [KEY | {"sha256": "secret-in-the-clear"}]}, r"keys\.0\.sha256"),
        ({"keys": [KEY | {"secret": "secret-in-the-clear"}]}, "no field secret"),
        ({"keys": [KEY, KEY]}, "two keys are named ci"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(file: KeysFile, written: object, cause: str) -> None:
    file.path.write_text(written if isinstance(written, str) else json.dumps(written))
    before = file.path.read_bytes()
    for change in (file.read, lambda: file.add("other", ["predict"], None), lambda: file.remove("ci")):
        with pytest.raises(BadKeys, match=cause) as raised:
            change()
        assert raised.value.detail.startswith(f"{file.path}: ")
        assert "in-the-clear" not in raised.value.detail
    assert file.path.read_bytes() == before


def test_a_service_needs_the_file_that_it_is_told_of(file: KeysFile) -> None:
    with pytest.raises(BadKeys, match=r"keys\.json: No such file"):
        Keyring(file)


def test_what_cannot_be_read_leaves_the_keys_as_they_were_and_is_said_once(file: KeysFile) -> None:
    secret = file.add("ci", ["predict"], None)
    ring = Keyring(file)
    for spoil in (lambda: file.path.write_text("{"), file.path.unlink):
        spoil()
        with pytest.raises(BadKeys):
            ring.refresh()
        assert ring.refresh() is False
        assert ring.table.find(secret) is not None
    file.add("new", ["predict"], None)
    assert ring.refresh() is True
    assert ring.table.find(secret) is None


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_has_its_scopes_and_admin_has_all(scope: Scope) -> None:
    key = Key.model_validate(KEY | {"scopes": [scope], "made": "2026-01-31"}, strict=False)
    assert [other for other in SCOPES if key.has(other)] == (list(SCOPES) if scope == "admin" else [scope])


class AnyHistory(RuleBasedStateMachine):
    """Whatever keys are made and removed, a service that follows the file knows those that are in it, and no others."""

    live = Bundle("live")  # (name, secret)
    gone = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = KeysFile(Path(self.folder.name) / "keys.json")
        self.names = {"first"}
        self.file.add("first", ["predict"], None)
        self.ring = Keyring(self.file)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=live, name=st.text("abc", min_size=1, max_size=2), scopes=st.sets(st.sampled_from(SCOPES), min_size=1))
    def add(self, name: str, scopes: set[Scope]) -> tuple[str, str]:
        if name in self.names:
            with pytest.raises(BadKeys, match=f"there is a key {name}"):
                self.file.add(name, sorted(scopes), None)
            return name, ""
        self.names.add(name)
        return name, self.file.add(name, sorted(scopes), None)

    @rule(target=gone, key=consumes(live))
    def remove(self, key: tuple[str, str]) -> str:
        name, secret = key
        if name in self.names and secret:
            self.file.remove(name)
            self.names.discard(name)
        return secret

    @rule(key=live)
    def a_live_key_is_found(self, key: tuple[str, str]) -> None:
        name, secret = key
        if secret:
            self.ring.refresh()
            found = self.ring.table.find(secret)
            assert found is not None
            assert found.name == name

    @rule(secret=gone)
    def a_removed_key_is_not(self, secret: str) -> None:
        self.ring.refresh()
        assert self.ring.table.find(secret) is None

    @invariant()
    def the_file_holds_the_names(self) -> None:
        assert {key.name for key in self.file.read().keys} == self.names


TestAnyHistory = AnyHistory.TestCase


def run(file: KeysFile, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments], env={"ROOTSTOCK_KEYS_FILE": str(file.path)})


def test_the_program_makes_lists_and_removes_keys(file: KeysFile) -> None:
    made = run(file, "add", "ci", "--scope", "predict", "--scope", "upload", "--task", "spam")
    assert made.exit_code == 0
    key = file.read().find(made.stdout.strip())
    assert key is not None
    assert (key.name, key.scopes, key.tasks) == ("ci", ["predict", "upload"], ["spam"])
    run(file, "add", "boss", "--scope", "admin")
    listed = run(file, "list")
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["ci", str(key.made), "predict,", "upload", "spam"],
        ["boss", str(key.made), "admin", "all", "tasks"],
    ]
    assert run(file, "remove", "ci").stdout == "removed ci\n"
    assert [key.name for key in file.read().keys] == ["boss"]


def test_the_program_says_what_it_cannot_do(file: KeysFile) -> None:
    assert "No such file" in run(file, "list").output
    assert run(file, "add", "ci").exit_code == 2
    assert "'all' is not one of" in run(file, "add", "ci", "--scope", "all").output
    assert run(file, "add", "ci", "--scope", "predict", "--task", "No Task").output.startswith("Error: tasks.0: ")
    assert "there is no key ci" in run(file, "remove", "ci").output
    assert run(file, "add", "ci", "--scope", "predict").exit_code == 0
    assert "there is a key ci" in run(file, "add", "ci", "--scope", "predict").output
