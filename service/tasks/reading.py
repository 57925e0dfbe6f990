"""From inputs to rows of tokens: one row an input, or overlapping windows where a kind must not lose a word."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple
from unicodedata import category

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

Ids = NDArray[np.int64]


class Given(NamedTuple):
    """One input as it was sent: a text, or two."""

    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """What the encoder reads as one sequence; special tokens included."""

    ids: Ids  # [length]
    types: Ids  # [length]; 0 for the first text, 1 for the second
    truncated: bool
    # For kinds that point into a text: the only one, or the second of a pair.
    spans: Ids | None = None  # [length, 2]: the token's characters [from, to) in that text
    words: Ids | None = None  # [length]: the number of its word there; -1 for all other tokens

    def __len__(self) -> int:
        return len(self.ids)


class Reading(NamedTuple):
    """An input with its rows."""

    given: Given
    rows: tuple[TokenizedRow, ...]

    @property
    def truncated(self) -> bool:
        return self.rows[0].truncated


def read(
    tokenizer: Tokenizer, inputs: Sequence[Given], max_length: int, overlap: int | None = None, spans: bool = False
) -> list[Reading]:
    """Tokenises inputs, all of them texts or all of them pairs.

    What is longer than `max_length` tokens is cut; a pair is cut from the end of whichever text is longer, so that
    both keep what they can. The tokenizer's own truncation is not used: it is state, and tasks with different
    lengths share one tokenizer.

    Args:
        overlap: instead of cutting a pair, read its second text in windows that share this many tokens; its first
            text is cut to half the room. For kinds that look for something in the second text.
        spans: also note where in the text each token stands.
    """
    encode = tokenizer.encode_batch if spans else tokenizer.encode_batch_fast  # which leaves out where tokens stand
    firsts = encode([given.text for given in inputs], add_special_tokens=False)
    paired = bool(inputs) and inputs[0].text_pair is not None
    seconds = encode([given.text_pair or "" for given in inputs], add_special_tokens=False) if paired else None
    room = max_length - tokenizer.num_special_tokens_to_add(paired)
    readings = []
    for given, first, second in zip(inputs, firsts, seconds or repeat(None, len(inputs)), strict=True):
        windows: list[Encoding | None]
        if second is not None and overlap is not None:
            truncated, windows = _windows(first, second, room, overlap)
        else:
            truncated, windows = _cut(first, second, room), [second]
        wholes = [tokenizer.post_process(first, window) for window in windows]
        ends = _ends((given.text_pair if paired else given.text) or "") if spans else None
        readings.append(Reading(given, tuple(_row(whole, truncated, ends) for whole in wholes)))
    return readings


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> list[TokenizedRow]:
    """One row a text, or a pair of texts, cut to `max_length`."""
    given = [Given(text, pairs[i] if pairs is not None else None) for i, text in enumerate(texts)]
    return [reading.rows[0] for reading in read(tokenizer, given, max_length)]


def _row(whole: Encoding, truncated: bool, ends: Ids | None) -> TokenizedRow:
    ids, types = np.array(whole.ids), np.array(whole.type_ids)
    if ends is None:
        return TokenizedRow(ids, types, truncated)
    text = whole.n_sequences - 1
    words = np.array([w if s == text else -1 for w, s in zip(whole.word_ids, whole.sequence_ids, strict=True)])
    spans, mine = np.array(whole.offsets), words >= 0
    spans[mine, 1] = ends[spans[mine, 1]]
    return TokenizedRow(ids, types, truncated, spans, words)


def _ends(text: str) -> Ids:
    """Where a token that ends at a character really ends: tokenizers drop the marks that belong to its last letter."""
    ends = np.arange(len(text) + 1)
    if not text.isascii():
        for i in range(len(text) - 1, -1, -1):
            if category(text[i]) == "Mn":
                ends[i] = ends[i + 1]
    return ends


def _cut(first: Encoding, second: Encoding | None, room: int) -> bool:
    """Shortens in place until both texts fit into `room` tokens; says whether it had to."""
    if second is None:
        if len(first) <= room:
            return False
        _shorten(first, room)
        return True
    keep_first, keep_second = share(len(first), len(second), room)
    if (keep_first, keep_second) == (len(first), len(second)):
        return False
    _shorten(first, keep_first)
    _shorten(second, keep_second)
    return True


def _shorten(encoding: Encoding, length: int) -> None:
    """Cuts in place.

    What is cut off stays with the encoding, in pieces that `post_process` would combine with all those of the other
    text. A second cut, by one token, leaves one piece.
    """
    encoding.truncate(length + 1)
    encoding.truncate(length)


def _windows(first: Encoding, second: Encoding, room: int, overlap: int) -> tuple[bool, list[Encoding | None]]:
    """The second text in pieces that fit beside the first; whether the first had to be cut."""
    truncated = len(first) > room // 2
    if truncated:
        _shorten(first, room // 2)
    width = room - len(first)
    if len(second) > width:
        second.truncate(width, stride=min(overlap, width // 2))
    return truncated, [second, *second.overflowing]


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two texts of these lengths keep in `room`: the longer one gives first."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half:
        return room - second, second
    return half, room - half
