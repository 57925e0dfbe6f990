"""A foreign head, which must be one linear layer, as ours: rows in our order, with labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.adapters.manifest import KindName
from service.errors import BadAdapter

OUTSIDE, BEGINS, GOES_ON = "O", "B-", "I-"


class Head(NamedTuple):
    """Nothing but the kind where the adapter only embeds."""

    kind: KindName = "embedding"
    weight: Tensor | None = None  # [rows, hidden]
    bias: Tensor | None = None  # [rows]
    labels: Sequence[str] | None = None  # the folder's own, by row


def arrange(head: Head, given: Sequence[str] | None) -> tuple[list[str], dict[str, Tensor]]:
    """The manifest's labels, and the head's tensors.

    Args:
        given: what the user calls the rows, before the folder's own names.
    """
    if head.weight is None or head.bias is None:
        _check_none(head.kind, given)
        return [], {}
    if head.kind in ("answer", "regression"):
        _check_none(head.kind, given)
        rows = list(range(len(head.weight)))
        labels: list[str] = []
    else:
        names = _names(len(head.weight), head.labels, given)
        labels, rows = _by_entity(names) if head.kind == "tagging" else (names, list(range(len(names))))
    order = torch.tensor(rows)
    return labels, {"head.weight": head.weight[order], "head.bias": head.bias[order]}


def _check_none(kind: KindName, given: Sequence[str] | None) -> None:
    if given:
        raise BadAdapter(f"--labels names {len(given)} labels, but kind {kind} has none")


def _names(rows: int, own: Sequence[str] | None, given: Sequence[str] | None) -> list[str]:
    names = given or own
    if not names:
        raise BadAdapter(f"the folder names no labels: name the head's {rows} rows with --labels, in their order")
    if len(names) != rows:
        where = "--labels" if given else "the folder"
        raise BadAdapter(f"{where} names {len(names)} labels, but the head has {rows} rows (--labels a,b,c)")
    return list(names)


def _by_entity(tags: Sequence[str]) -> tuple[list[str], list[int]]:
    """What BIO tags are of, and the rows in our order: outside, then "begins" and "goes on" of each."""
    for tag in tags:
        if tag != OUTSIDE and not tag.startswith((BEGINS, GOES_ON)):
            raise BadAdapter(f"tag {tag!r} is neither O nor B-… nor I-…; other tag sets are not supported")
    labels = list(dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE))
    wanted = [OUTSIDE, *(first + label for label in labels for first in (BEGINS, GOES_ON))]
    for tag in wanted:
        if tags.count(tag) != 1:
            raise BadAdapter(f"tag {tag!r} is named {tags.count(tag)} times; each entity needs B- and I-, beside one O")
    return labels, [tags.index(tag) for tag in wanted]
