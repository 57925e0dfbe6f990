"""Every error the project raises on purpose. One place, `service/api/problems.py`, turns them into HTTP.

RootstockError
├── Unauthenticated      401  a key is needed, and none that is known came along
├── Forbidden            403  the key does not reach this far
├── CrossOrigin          403  a page of another site asks
├── Misdirected          421  the request calls the service by a name that is not its own
├── BadInput             422  what a caller sent to /predict cannot be answered
├── BadAdapter           422  an adapter file is damaged, or not made for this base
├── UnknownTask          404
├── UnknownVersion       404
├── UnknownCandidate     404  the task has no candidate
├── Conflict             409  the request contradicts what is being served
├── CallerLeft           400  the caller went away, or its body did not arrive in time
├── TooLarge             413  a body, or its list of inputs, is over the limit; in parts it would be taken
├── UnsupportedMedia     415
├── DeadlineExceeded     504  the request's time was over before its answer
├── Overloaded           503  the queue is full; come back after `retry_after` seconds
│   ├── OverQuota        429  the task has had its tokens
│   ├── Starting         503  the base and the adapters are still being loaded
│   └── Stopping         503  the service is going down and takes no new work
├── EngineFault          500  the engine failed on the batch that held this request
├── BadKeys               -   the file of API keys cannot be read, or a key cannot be made
├── NotInstalled         -   a setting needs packages that are not there
├── BadBase               -   the base model cannot be found, or the engine cannot run it
├── BadStore             500  the adapter store cannot be read or written
│   ├── StoreFull        507  it has no room for what was to be written; what is served goes on
│   ├── StoreReadOnly    503  it takes no changes; what is served goes on
│   └── StoreUnreachable 503  nothing is heard of it; what is served goes on, and what was asked may have happened
├── BadData               -   a training file is wrong; names the file and the line
│   └── Diverged          -   a training came to nothing at its learning rate
└── ServiceUnreachable    -   the client found no service, or an answer that is not one of ours
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class RootstockError(Exception):
    """`code` is stable and meant for programs; `detail` names the cause and is meant for people."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after: float | None = None  # seconds, where a second try may be answered

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Unauthenticated(RootstockError):
    status, code, title = 401, "unauthenticated", "A key is needed"


class Forbidden(RootstockError):
    status, code, title = 403, "forbidden", "The key does not allow this"


class CrossOrigin(RootstockError):
    status, code, title = 403, "cross_origin", "Pages of other sites are not answered"


class Misdirected(RootstockError):
    status, code, title = 421, "misdirected", "The request names another host"


class BadInput(RootstockError):
    status, code, title = 422, "bad_input", "The input cannot be answered"


class BadAdapter(RootstockError):
    """`facts` say for programs what `detail` says: `step`; where there is one `tensor` or `example`; `expected`, `got`.

    The steps, in order: header, manifest, base, tensors, values, seal; in the engine outputs, golden, change, mixture.
    """

    status, code, title = 422, "bad_adapter", "The adapter file is refused"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.facts = facts


@contextmanager
def noting(**facts: Any) -> Iterator[None]:
    """Adds facts to a refusal from this block, but for those that it has."""
    try:
        yield
    except BadAdapter as error:
        error.facts = facts | error.facts
        raise


class UnknownTask(RootstockError):
    status, code, title = 404, "unknown_task", "No such task"


class UnknownVersion(RootstockError):
    status, code, title = 404, "unknown_version", "No such version"


class UnknownCandidate(RootstockError):
    status, code, title = 404, "unknown_candidate", "No candidate"


class Conflict(RootstockError):
    status, code, title = 409, "conflict", "The request contradicts the current state"


class CallerLeft(RootstockError):
    status, code, title = 400, "caller_left", "The request did not arrive, or nobody waits for its answer"


class TooLarge(RootstockError):
    status, code, title = 413, "too_large", "The request is too large"


class UnsupportedMedia(RootstockError):
    status, code, title = 415, "unsupported_media_type", "The media type is not accepted"


class DeadlineExceeded(RootstockError):
    status, code, title = 504, "deadline_exceeded", "The request's time is over"


class Overloaded(RootstockError):
    status, code, title = 503, "overloaded", "The service has all the work it can hold"

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OverQuota(Overloaded):
    status, code, title = 429, "over_quota", "The task has had its quota"


class Starting(Overloaded):
    code, title = "starting", "The service is starting"


class Stopping(Overloaded):
    code, title = "stopping", "The service is stopping"


class EngineFault(RootstockError):
    code, title = "engine_fault", "The engine failed on this batch"


class BadKeys(RootstockError):
    code, title = "bad_keys", "The keys cannot be used"


class NotInstalled(RootstockError):
    code, title = "not_installed", "A package is missing"


class BadBase(RootstockError):
    code, title = "bad_base", "The base model cannot be used"


class BadStore(RootstockError):
    code, title = "bad_store", "The adapter store cannot be used"


class StoreFull(BadStore):
    status, code, title = 507, "store_full", "The adapter store is full"


class StoreReadOnly(BadStore):
    status, code, title = 503, "store_read_only", "The adapter store takes no changes"
    retry_after = 60.0  # somebody has to see to it


class StoreUnreachable(BadStore):
    status, code, title = 503, "store_unreachable", "The adapter store cannot be reached"
    retry_after = 5.0


class BadData(RootstockError):
    code, title = "bad_data", "The data cannot be used"


class Diverged(BadData):
    code, title = "diverged", "The training diverged"


class ServiceUnreachable(RootstockError):
    code, title = "unreachable", "The service cannot be reached"
