"""Names that differ and yet are one: to the eye, or to CLIP's tokenizer. Knows no layout."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.datasets.names import DatasetError
from pipeline.markdown import escaped

SHOWN = 20  # what a list of a report names; the counts are always complete

# What CLIP's tokenizer takes for a word, a digit, or a run of other marks; white space only parts them.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\w\s]|_)+")


def as_read(text: str) -> str:
    """A text as CLIP's tokenizer reads it: equal results have equal embeddings.

    Source: the tokenizer's normaliser (NFC, white space, lower case letter by letter) and pre-tokenizer.

    >>> as_read("Red  Disc"), as_read("T-shirt") == as_read("t - SHIRT")
    ('red disc', True)
    """
    return " ".join(_PIECES.findall("".join(map(str.lower, unicodedata.normalize("NFC", text)))))


def as_seen(name: str) -> str:
    """What is left of a name for a hasty eye: no capitals, one space for white space and underscores, nothing unseen.

    >>> as_seen("Take__Cup"), as_seen("cafe\\u0301\\u200b") == as_seen("CAF\\u00c9")
    ('take cup', True)
    """
    if not name.isascii():
        name = unicodedata.normalize("NFC", "".join(mark for mark in name if not _is_unseen(mark)))
    return " ".join(name.casefold().replace("_", " ").split())


def _is_unseen(mark: str) -> bool:
    return unicodedata.category(mark) == "Cf"


def _holds_unseen(name: str) -> bool:
    return not name.isascii() and any(map(_is_unseen, name))


def twins(names: Iterable[str], seen_as: Callable[[str], str] = as_seen) -> list[list[str]]:
    """Groups of different names that are one to `seen_as`.

    >>> twins(["cup", "Cup", "tea", "cup"])
    [['cup', 'Cup']]
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(seen_as(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def told(name: str) -> str:
    """A name in quotes that no other name looks like: what is not seen, or composed otherwise, is escaped.

    >>> print(told("caf\\u00e9"), told("cafe\\u0301"), told("cup\\u200b"))
    'café' 'cafe\\u0301' 'cup\\u200b'
    """
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def but_for_looks(name: str, known: Iterable[str]) -> str:
    """What to add to "there is no such name" where there is one that looks like it; else nothing.

    >>> but_for_looks("Take cup", ["SIL", "take_cup"])
    " ('take_cup' is one)"
    """
    seen = as_seen(name)
    other = next((other for other in known if as_seen(other) == seen), None)
    return "" if other is None else f" ({told(other)} is one)"


def confusable(named: Mapping[str, Iterable[str]], seen_as: Callable[[str], str] = as_seen) -> dict[str, Any]:
    """What the quality report says of names: JSON-able.

    Args:
        named: what is named -> the names, repeated or not.
        seen_as: as of `twins`.

    Returns:
        `alike` {what: {count, groups}}, the `twins`, and `unseen` {what: {count, names}}, the names with a character
        that no font draws (a zero-width space, a mark of direction, a soft hyphen); what there is none of is absent.
    """
    pairs = {what: twins(names, seen_as) for what, names in named.items()}
    odd = {what: [name for name in dict.fromkeys(names) if _holds_unseen(name)] for what, names in named.items()}
    found = {
        "alike": {what: {"count": len(of), "groups": of[:SHOWN]} for what, of in pairs.items() if of},
        "unseen": {what: {"count": len(of), "names": of[:SHOWN]} for what, of in odd.items() if of},
    }
    return {key: value for key, value in found.items() if value}


def confusable_lines(report: Mapping[str, Any]) -> list[str]:
    """`confusable` in Markdown, with what to do."""
    lines = []
    for what, found in report.get("alike", {}).items():
        if what == "texts":
            differ, remedy = "that CLIP reads as one", "in one list of classes they are an error"
        else:
            differ = "whose names differ in capitals, in spaces or in what is not seen alone"
            remedy = "write what is one in one way, and rename what is two"
        groups = "; ".join(", ".join(escaped(told(name)) for name in group) for group in found["groups"])
        lines.append(f"{what.capitalize()} {differ}: {found['count']} groups: {groups}; {remedy}.")
    for what, found in report.get("unseen", {}).items():
        names = ", ".join(escaped(ascii(name)) for name in found["names"])
        lines.append(f"{what.capitalize()} with a character that nobody sees: {found['count']}, {names}; remove it.")
    return lines


def refuse_one_text(names: Sequence[str], texts: Sequence[str], where: str, vectors_CE: np.ndarray) -> None:
    """Refuses classes that CLIP cannot tell apart: always the first of two equal ones would be predicted.

    Args:
        names: of the classes.
        texts: what CLIP reads of each.
        where: whose classes they are, for the message.
        vectors_CE: the embedding of each.

    Raises:
        DatasetError: names two of them, and the remedy.
    """
    first: dict[object, int] = {}
    for number, text in enumerate(texts):
        for key in (as_read(text), vectors_CE[number].tobytes()):
            other = first.setdefault(key, number)
            if other != number:
                raise DatasetError(
                    f"{where}: the classes {told(names[other])} and {told(names[number])} have one embedding, since "
                    "CLIP's tokenizer reads neither capitals nor spaces; write one so that it says which is meant, as "
                    "'cardigan, a dog', or remove it"
                )
