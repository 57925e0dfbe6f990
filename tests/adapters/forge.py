"""Adapter files that lie: a true file taken apart, one claim changed, and put together again."""

import json
from typing import Any

from service.adapters.file import MANIFEST_KEY


def take_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, the tensors' bytes)."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: Any, payload: bytes) -> bytes:
    return with_header(json.dumps(header).encode(), payload)


def with_header(text: bytes, payload: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + payload


def with_entry(data: bytes, name: str, **claims: Any) -> bytes:
    """The file with other claims about one tensor."""
    header, payload = take_apart(data)
    header[name] |= claims
    return put_together(header, payload)


def with_manifest(data: bytes, **fields: Any) -> bytes:
    """The file with other fields in its manifest, and without a seal."""
    header, payload = take_apart(data)
    manifest = json.loads(header["__metadata__"][MANIFEST_KEY]) | {"seal": None} | fields
    header["__metadata__"][MANIFEST_KEY] = json.dumps(manifest)
    return put_together(header, payload)
