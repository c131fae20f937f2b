"""Lists a folder of videos and pictures: <class>/.../<file>, of any depth. Opens none of them: runs at plan time.

Where its top folders are splits (train, val, test, or another of their usual names), the classes are below these. A
class is the whole path of folders above a file, and a file that lies in none has no class. Or published lists say what
is in which split: those of UCF-101, HMDB-51 and Kinetics. Hidden files and folders are passed over.
"""

import os
from collections import Counter
from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.folders import check_folder, files_below, home_of
from pipeline.datasets.layouts.images import SUFFIXES
from pipeline.datasets.layouts.published import Entry, entries, list_files
from pipeline.datasets.names import DatasetError
from pipeline.datasets.splits import ALL, drawn, usual

FILMS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".wmv", ".asf", ".flv", ".f4v", ".ogv"}
    | {".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".vob", ".mxf", ".y4m", ".nut", ".divx", ".h264", ".hevc"}
)
TAKEN = SUFFIXES | FILMS
NOT_LISTED = "on no list"


class Videos(Layout):
    """A folder of videos and pictures."""

    kind = "video"
    takes = frozenset({"lists", "split"})
    searched = True

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a file, sorted by path, or in the order of the lists. The id is the path without the suffix.

        Raises:
            DatasetError: the folder is absent, cannot be listed or holds no video, two files have one id, folders of
                splits stand beside others, or a list is absent or cannot be used.
        """
        folder = check_folder(dataset)
        paths, ignored = [], Counter()
        for path in files_below(str(folder), home_of(dataset)):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in TAKEN:
                paths.append(path)
            elif not _is_list(dataset, folder, path):
                ignored[suffix or "no suffix"] += 1
        if not paths:
            raise DatasetError(
                f"{folder} holds no video or picture among its {ignored.total()} files; correct the data set's root or "
                f"videos in params (what is read ends in one of {', '.join(sorted(TAKEN))})"
            )
        paths.sort()
        if dataset.lists is not None:
            return _listed(dataset, paths, ignored)
        ids = [os.path.splitext(path)[0] for path in paths]
        _expect_one_file_each(str(folder), ids, paths)
        splits, labels = _by_folder(dataset, str(folder), paths)
        return Annotations({"sample": ids, "path": paths, "label": labels, "split": splits}, ignored=dict(ignored))

    def files(self, dataset: Dataset) -> list[Path]:
        """The lists of params; none where the files' places say all there is."""
        return [] if dataset.lists is None else list_files(dataset)


def _is_list(dataset: Dataset, folder: Path, path: str) -> bool:
    return dataset.lists is not None and (folder / path).parent == Path(dataset.root, dataset.lists.folder)


def _expect_one_file_each(folder: str, ids: list[str], paths: list[str]) -> None:
    first: dict[str, str] = {}
    for sample, path in zip(ids, paths, strict=True):
        if first.setdefault(sample, path) != path:
            raise DatasetError(
                f"{folder}: the files {first[sample]!r} and {path!r} have one id, {sample!r}; rename or remove one of "
                "the two"
            )


def _by_folder(dataset: Dataset, folder: str, paths: list[str]) -> tuple[list[str], list[str | None]]:
    """The split and the class of each path."""
    tops = list(dict.fromkeys(path.partition("/")[0] if "/" in path else "" for path in paths))
    named = {top: split for top in tops if (split := usual(top))}
    # A class may be called test: without a folder of training there are no splits, unless nothing else is there.
    if "train" not in named.values() and len(named) < len(tops):
        named = {}
    if not named:
        labels = [os.path.dirname(path) or None for path in paths]
        return (
            [ALL] * len(paths) if dataset.split is None else drawn(dataset.split, _drawn_by(dataset, paths), folder)
        ), labels
    if other := [top for top in tops if top not in named]:
        example = next(path for path in paths if (path.partition("/")[0] if "/" in path else "") == other[0])
        raise DatasetError(
            f"{folder} has folders of splits ({', '.join(named)}), and {example!r} lies in none of them; move it into "
            "one, or name the folder of the data set in params (videos) in which there are classes alone"
        )
    for number, (top, split) in enumerate(named.items()):
        for earlier, of in list(named.items())[:number]:
            if of == split:
                raise DatasetError(f"{folder} has the folders {earlier} and {top}, which are both {split}; join them")
    if dataset.split is not None:
        raise DatasetError(
            f"{folder} has folders of splits ({', '.join(named)}), and params draw splits by shares; remove split "
            "from the data set in params"
        )
    splits = [named[path.partition("/")[0]] for path in paths]
    return splits, [os.path.dirname(path.partition("/")[2]) or None for path in paths]


