"""AdapterHub's heads: rows, labels and tags as they were, or refused by name."""

from pathlib import Path
from typing import Any

import pytest

from service.adapters.foreign import Imported, read_foreign
from service.engine.base_model import BaseModel
from service.errors import BadAdapter
from tests.adapters.foreign.made import adapterhub, bottlenecks, foreign_base, head


def taken(folder: Path, base: BaseModel, **options: Any) -> Imported:
    return read_foreign(folder, foreign_base(base), **options)


def test_heads_keep_their_rows_and_labels(tiny_base: BaseModel, tmp_path: Path) -> None:
    folder = adapterhub(tmp_path, bottlenecks({0: 4, 1: 4}))
    weight, _ = head(folder, "classification", 3, ["a", "b", "c"])
    imported = taken(folder, tiny_base)
    assert (imported.kind, imported.labels, imported.pooled_first) == ("classification", ["a", "b", "c"], True)
    assert imported.tensors["head.weight"].equal(weight)
    assert taken(folder, tiny_base, labels=["x", "y", "z"]).labels == ["x", "y", "z"]
    head(folder, "classification", 1)
    assert taken(folder, tiny_base).kind == "regression"
    head(folder, "question_answering", 2)
    assert taken(folder, tiny_base).kind == "answer"
    head(folder, "multilabel_classification", 2, ["a", "b"])
    assert taken(folder, tiny_base).kind == "multilabel"


def test_tags_are_put_into_our_order(tiny_base: BaseModel, tmp_path: Path) -> None:
    folder = adapterhub(tmp_path, bottlenecks({0: 4, 1: 4}))
    weight, bias = head(folder, "tagging", 5, ["I-PER", "O", "B-LOC", "B-PER", "I-LOC"])
    imported = taken(folder, tiny_base)
    assert imported.labels == ["PER", "LOC"]
    assert imported.tensors["head.weight"].equal(weight[[1, 3, 0, 2, 4]])
    assert imported.tensors["head.bias"].equal(bias[[1, 3, 0, 2, 4]])
    for tags, cause in ((["NOUN", "O"], "tag 'NOUN' is neither"), (["O", "B-X"], "tag 'I-X' is named 0 times")):
        head(folder, "tagging", 2, tags)
        with pytest.raises(BadAdapter, match=cause):
            taken(folder, tiny_base)


@pytest.mark.parametrize(
    ("kind", "rows", "config", "cause"),
    [
        ("classification", 2, {"layers": 2}, "layers = 2 is not supported: a layer with an activation"),
        ("classification", 2, {"use_pooler": True}, "use_pooler = true"),
        ("classification", 2, {}, "the folder names no labels"),
        ("question_answering", 3, {}, "num_labels = 3"),
        ("multiple_choice", 2, {}, "head_type = 'multiple_choice' is not supported"),
        ("classification", 2, {"label2id": {"a": 0}}, "the folder names 1 labels, but the head has 2 rows"),
    ],
)
def test_heads_that_ours_cannot_be_are_refused(
    tiny_base: BaseModel, tmp_path: Path, kind: str, rows: int, config: dict[str, Any], cause: str
) -> None:
    folder = adapterhub(tmp_path, bottlenecks({0: 4, 1: 4}))
    head(folder, kind, rows, **config)
    with pytest.raises(BadAdapter, match=cause):
        taken(folder, tiny_base)
