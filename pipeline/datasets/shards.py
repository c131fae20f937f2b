"""Which shard holds which sample. Append-only, so that a growing data set keeps the shards it has already paid for."""

from collections.abc import Mapping, Sequence


def assign_shards(samples: Sequence[str], previous: Mapping[str, int], shard_size: int) -> dict[str, int]:
    """Assigns each sample to a shard; a sample that had one keeps it, whatever came, went or moved.

    New samples fill new shards in the order given, even where an old shard has room: adding to it would rewrite it.

    Args:
        samples: all ids of the data set now, without repetition.
        previous: shard of each sample at the last assignment; ids that are gone are ignored, but their shards' numbers
            are not given to others.
        shard_size: the most samples a new shard takes.

    Returns:
        Shard number of each of `samples`, in their order.

    Raises:
        ValueError: an id is given twice, or the shard size is below 1.

    >>> assign_shards(["a", "b", "c"], {}, 2)
    {'a': 0, 'b': 0, 'c': 1}
    >>> assign_shards(["new", "a", "c"], {"a": 0, "b": 0, "c": 1}, 2)
    {'new': 2, 'a': 0, 'c': 1}
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    if len(set(samples)) != len(samples):
        twice = next(sample for position, sample in enumerate(samples) if sample in samples[:position])
        raise ValueError(f"sample {twice!r} is given twice; each sample has one shard")
    shards = {}
    first, added = max(previous.values(), default=-1) + 1, 0
    for sample in samples:
        if sample in previous:
            shards[sample] = int(previous[sample])
        else:
            shards[sample] = int(first + added // shard_size)
            added += 1
    return shards
