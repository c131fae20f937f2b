"""Files of features that somebody else computed: which samples they hold, where, and their digests. Reads no feature.

Nothing in them is trusted: names are looked up and never joined to a path, no link out of a file is followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.config import Imported
from pipeline.config.base import shown
from pipeline.datasets.digests import digest_of, looked
from pipeline.memory import refuse_shortage

if TYPE_CHECKING:
    import pandas as pd

HASHING_THREADS = 4
ABSENT = {"digest": "", "bytes": None, "mtime_ns": None}
SHOWN = 20  # names in a quality report
BLOCK = 512  # bytes of a tar's header
NOTE = 1 << 20  # bytes of a sample's .json in a tar that are read for its id
TEXTS = frozenset({"vlen-utf8", "string"})  # codecs of zarr that make text and run no code


class Place(NamedTuple):
    """Where a sample's array lies.

    Attributes:
        path: the file, or the folder of a zarr; its digest is the sample's.
        inside: the dataset or group in it; None of a file of one sample.
        row: of an array of all samples.
        span: (first byte, bytes) of a member of a tar.
    """

    path: Path
    inside: str | None = None
    row: int | None = None
    span: tuple[int, int] | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f"[{self.row}]"
        return f"{self.path}{'' if self.inside is None else f':{shown(self.inside)}'}{row}"


class Found(NamedTuple):
    """What files of features hold.

    Attributes:
        places: name of a sample -> where it is; of a sample that is there twice None.
        damage: why some of it cannot be read; empty where all can.
    """

    places: Mapping[str, Place | None]
    damage: str = ""


class Held:
    """What the files of a feature hold, looked up once.

    Args:
        feature: whose files they are; they need not be there.
    """

    def __init__(self, feature: Imported) -> None:
        self.feature = feature

    @cached_property
    def found(self) -> Found:
        """All of it, whatever the samples."""
        return _found(self.feature)

    def place(self, sample: str) -> Place:
        """Where a sample's array lies. Of a file a sample it need not be there.

        Raises:
            ValueError: there is none, or several; or the id leads out of the root. The message names file and remedy.
        """
        if self.feature.form == "files":
            return Place(file_of(self.feature, sample))
        places, damage = self.found
        if sample not in places:
            why = damage or _instead(places)
            raise ValueError(f"missing: {self.feature.root} has nothing named {sample!r} ({why})")
        if (place := places[sample]) is None:
            raise ValueError(f"unreadable: {self.feature.root} holds {sample!r} more than once; remove all but one")
        return place

    def sources(self, samples: Sequence[str]) -> dict[str, Path]:
        """Sample -> the file or folder whose digest it has; of those that have one. Why others have none is told when
        they are read."""
        found = {}
        for sample in samples:
            with contextlib.suppress(ValueError):
                found[sample] = self.place(sample).path
        return found


def _instead(places: Mapping[str, Place | None]) -> str:
    """What a source holds in place of a sample: a wrong extension or array shows in the names."""
    if not places:
        return "it holds no sample: correct the feature's extension, array or ids"
    more = ", ..." if len(places) > 3 else ""
    return f"it holds {', '.join(map(shown, islice(places, 3)))}{more}"


def file_of(feature: Imported, sample: str) -> Path:
    """Where the file of a sample lies. Raises ValueError for an id that would lead out of the root."""
    relative = PurePosixPath(sample + feature.extension)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"the id {sample!r} leads out of the features' root; correct the annotations")
    return Path(feature.root) / relative


def watched(feature: Imported, samples: Sequence[str]) -> tuple[Path, list[str]]:
    """A folder, and the names in it whose sizes and times say whether anything was replaced. Opens no file."""
    root = Path(feature.root)
    if feature.form == "files":
        return root, [os.path.relpath(path, root) for path in Held(feature).sources(samples).values()]
    if feature.form == "webdataset" and not root.is_file():
        return root, [path.name for path in _tars(root)]
    return root.parent, [root.name]


# --- what a source holds ----------------------------------------------------------------------------------------------


def _found(feature: Imported) -> Found:
    """All that files hold; remembered until one of them changes."""
    if feature.form == "files":
        return Found(dict(_below(Path(feature.root), feature.extension)))
    root = Path(feature.root)
    if not root.exists():
        return Found({}, "it does not exist; correct the feature's root")
    paths = tuple(_tars(root)) if feature.form == "webdataset" else (root,)
    states = tuple(looked(path) for path in paths)
    return _index(feature.form, paths, states, feature.extension, feature.array, feature.ids)


@lru_cache(maxsize=16)
def _index(
    form: str, paths: tuple[Path, ...], states: Any, extension: str, array: str | None, ids: str | None
) -> Found:
    if form == "webdataset":
        return _in_tars(paths, extension)
    (root,) = paths
    try:
        with opened(form, root) as top:
            if ids is not None:
                return _in_rows(root, _texts(form, top, ids))
            return Found({name: Place(root, name) for name in _in_groups(top, array)})
    except ValueError as error:
        return Found({}, str(error).partition("\n")[0])


@contextlib.contextmanager
def opened(form: str, path: Path) -> Iterator[Any]:
    """The top group of an HDF5 file or a zarr. Raises ValueError for one that cannot be read, here or inside."""
    try:
        if form == "zarr":
            import zarr

            yield zarr.open_group(path, mode="r")
        else:
            import h5py

            with h5py.File(path, "r") as file:
                yield file
    except ValueError:
        raise
    except Exception as error:  # libraries over damaged files: which errors there are, only they know
        refuse_shortage(error, path)
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = "zarr group" if form == "zarr" else "HDF5 file"
        raise ValueError(f"unreadable: {path} is no whole {kind} ({cause})") from None


def _in_groups(top: Any, array: str | None) -> Iterator[str]:
    """Names of the datasets, and of the groups that hold a dataset `array` ("features" unless said), at any depth."""
    wanted, seen = array or "features", set()
    waiting = [("", top)]
    while waiting:
        prefix, group = waiting.pop()
        if (place := _address(group)) in seen:  # a group may be linked to from below itself
            continue
        seen.add(place)
        for name in sorted(group):
            inner = own(group, name)
            if inner is None:
                continue
            if hasattr(inner, "dtype"):
                if array is None:
                    yield prefix + name
            elif hasattr(own(inner, wanted), "dtype"):
                yield prefix + name
            else:
                waiting.append((f"{prefix}{name}/", inner))


def _address(group: Any) -> Any:
    if hasattr(group, "id"):
        import h5py

        return h5py.h5o.get_info(group.id).addr
    return group.path


def own(group: Any, name: str) -> Any:
    """What a group holds under a name, or under names parted by "/"; None of nothing. No link of HDF5 is followed."""
    for part in name.split("/"):
        if hasattr(group, "dtype") or not part:
            return None
        if hasattr(group, "id"):
            import h5py

            linked = group.get(part, getlink=True) if part in group else None
            group = group[part] if isinstance(linked, h5py.HardLink) else None
        else:
            group = group.get(part)
        if group is None:
            return None
    return group


def _in_rows(root: Path, names: Sequence[str]) -> Found:
    places: dict[str, Place | None] = {}
    for row, name in enumerate(names):
        places[name] = None if name in places else Place(root, None, row)
    return Found(places)


def _texts(form: str, top: Any, name: str) -> list[str]:
    """The ids in an array or an attribute."""
    if name in top.attrs:
        found = top.attrs[name]
    else:
        held = own(top, name)
        if held is None or not hasattr(held, "dtype"):
            raise ValueError(f"it has no array and no attribute {name!r}; correct the feature's ids")
        if held.ndim != 1 or not _is_text(form, held):
            raise ValueError(f"{name!r} is {held.dtype} of shape {held.shape}, expected a list of text")
        found = held[:]
    return [of.decode() if isinstance(of, bytes) else str(of) for of in np.asarray(found, dtype=object).tolist()]


def _is_text(form: str, held: Any) -> bool:
    """Whether an array is of text, and reading it runs no code: objects may lie there as pickles."""
    if form == "hdf5":
        import h5py

        return held.dtype.kind == "S" or h5py.check_string_dtype(held.dtype) is not None
    if held.dtype.kind != "O":
        return held.dtype.kind in "UST"
    filters = held.metadata.filters if held.metadata.zarr_format == 2 else held.metadata.codecs
    return bool(filters) and getattr(filters[0], "codec_id", type(filters[0]).__name__) in TEXTS


def _below(root: Path, extension: str) -> Iterator[tuple[str, Place]]:
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(extension) and not name.startswith("."):
                path = Path(folder, name)
                yield path.relative_to(root).as_posix().removesuffix(extension), Place(path)


def _tars(root: Path) -> list[Path]:
    return [root] if root.is_file() else sorted(path for path in root.glob("*.tar") if not path.name.startswith("."))


def _in_tars(paths: Sequence[Path], extension: str) -> Found:
    """Samples by their keys, or by the "id" that their .json says: a key has no dot, and ids may."""
    places: dict[str, Place | None] = {}
    damage = [] if paths else ["there is no .tar in it"]
    for path in paths:
        names: dict[str, str] = {}
        mine: list[tuple[str, Place]] = []
        try:
            for key, suffix, place in _members(path):
                if suffix == ".json" and (name := _noted(place)):
                    names[key] = name
                elif suffix == extension:
                    mine.append((key, place))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            refuse_shortage(error, path)
            damage.append(f"{path.name} cannot be read to its end: {error}")
        for key, place in mine:
            name = names.get(key, key)
            places[name] = None if name in places else place
    return Found(places, "; ".join(damage))


def _members(path: Path) -> Iterator[tuple[str, str, Place]]:
    """(key, suffix, place) of each plain file of a tar: the suffix is what follows the first dot of the file's name."""
    size, end = path.stat().st_size, 0
    with tarfile.open(path, "r:") as archive:  # no compressed one: it may unpack to any size
        for member in archive:
            end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
            if not member.isreg() or member.issparse():
                continue
            if member.offset_data + member.size > size:
                raise ValueError(f"{shown(member.name)} is cut off")
            folder, slash, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            yield (
                f"{folder}{slash}{stem}",
                dot + suffix,
                Place(path, member.name, None, (member.offset_data, member.size)),
            )
    _expect_end(path, end)