def _drawn_by(dataset: Dataset, paths: list[str]) -> list[str]:
    if dataset.split is not None and dataset.split.by == "group":
        raise DatasetError(
            f"split.by of the data set in {dataset.root} is group, and folders name no groups; list the videos in a "
            "table with a column group (layout: table), or remove by"
        )
    return paths


def _listed(dataset: Dataset, paths: list[str], ignored: Counter) -> Annotations:
    """What lists say of the files that were found; those that are not found stay, at the place where they should be."""
    if dataset.split is not None:
        raise DatasetError(
            f"the data set in {dataset.root} has lists of splits, and params draw splits by shares; remove split or "
            "lists from params"
        )
    found = _Found(str(check_folder(dataset)), paths)
    rows: dict[str, tuple[Entry, str]] = {}
    twice = []
    for entry in entries(dataset):
        known = rows.get(entry.sample)
        if known is None:
            rows[entry.sample] = entry, found.path(entry)
            continue
        earlier = known[0]
        if entry.label != earlier.label:
            raise DatasetError(
                f"{entry.line} has the class {entry.label!r} for {entry.sample!r}, and {earlier.line} has "
                f"{earlier.label!r}; keep one of the two"
            )
        twice.append([entry.sample, earlier.split, entry.split])
    if all(path not in found.all for _, path in rows.values()):
        entry, path = next(iter(rows.values()))
        raise DatasetError(
            f"none of the {len(rows)} videos of the lists is in {found.folder}: that of {entry.line} was looked for at "
            f"{path}; correct the data set's root or videos in params"
        )
    used = {path for _, path in rows.values()}
    if unlisted := sum(path not in used for path in paths):
        ignored[NOT_LISTED] = unlisted
    columns = {
        "sample": list(rows),
        "path": [path for _, path in rows.values()],
        "label": [entry.label for entry, _ in rows.values()],
        "split": [entry.split for entry, _ in rows.values()],
    }
    return Annotations(columns, twice, dict(ignored))


class _Found:
    """The files of a folder, found by what a list says of them."""

    def __init__(self, folder: str, paths: list[str]) -> None:
        self.folder, self.all = folder, frozenset(paths)
        self._of: dict[str, str] = {}
        self._whose: dict[str, Entry] = {}
        self._several: dict[str, list[str]] = {}
        for path in paths:
            stem = os.path.splitext(path)[0]  # with strings alone: there may be 300,000
            above, _, name = stem.rpartition("/")
            for called in (name, f"{above.rpartition('/')[2]}/{name}"):
                if self._of.setdefault(called, path) != path:
                    self._several.setdefault(called, [self._of[called]]).append(path)

    def path(self, entry: Entry) -> str:
        """Where the video of an entry lies, or, where it is nowhere, where it should."""
        for name in entry.names:
            if name not in self._of:
                continue
            if name in self._several:
                here, there = self._several[name][:2]
                raise DatasetError(
                    f"{self.folder}: {entry.line} may mean {here!r} or {there!r}; rename or remove one of the two"
                )
            other = self._whose.setdefault(self._of[name], entry)
            if other.sample != entry.sample:
                raise DatasetError(
                    f"{self.folder}: {self._of[name]!r} is what {other.line} and {entry.line} mean; name the videos as "
                    f"{entry.place!r}"
                )
            return self._of[name]
        return entry.place
