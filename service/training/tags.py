"""BIO tags, one for each word: where an entity begins and goes on (Ramshaw and Marcus 1995, cmp-lg/9505040)."""

from collections.abc import Sequence

from service.tasks import Span

OUTSIDE = "O"


def parse_tag(tag: str) -> tuple[str, str]:
    """A tag's letter and its label; outside of entities the label is empty.

    Raises:
        ValueError: it is no BIO tag.
    """
    letter, _, label = tag.partition("-")
    if tag != OUTSIDE and (letter not in ("B", "I") or not label):
        raise ValueError(f"tag {tag!r} is neither O nor B-… nor I-…")
    return letter, label


def is_tag(tag: str) -> bool:
    try:
        parse_tag(tag)
    except ValueError:
        return False
    return True


def join(words: Sequence[str], tags: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """Words with their tags as one text with spans. An I- that continues nothing begins an entity, as a B- does.

    Raises:
        ValueError: there are not as many tags as words, or one of them is no BIO tag.
    """
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} words, but {len(tags)} tags")
    spans: list[Span] = []
    position, going_on = 0, False
    for word, tag in zip(words, tags, strict=True):
        letter, label = parse_tag(tag)
        end = position + len(word)
        if letter == OUTSIDE:
            going_on = False
        elif letter == "I" and going_on and spans[-1].label == label:
            spans[-1] = Span(spans[-1].start, end, label)
        else:
            spans.append(Span(position, end, label))
            going_on = True
        position = end + 1
    return " ".join(words), tuple(spans)
