"""Finds a store by its feature's name and reads it as a mapping: id -> array. Loads no torch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import flat
from pipeline.store import FeatureStore, StoreError, StoreMissing, describe, stores_below
from pipeline.store.manifest import is_store

# What of a provenance says by what a store was computed, not what it is.
_MADE_BY = ("environments", "key", "grid", "box", "versions", "device")
_SHOWN = 12  # characters of a digest


class NoSample(StoreError, KeyError):
    """A sample that a store does not hold, or that failed; the message says which and why."""

    __str__ = Exception.__str__  # KeyError's would show the sentence in quotes


class Store(Mapping[str, np.ndarray]):
    """The samples of one feature of one data set: a read-only mapping from ids to arrays.

    The manifests of all shards are read when it is opened, so what is unfinished or damaged there is told then. The
    data of a sample are read when it is asked for, and its checksum (crc32c) is checked each time; `permafrost verify`
    checks everything at once. A store can be pickled and sent to other processes: each opens the files itself.

    Args:
        path: folder of the store, features/<dataset>/<feature>-<key>.
        field: which of its `fields` a sample's array is. By default the only one; of several the one of tokens
            (steps, tokens, width), as heads read it.

    Raises:
        StoreMissing: no shard, or one that is not finished. StoreCorrupt: damage. StoreError: no such field.
    """

    def __init__(self, path: str | Path, field: str | None = None) -> None:
        self._store = FeatureStore(Path(path), verify=True)
        self._field = self._known(field) if field is not None else None
        self._held = frozenset(self._store.samples)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._field)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in self.fields.items())
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"<Store {self.path.name}: {len(self)} samples{failed}; {fields}>"

    # --- what it holds ------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self._store.directory

    @property
    def reader(self) -> FeatureStore:
        """What the package itself reads it with."""
        return self._store

    @property
    def ids(self) -> list[str]:
        """Ids of the samples that can be read, in the store's order."""
        return self._store.samples

    @property
    def failed(self) -> dict[str, str]:
        """Id -> reason, of the samples that were tried and have no data."""
        return self._store.failed

    @property
    def key(self) -> str:
        """The content key, which ends the folder's name: of backbone, weights, sampling, and all else that counts."""
        return self._store.key

    @property
    def provenance(self) -> dict[str, Any]:
        """What it was made from: the feature's config, digests of its weights, environments that computed it."""
        return self._store.provenance

    @property
    def fields(self) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Name -> (shape of one sample, dtype); the first side is None where the number of rows differs by sample."""
        return self._store.fields

    @cached_property
    def field(self) -> str:
        """The field that is read where none is named. Raises StoreError: there are several, and none of tokens."""
        if self._field is not None:
            return self._field
        tokens = [name for name, (shape, _) in self.fields.items() if len(shape) == 3]
        chosen = tokens if len(self.fields) > 1 else list(self.fields)
        if len(chosen) != 1:
            raise StoreError(
                f"{self.path} has several fields, {self._told_fields()}, and none is the obvious one; name one: "
                f'store["<id>", "{next(iter(self.fields))}"], or open it with field='
            )
        return chosen[0]

    @property
    def ragged(self) -> bool:
        """Whether samples have different numbers of rows."""
        return any(shape[:1] == (None,) for shape, _ in self.fields.values())

    def meta(self, sample: str) -> dict[str, Any]:
        """What extraction noted of a sample: {"times": seconds of each step}, or of ragged rows {"fps": rows a second}.

        Raises:
            NoSample: no such sample; {} of a failed one.
        """
        self._expect(sample, failed=True)
        return self._store.meta(sample)

    def length(self, sample: str) -> int:
        """Rows of a sample of a ragged store. Raises NoSample, and StoreError for a store that is not ragged."""
        self._expect(sample)
        return self._lengths[sample]

    @cached_property
    def _lengths(self) -> dict[str, int]:
        return self._store.lengths(next(iter(self.fields)))

    # --- reading ------------------------------------------------------------------------------------------------------

    def __getitem__(self, asked: str | tuple[str, str]) -> np.ndarray:
        """`store[id]`, or `store[id, field]`: the array of one sample, (*shape) or (T, *rest).

        Raises:
            NoSample: no such sample, or it failed. StoreError: no such field. StoreCorrupt: a checksum does not fit.
        """
        sample, field = asked if isinstance(asked, tuple) else (asked, None)
        self._expect(sample)
        return self.read([sample], field)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, sample: object) -> bool:
        return sample in self._held

    def read(self, ids: Sequence[str] | None = None, field: str | None = None) -> np.ndarray | list[np.ndarray]:
        """Many samples at once: faster than one by one.

        Args:
            ids: B of them; by default all of `ids`.
            field: one of `fields`; by default `field`.

        Returns:
            (B, *shape), or of a ragged field a list of B arrays (T, *rest).

        Raises:
            As `store[id]`.
        """
        name = self.field if field is None else self._known(field)
        ids = self.ids if ids is None else list(ids)
        for sample in ids:
            self._expect(sample)
        ragged = self.fields[name][0][:1] == (None,)
        return self._store.read_ragged(ids, name) if ragged else self._store.read(ids, name)

    def rows(self, sample: str, start: int, stop: int, field: str | None = None) -> np.ndarray:
        """Rows [start, stop) of a sample of a ragged field, (stop - start, *rest). Raises as `store[id]`."""
        self._expect(sample)
        return self._store.read_rows(sample, self.field if field is None else self._known(field), start, stop)

    # --- what is refused ----------------------------------------------------------------------------------------------

    def _expect(self, sample: str, failed: bool = False) -> None:
        if sample in self._held or (failed and sample in self.failed):
            return
        if sample in self.failed:
            raise NoSample(
                f"{self.path}: sample {sample!r} has no data, it failed: {self.failed[sample]}; leave it out"
            )
        known = ", ".join(map(repr, self.ids[:3])) + (", ..." if len(self) > 3 else "")
        raise NoSample(f"{self.path} holds no sample {sample!r}; its {len(self)} ids are {known or 'none'}")

    def _known(self, field: str) -> str:
        if field not in self.fields:
            raise StoreError(f"{self.path} has no field {field!r}; its fields are {self._told_fields()}")
        return field

    def _told_fields(self) -> str:
        return ", ".join(f"{name} {shape}" for name, (shape, _) in self.fields.items())


def open_store(path: str | Path, field: str | None = None) -> Store:
    """Opens a store, by its folder or without the key.

    Args:
        path: the store's folder; the same without `-<key>`, where one key is there; or a folder that holds one store.
        field: see `Store`.

    Raises:
        StoreMissing: there is none, or it is not finished. StoreError: there are several; lists them with what differs.
        StoreCorrupt: damage. All with the remedy.
    """
    return Store(find(Path(path).expanduser()), field)


def find(path: Path) -> Path:
    """The folder of the store that a path means. Raises as `open_store`."""
    if path.is_dir():
        try:
            found = stores_below(path)
        except StoreMissing:
            raise StoreMissing(f"{path} is no store and holds none{_told(path)}") from None
    else:
        found = sorted(other for other in path.parent.glob(f"{escape(path.name)}-*") if _is_key_of(path, other))
        if not found:
            raise StoreMissing(f"there is no store {path}, with or without a key{_told(path.parent)}")
    if len(found) > 1:
        raise StoreError(f"{path} may be any of {len(found)} stores; name one of them:\n{_differences(found)}")
    return found[0]


def _is_key_of(path: Path, store: Path) -> bool:
    return "-" not in store.name.removeprefix(f"{path.name}-") and is_store(store)


def _told(folder: Path) -> str:
    """What there is instead, and the remedy: the end of a sentence."""
    try:
        there = {store.with_name(store.name.rpartition("-")[0] or store.name) for store in stores_below(folder)}
        is_there = f" ({folder} holds {', '.join(sorted(os.path.relpath(store, folder) for store in there))})"
    except StoreMissing:
        is_there = ""
    return (
        f"{is_there}; correct the path, or make the store: `snakemake features` for what params name, "
        "`permafrost extract` for files of your own, `dvc pull` for what another machine has made"
    )


def _differences(stores: Sequence[Path]) -> str:
    """A line a store, with what sets it apart from the others."""
    told = {store: _facts(store) for store in stores}
    names = sorted({name for facts in told.values() for name in facts})
    apart = [name for name in names if len({facts.get(name) for facts in told.values()}) > 1]
    lines = []
    for store, facts in told.items():
        own = ", ".join(f"{name} {facts[name]}" for name in apart if name in facts)
        lines.append(f"  {store}: {own or 'no difference is known'}")
    return "\n".join(lines)


def _facts(store: Path) -> dict[str, str]:
    """What a store says of what it was made from, by dotted names, and whether it is finished."""
    try:
        known = describe(store)
    except StoreError as error:
        return {"cannot be read:": str(error)}
    made = {name: of for name, of in known["provenance"].items() if name not in _MADE_BY}
    facts = {name.removeprefix("config."): _short(value) for name, value in flat(made).items()}
    facts["samples"] = str(known["counts"]["ok"] + known["counts"]["failed"])
    return facts | ({"unfinished shards": str(len(known["unfinished"]))} if known["unfinished"] else {})


def _short(value: Any) -> str:
    text = str(value)
    return text[:_SHOWN] if len(text) == 64 and not text.strip("0123456789abcdef") else text
