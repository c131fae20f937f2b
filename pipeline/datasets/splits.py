"""Splits that nobody wrote down: drawn by a hash. And the usual names of those that somebody did. Knows no layout."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import accumulate

from pipeline.config import Shares
from pipeline.datasets.names import DatasetError
from pipeline.datasets.twins import as_seen, told

# What a split is called, and what it is called here.
USUAL = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "dev": "val", "development": "val", "test": "test", "testing": "test",
}  # fmt: skip
ALL = "all"  # of a data set without splits


def usual(name: str) -> str | None:
    """train, val or test, of one of their usual names; else None.

    >>> usual("Valid"), usual("archery")
    ('val', None)
    """
    return USUAL.get(name.lower())


def drawn(shares: Shares, names: Sequence[str], where: str) -> list[str]:
    """The split of each name: a hash of the seed and the name alone decides, so that what is added moves nothing.

    So shares and classes are met as in a draw, not exactly: to be exact, a draw must know the others, and what is added
    would move them.

    Args:
        shares: of the splits.
        names: of what is never parted: groups, files or samples; repeated ones get one split.
        where: what is drawn from, for the error.

    Raises:
        DatasetError: a split gets nothing.

    >>> drawn(Shares(train=0.5, test=0.5, seed=3), ["a", "b", "c", "a"], "here")
    ['train', 'test', 'test', 'train']
    """
    bounds = list(accumulate(getattr(shares, name) for name in shares.names))[:-1]
    split_of = {}
    for name in dict.fromkeys(names):
        place = int.from_bytes(hashlib.sha256(f"{shares.seed}:{name}".encode()).digest()[:8]) / 2**64
        split_of[name] = shares.names[sum(place >= bound for bound in bounds)]
    if empty := [name for name in shares.names if name not in split_of.values()]:
        raise DatasetError(
            f"{where}: of the {len(split_of)} groups or videos that `split` draws from, {empty[0]} gets none; take "
            "another seed, or a larger share, in split of the data set in params"
        )
    return [split_of[name] for name in names]


def refuse_shared_groups(groups: Sequence[str], splits: Sequence[str], line: Callable[[int], str]) -> None:
    """Raises DatasetError for a group of two splits, or two that look alike.

    Args:
        groups, splits: of each sample.
        line: where a sample stands, for the error.
    """
    pairs = dict.fromkeys(zip(groups, splits, strict=True))
    first: dict[str, tuple[str, str]] = {}
    for group, split in pairs:
        other, known = first.setdefault(as_seen(group), (group, split))
        if known != split:
            here, there = (
                next(n for n, pair in enumerate(zip(groups, splits, strict=True)) if pair == wanted)
                for wanted in ((group, split), (other, known))
            )
            raise DatasetError(
                f"{line(here)} has the group {told(group)} in {split}, and {line(there).rpartition(': ')[2]} has "
                f"{told(other)} in {known}: what belongs together would be learned from and evaluated on; move one of "
                "the two, write one group alike in all rows, or give two groups names that differ in more than "
                "capitals and spaces"
            )