def _expect_end(path: Path, end: int) -> None:
    """Raises ValueError where what follows the last member is no end: tarfile takes a damaged header for one."""
    with path.open("rb") as stream:
        stream.seek(end)
        if any(stream.read(BLOCK)):
            raise ValueError(f"the header at byte {end} is damaged")


def _noted(place: Place) -> str | None:
    """The "id" in a sample's .json, where it says one."""
    first, size = place.span or (0, 0)
    if size > NOTE:
        return None
    with place.path.open("rb") as stream:
        stream.seek(first)
        try:
            told = json.loads(stream.read(size))
        except (ValueError, RecursionError):
            return None
    name = told.get("id") if isinstance(told, dict) else None
    return name if isinstance(name, str) and name else None


# --- digests ----------------------------------------------------------------------------------------------------------


def imported_files(
    features: Mapping[str, Imported], samples: Sequence[str], previous: pd.DataFrame | None, afresh: bool = False
) -> list[list[dict[str, Any]] | None]:
    """What the manifest keeps of each sample's imported files, a record a store; None where nothing is imported.

    A file whose size and time are those of `previous` is not hashed again, unless `afresh`; one of several samples is
    hashed once. What `previous` holds of stores that are not asked for stays.

    Args:
        features: the name of the store (`<feature>-<key>`) -> the feature that it is made from.
        samples: ids.
        previous: the manifest as it was.
        afresh: trust no size and no time.

    Returns:
        Of each sample, {feature, digest, bytes, mtime_ns} by the stores' names; the digest is sha256 of the file, empty
        where there is none or it could not be read, and the numbers are None where it is not there.
    """
    remembered: dict[str, dict[str, dict[str, Any]]] = {}
    if previous is not None:
        for sample, records in zip(previous["sample"], previous["imported"], strict=True):
            remembered[sample] = {record["feature"]: record for record in records or ()}
    found: dict[str, list[dict[str, Any]]] = {sample: [] for sample in samples}
    for store, feature in features.items():
        paths = Held(feature).sources(samples)
        known: dict[Path, Mapping[str, Any]] = {}
        for sample, path in paths.items():
            known.setdefault(path, {} if afresh else remembered.get(sample, {}).get(store, {}))
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            facts = dict(zip(known, threads.map(_facts, known, known.values()), strict=True))
        for sample in samples:
            found[sample].append({"feature": store} | (facts[paths[sample]] if sample in paths else ABSENT))
    records = []
    for sample in samples:
        of_sample = remembered.get(sample, {}) | {record["feature"]: record for record in found[sample]}
        records.append([of_sample[store] for store in sorted(of_sample)] or None)
    return records


def _facts(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(ABSENT)
    try:
        size, when = looked(path)
        told |= {"bytes": size, "mtime_ns": when}
        same = known.get("digest") and (known["bytes"], known["mtime_ns"]) == (size, when)
        return told | {"digest": known["digest"] if same else digest_of(path)}
    except OSError as error:
        refuse_shortage(error, path)
        return told  # why, is told when the sample is read


def imported_quality(features: Mapping[str, Imported], samples: Sequence[str]) -> dict[str, Any]:
    """Store -> how many samples have features; `without` and `unclaimed`, the samples that have none and the names in
    the files that are no sample's, as {count, names}, the first 20; `damage`, what cannot be read."""
    told = {}
    for store, feature in features.items():
        held, asked = Held(feature).found, set(samples)
        without = [sample for sample in samples if sample not in held.places]
        unclaimed = sorted(set(held.places) - asked)
        told[store] = {
            "with": len(samples) - len(without),
            "without": {"count": len(without), "names": without[:SHOWN]},
            "unclaimed": {"count": len(unclaimed), "names": unclaimed[:SHOWN]},
            "damage": held.damage,
        }
    return told
