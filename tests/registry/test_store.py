"""What every store promises, whatever it is: the same bytes come back, a number is given once, a state is replaced only
where it is the one that was read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
from obstore.store import MemoryStore

from service.adapters.file import digest
from service.errors import BadStore, StoreFull, StoreReadOnly, UnknownVersion
from service.registry.folder import FolderStore
from service.registry.log import Entry
from service.registry.objects import PROBE, ObjectStore
from service.registry.store import Changed, Found, Given, Kept, State, Store
from service.registry.stores import open_store
from tests.s3 import environment

Open = Callable[[], Store]  # one more service on the same files


@pytest.fixture(params=["folder", "objects", pytest.param("s3", marks=pytest.mark.slow)])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "folder":
        return lambda: FolderStore(tmp_path)
    if request.param == "s3":
        bucket = request.getfixturevalue("s3").bucket()
        return lambda: open_store(bucket)
    objects = MemoryStore()
    return lambda: ObjectStore("memory://", objects)


@pytest.fixture
def store(another: Open) -> Store:
    return another()


def entry(version: int) -> Entry:
    return Entry(
        at=datetime(2026, 1, 2, tzinfo=UTC),
        by="us",
        did="activate",
        version=version,
        digest="0" * 64,
        before=1,
        after=2,
    )


def test_what_is_written_is_read_back(store: Store, another: Open) -> None:
    tags = [store.write("toy", 1, b"one"), store.write("toy", 12, b"twelve"), store.write("spam-filter", 1, b"")]
    state = State(active=12, last=13, versions={12: Given(digest=digest(b"twelve"))}, earlier=100, log=(entry(12),))
    tag = store.write_state("toy", state, None)
    again = another()
    assert again.list() == {
        "spam-filter": Found({1: tags[2]}),
        "toy": Found({1: tags[0], 12: tags[1]}, tag),
    }
    assert again.state("toy") == Kept(state, tag)
    assert again.state("spam-filter") is None
    assert [again.read("toy", 12), again.read("spam-filter", 1)] == [b"twelve", b""]
    with again.reading("toy", 12) as content:
        assert (bytes(content.data), content.tag) == (b"twelve", tags[1])


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", [0, 5, 8, 100, 70_000, 200_000])
def test_a_file_is_looked_at_by_its_head(store: Store, size: int, known: bool) -> None:
    header = (100_000).to_bytes(8, "little") + b"x" * 200_000
    tag = store.write("toy", 1, header[:size])
    look = store.look("toy", 1, digest(header[:size]) if known else None)
    assert (look.digest, look.size, look.tag) == (digest(header[:size]), size, tag)
    assert look.head[:100_008] == header[: min(size, 100_008)]


def test_a_file_that_is_not_there_is_an_unknown_version(store: Store) -> None:
    missing = "task toy has no version 4: its file is missing"
    for ask in (store.read, store.look):
        with pytest.raises(UnknownVersion, match=missing):
            ask("toy", 4)
    with pytest.raises(UnknownVersion, match=missing), store.reading("toy", 4):
        pass


def test_a_file_that_is_there_is_never_replaced(store: Store) -> None:
    tag = store.write("toy", 1, b"one")
    with pytest.raises(FileExistsError):
        store.write("toy", 1, b"two")
    assert store.read("toy", 1) == b"one"
    assert store.list() == {"toy": Found({1: tag})}


def test_what_is_removed_is_gone_and_may_be_removed_again(store: Store) -> None:
    store.write("toy", 1, b"one")
    store.write("toy", 2, b"two")
    store.remove("toy", 1)
    store.remove("toy", 1)
    assert list(store.list()["toy"].versions) == [2]


def test_a_state_is_replaced_only_where_it_is_the_one_that_was_read(store: Store, another: Open) -> None:
    first, second, third = (State(active=None, last=number) for number in range(3))
    tag = store.write_state("toy", first, None)
    with pytest.raises(Changed):
        another().write_state("toy", second, None)
    other = another()
    assert other.state("toy") == Kept(first, tag)
    new = other.write_state("toy", second, tag)
    assert new != tag
    with pytest.raises(Changed):
        store.write_state("toy", third, tag)
    assert store.state("toy") == Kept(second, new)
    assert store.list()["toy"].state == new
    assert store.write_state("toy", third, new) == store.list()["toy"].state


def test_a_state_that_is_gone_is_not_replaced(store: Store, another: Open) -> None:
    tag = store.write_state("toy", State(active=None, last=0), None)
    with pytest.raises(Changed):
        store.write_state("spam", State(active=None, last=0), tag)
    assert list(another().list()) == ["toy"]


def test_of_many_at_once_one_gets_a_number_and_one_replaces_a_state(another: Open) -> None:
    stores = [another() for _ in range(4)]
    before = stores[0].write_state("toy", State(active=None, last=0), None)
    for number in range(1, 20):
        start, created, replaced = Barrier(len(stores)), list[str](), list[str]()

        def write(store: Store, own: bytes, number: int, before: str, start: Barrier) -> None:
            store.state("toy")
            start.wait(30)
            with suppress(FileExistsError):
                created.append(store.write("toy", number, own))  # noqa: B023
            with suppress(Changed):
                replaced.append(store.write_state("toy", State(active=None, last=number), before))  # noqa: B023

        threads = [
            Thread(target=write, args=(store, bytes([index]), number, before, start))
            for index, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(created) == 1
        # Who writes the same may be told that it is there; the tag is one all the same.
        assert len(set(replaced)) == 1
        before = replaced[0]


def test_parts_of_a_log_are_kept_as_they_were_written_first(store: Store) -> None:
    log = tuple(entry(number) for number in range(1, 4))
    store.archive("toy", 1, log)
    store.archive("toy", 1, log[:1])
    store.archive("toy", 101, ())
    assert (store.archived("toy", 1), store.archived("toy", 101)) == (log, ())
    assert store.list() == {}
    with pytest.raises(BadStore, match=r"toy-201\.log"):
        store.archived("toy", 201)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b"[]", b'{"active": 1}', b'{"active": "x", "last": 1}', b'{"last": 1, "next": 2}'),
        *(b'{"active": 0, "last": 1}', b'{"active": null, "last": -1}'),
    ],
)
def test_a_damaged_state_is_named_and_can_be_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.json").write_bytes(content)
    objects = MemoryStore()
    objects.put("toy.json", content)
    for store in (FolderStore(tmp_path), ObjectStore("memory://", objects)):
        kept = store.state("toy")
        assert kept is not None
        assert isinstance(kept.state, BadStore)
        assert kept.state.detail.startswith("store: toy.json is not a task's state: ")
        assert kept.tag == store.list()["toy"].state
        store.write_state("toy", State(active=None, last=0), kept.tag)


@pytest.mark.parametrize("where", ["ftp://here/there", "s3://", "http://bucket", "memory://"])
def test_a_store_that_nobody_knows_is_refused(where: str) -> None:
    with pytest.raises(BadStore, match=f"store {where}"):
        open_store(where)


def test_an_object_store_that_ignores_conditions_is_refused() -> None:
    class Careless(MemoryStore):
        def put(self, path, file, **how):  # type: ignore[no-untyped-def]
            return super().put(path, file)

    careless = Careless()
    with pytest.raises(BadStore, match="does not honour conditional writes"):
        ObjectStore("memory://", careless)
    assert not careless.list_with_delimiter()["objects"]  # that another start would take for a store that does


@contextmanager
def refusing_endpoint(status: int, code: str) -> Iterator[str]:
    """S3 over HTTP that has seen a service, and now answers every change so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(*((200, "") if self.path.endswith(PROBE) else (404, "NoSuchKey")))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, code)

        def do_POST(self) -> None:  # removals
            self.do_PUT()

        def answer(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code></Error>".encode() if self.command != "HEAD" else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Fri, 02 Jan 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (507, "XMinioStorageFull", StoreFull),
        (400, "XMinioAdminBucketQuotaExceeded", StoreFull),
        (403, "QuotaExceeded", StoreFull),
        (403, "AccessDenied", StoreReadOnly),
    ],
)
def test_an_object_store_that_takes_no_changes_is_served_from_and_says_why(
    status: int, code: str, error: type[BadStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing_endpoint(status, code) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://bucket/folder")
        assert store.state("toy") is None
        with pytest.raises(error, match=rf"store s3://bucket/folder: toy-1.safetensors cannot be written: {status}"):
            store.write("toy", 1, b"one")
        with pytest.raises(error, match=f"toy.json cannot be written: {status}"):
            store.write_state("toy", State(active=None, last=0), None)
        with pytest.raises(error, match=f"toy-1.safetensors cannot be removed: {status}"):
            store.remove("toy", 1)
