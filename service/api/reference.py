"""GET /docs: the OpenAPI document as a page. It holds no script and fetches nothing from anywhere."""

import json
from base64 import b64encode
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    page = render(request.app.openapi())
    style = page.partition("<style>")[2].partition("</style>")[0]
    allowed = f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    policy = f"default-src 'none'; style-src {allowed}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def render(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    environment = Environment(
        loader=PackageLoader("service.api", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = operations(document)
    return environment.get_template("reference.html").render(info=document["info"], operations=found)


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What a page says of each call, in the document's order."""
    return [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _operation(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    bodies = operation.get("requestBody", {}).get("content", {})
    return {
        "name": f"{method.upper()} {path}",
        "id": operation["operationId"],
        "summary": operation["summary"],
        "description": " ".join(operation.get("description", "").split()),
        "key": _key(operation),
        "parameters": [
            _field(parameter["name"], parameter["schema"], f"{parameter['in']}, " + _needed(parameter))
            for parameter in operation.get("parameters", [])
        ],
        "bodies": [(media, list(_fields(content["schema"]))) for media, content in bodies.items()],
        "answers": [(status, answer["description"]) for status, answer in sorted(operation["responses"].items())],
    }


def _key(operation: dict[str, Any]) -> str:
    """Which key a call takes."""
    if not operation.get("security"):
        return "no key"
    [scopes] = operation["security"][0].values()
    return f"a key of scope {' or '.join(scopes)}" if scopes else "any key"


def _fields(schema: dict[str, Any], inside: str = "") -> Any:
    """Every field of a body, those of objects in it too, by its path."""
    for name, part in schema.get("properties", {}).items():
        yield _field(inside + name, part, _needed({"required": name in schema.get("required", [])}))
        yield from _fields(part, f"{inside}{name}.")


def _field(name: str, schema: dict[str, Any], place: str) -> dict[str, Any]:
    default = schema.get("default")
    if default is not None and not isinstance(default, dict):
        place += f", default {json.dumps(default)}"
    return {"name": name, "place": place, "meaning": schema.get("description", "")}


def _needed(part: dict[str, Any]) -> str:
    return "required" if part.get("required") else "optional"
