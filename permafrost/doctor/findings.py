"""What the doctor says: findings, each with its remedy."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        state: `ok`; `note`, what works but is worth knowing; `bad`, what will fail.
        what: was looked at.
        said: what was found.
        remedy: what to do; empty of what is ok.
    """

    state: State
    what: str
    said: str
    remedy: str = ""


def refused(what: str, error: Exception, otherwise: str) -> Finding:
    """The finding of an error: ours end in their remedy, after the last semicolon.

    Args:
        otherwise: the remedy of an error that names none.

    >>> refused("weights", ValueError("a.bin is torn; download it again"), "")
    Finding(state='bad', what='weights', said='a.bin is torn', remedy='download it again')
    """
    said, _, remedy = str(error).rpartition("; ")
    return Finding("bad", what, said or remedy, remedy if said else otherwise)


def size_of(count: float) -> str:
    """Bytes for people, in powers of ten.

    >>> size_of(3_300_000_000), size_of(12)
    ('3.3 GB', '12 B')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    place = 0
    while count >= 1000 and place < len(units) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.3g} {units[place]}"
