"""The rules as they are shipped, read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from service.metrics import PROCESS, ROWS

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
RULE_FILES = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
NAME = re.compile(r"\b(?:[a-z_]+:)?(?:rootstock|process)_[a-z0-9_]+(?::[a-z0-9_]+)?")


def rules() -> Iterator[dict[str, Any]]:
    for file in RULE_FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def recorded() -> list[str]:
    return [rule["record"] for rule in rules() if "record" in rule]


def exposed() -> set[str]:
    """Names of all samples that a service may expose."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {row.exposed + part for row in (*ROWS, *PROCESS) for part in parts.get(row.kind, ("",))}


def names(expression: str) -> set[str]:
    """The metrics and recorded series that an expression reads."""
    return set(NAME.findall(re.sub(r'"[^"]*"', "", expression)))
