"""The OpenAPI document as a page."""

from textwrap import fill
from typing import Any

from service.api.app import routes
from service.api.reference import operations

HEAD = """\
# HTTP

Every call, its parameters and the fields of its body. `make docs` writes this page from the OpenAPI document, which a
service has at `/openapi.json`, and as a page at `/docs`.

What is refused changes nothing. Errors are problem documents (RFC 9457): a stable `code` for programs, a `detail` that
names the cause for people, and the `request_id`, which is also in the header `X-Request-Id` and in the log. Under the
paths of [other protocols](protocols.md) they have those protocols' form.
"""


def page() -> str:
    """docs/http.md."""
    return HEAD + "".join(map(_section, operations(routes().openapi())))


def _section(operation: dict[str, Any]) -> str:
    parts = [f"\n## {operation['name']}\n\n{operation['summary']}. Takes {operation['key']}.\n"]
    if operation["description"]:
        parts.append(f"\n{fill(operation['description'], 120, break_on_hyphens=False)}\n")
    fields = [*operation["parameters"], *(field for _, fields in operation["bodies"] for field in fields)]
    if fields:
        parts.append("\n| field | where | what it is |\n|---|---|---|\n")
        parts += [f"| `{field['name']}` | {field['place']} | {_cell(field['meaning'])} |\n" for field in fields]
    good, bad = (
        ", ".join(status for status, _ in operation["answers"] if (status < "400") == wanted)
        for wanted in (True, False)
    )
    parts.append(f"\nAnswers {good}" + (f"; refuses with {bad}.\n" if bad else ".\n"))
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
