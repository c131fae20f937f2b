"""Reads a table that lists videos and pictures, a row each, of any columns. Opens no video: runs at plan time.

`table` of params names it, below the root, and `columns` its columns; the files lie below `videos`:
    path,label,split
    cooking/001.mp4,stir,train
A row may be a clip within a longer video (`start`, `stop`), of one class, of several or of none, have numbers to be
predicted, and belong to a group that no two splits may share. With `videos: null` the ids alone are there, and `path`
is not needed: its features are imported.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Annotations, Columns, Dataset, Layout
from pipeline.config.layouts import Targets
from pipeline.datasets.folders import video_folder
from pipeline.datasets.labels import required
from pipeline.datasets.listings import Listing, column_names, read_listing
from pipeline.datasets.names import DatasetError
from pipeline.datasets.splits import ALL, drawn, refuse_shared_groups
from pipeline.datasets.tables import check_path
from pipeline.datasets.twins import but_for_looks

ANSWERS: tuple[Targets, ...] = ("label", "labels", "target")  # what can be learned
ROLES = ("path", "id", "label", "labels", "target", "split", "start", "stop", "group")
# What two rows of one sample must say alike, for the second to be a mere repetition.
SAID = ("path", "label", "labels", "target", "split", "start", "stop", "group")
REMEDY = "correct that row"
# What most paths are, and nothing that `check_path` refuses: of 300,000, looking at each part of each takes a second.
STILL = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff")  # pictures that never move
PLAIN = re.compile(r"(?=.{1,255}$)[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class Table(Layout):
    """A table of videos and pictures."""

    kind = "video"
    takes = frozenset({"table", "columns", "split"})

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a sample, in the file's order.

        Its id is that of the column `id`, or else its path without the suffix, and for a clip its ends behind that. A
        row that repeats another is listed twice, and counts once.

        Raises:
            DatasetError: the table is absent, broken or empty, lacks a column that params name, or has a row that
                cannot be used: names the file, the row, the sample and what to do.
        """
        (file,) = self.files(dataset)
        roles: dict[str, tuple[str, ...]] = {}

        def choose(names: list[str]) -> list[str]:
            roles.update(_roles(dataset.columns, names, file, dataset.videos is not None))
            return list(dict.fromkeys(name for columns in roles.values() for name in columns))

        listing = read_listing(file, choose)
        if not len(listing):
            raise DatasetError(f"{file} lists no video; write a row for each")
        _expect_one_source_of_splits(dataset, roles, file)
        rows = _Rows(dataset, listing, roles)
        columns, twice = rows.columns(), rows.twice
        if "split" not in columns:
            columns["split"] = _splits(dataset, columns, str(file))
        if "group" in columns and (dataset.split is None or dataset.split.by != "sample"):
            refuse_shared_groups(columns["group"], columns["split"], rows.line)
        _expect_whole_answers(columns, rows.line)
        listed = [[columns["sample"][place], *[columns["split"][place]] * 2] for place in twice]
        if "start" in columns:
            columns["line"] = [f"{dataset.table}: {listing.noun} {listing.numbers[place]}: " for place in rows.kept]
        return Annotations(columns, listed, targets=_named(roles.get("target", ()), columns.get("target", ())))

    def targets(self, dataset: Dataset) -> tuple[Targets, ...]:
        """Those that it has a column of; of a table that is not there yet whatever a head says."""
        names, columns = column_names(Path(dataset.root, dataset.table)), dataset.columns
        named = [role for role in ANSWERS if getattr(columns, role) is not None]
        other = {"label": "labels", "labels": "label"}
        free = (role for role in ANSWERS if role not in (*named, *columns.ignore) and other.get(role) not in named)
        there = {*named, *(role for role in free if role in names)}
        return tuple(role for role in ANSWERS if role in there or not names) or ("label",)

    def files(self, dataset: Dataset) -> list[Path]:
        """The table. Raises DatasetError where it is not there, or is a link that leads out of the root."""
        return [required(dataset, dataset.table)]


def _roles(columns: Columns, names: list[str], file: Path, videos: bool) -> dict[str, tuple[str, ...]]:
    """Role -> the names of its columns, of the roles that the table has a column of."""
    found: dict[str, tuple[str, ...]] = {}
    if unknown := [name for name in columns.ignore if name not in names]:
        raise DatasetError(
            f"{file} has no column {unknown[0]!r}{but_for_looks(unknown[0], names)}; correct columns.ignore of the "
            "data set in params"
        )
    for role in ROLES:
        named = getattr(columns, role)
        if named is None:
            other = {"label": columns.labels, "labels": columns.label}.get(role)
            if role in names and role not in columns.ignore and other is None:
                found[role] = (role,)
            continue
        found[role] = (named,) if isinstance(named, str) else named
        for name in found[role]:
            if name not in names:
                raise DatasetError(
                    f"{file} has no column {name!r}{but_for_looks(name, names)}; its columns are "
                    f"{', '.join(names)[:200]}: correct columns.{role} of the data set in params"
                )
    if not videos and "id" in found:
        found.setdefault("path", found["id"])
    if "path" not in found:
        raise DatasetError(
            f"{file} has no column 'path'{but_for_looks('path', names)}; its columns are {', '.join(names)[:200]}: "
            "say which one names the files, with columns: {path: ...} of the data set in params"
        )
    if "label" in found and "labels" in found:
        raise DatasetError(
            f"{file} has the columns 'label' and 'labels', and either may be meant; name one in columns of the data "
            "set in params"
        )
    return found


def _named(columns: Sequence[str], targets: Sequence[list[float] | None]) -> list[str]:
    """The name of each number of a target: its column's, or in a column of lists that and its place."""
    count = next((len(of) for of in targets if of is not None), len(columns))
    return list(columns) if count == len(columns) else [f"{columns[0]}.{number}" for number in range(count)]


def _expect_one_source_of_splits(dataset: Dataset, roles: dict[str, Any], file: Path) -> None:
    if dataset.split is None:
        return
    if "split" in roles:
        raise DatasetError(
            f"{file} has the column {roles['split'][0]!r}, and params draw splits by shares; remove one of the two"
        )
    if dataset.split.by == "group" and "group" not in roles:
        raise DatasetError(
            f"{file} has no column 'group', and split.by in params is group; name its column with columns: "
            "{group: ...}, or remove by, which keeps the clips of a video together"
        )


def _splits(dataset: Dataset, columns: dict[str, list[Any]], where: str) -> list[str]:
    if dataset.split is None:
        return [ALL] * len(columns["sample"])
    by = {"group": "group", "sample": "sample", None: "group" if "group" in columns else "path"}[dataset.split.by]
    return drawn(dataset.split, columns[by], where)


def _expect_whole_answers(columns: dict[str, list[Any]], line: Callable[[int], str]) -> None:
    """Refuses a sample without a label, or a target, in a split where others have one."""
    for role in ("label", "labels", "target"):
        values = columns.get(role, ())
        answered = {split for value, split in zip(values, columns["split"], strict=False) if value is not None}
        if None not in values:
            continue
        for place, (value, split) in enumerate(zip(values, columns["split"], strict=True)):
            if value is None and split in answered:
                raise DatasetError(
                    f"{line(place)}: the sample {columns['sample'][place]!r} has no {role}, and others of {split} "
                    f"have; write it, or remove the row (a split may be without any {role})"
                )


class _Rows:
    """The rows of a listing by role, each checked by itself; repeated ones are left out, and their places in `twice`.

    Raises:
        DatasetError: a row that cannot be used, or two that contradict each other.
    """

    def __init__(self, dataset: Dataset, listing: Listing, roles: dict[str, tuple[str, ...]]) -> None:
        self.dataset, self.listing, self.roles = dataset, listing, roles
        self.folder = os.path.abspath(dataset.root if dataset.videos is None else video_folder(dataset))
        self.known: set[str] = set()  # texts of which nothing is wrong
        self.kept: Sequence[int] = ()  # the places of the rows that are kept
        self.twice: list[int] = []  # which rows that are kept are repeated

    def columns(self) -> dict[str, list[Any]]:
        """Role -> values of the rows that are kept; `sample` and `path` among them."""
        read: dict[str, Callable[[Sequence[Any], int], Any]] = {
            "path": self._path, "id": self._name, "label": self._text, "split": self._name, "group": self._name,
            "start": self._moment, "stop": self._moment, "labels": self._classes, "target": self._numbers,
        }  # fmt: skip
        found: dict[str, list[Any]] = {}
        for role, names in self.roles.items():
            self.role, one = role, read[role]
            cells = zip(*(self.listing.columns[name] for name in names), strict=True)
            found[role] = [one(values, place) for place, values in enumerate(cells)]
        self._expect_clips(found)
        self._expect_one_length(found.get("target", ()))
        found["sample"] = found.pop("id", None) or self._ids(found)
        kept = self._once(found)
        if len(kept) < len(self.listing):
            found = {role: [values[place] for place in kept] for role, values in found.items()}
        self.kept = kept
        return {"sample": found.pop("sample"), **found}

    def line(self, place: int) -> str:
        """Where a row that is kept stands."""
        return self.listing.line(self.kept[place])

    def _refused(self, place: int, what: str, remedy: str = REMEDY) -> DatasetError:
        name = self.roles["path" if self.role == "id" else self.role][0]
        path = self.listing.columns[self.roles["path"][0]][place]
        if getattr(self.dataset.columns, self.role) is None and self.role != "path":
            remedy += f", or pass the column over, with columns: {{ignore: [{name}]}}"
        of = f" (the file {path!r})" if name != self.roles["path"][0] and path else ""
        return DatasetError(f"{self.listing.line(place)}: {what}{of}; {remedy}")

    def _text(self, values: Sequence[Any], place: int) -> str | None:
        """A cell as text; None of an empty one."""
        (value,) = values
        if isinstance(value, str) and value in self.known:
            return value
        if isinstance(value, float) and not isinstance(value, bool):
            value = None if math.isnan(value) else int(value) if value.is_integer() else value
        if value is None or value == "":
            return None
        if not isinstance(value, str | int | float):
            hint = "; name a column of lists with columns: {labels: ...}" if isinstance(value, list) else ""
            raise self._refused(place, f"the {self.role} is a {type(value).__name__}, wanted text", REMEDY + hint)
        text = str(value)
        if text != text.strip() or not text.isprintable():
            raise self._refused(
                place, f"the {self.role} {text!r} has a space around it or a character that cannot be printed"
            )
        self.known.add(text)
        return text

    def _name(self, values: Sequence[Any], place: int) -> str:
        text = self._text(values, place)
        if text is None:
            raise self._refused(
                place,
                f"the {self.role} is empty",
                "write one in each row",
            )
        return text

    def _path(self, values: Sequence[Any], place: int) -> str:
        (value,) = values
        if not isinstance(value, str) or not value:
            raise self._refused(place, f"the path is {value!r}", "write where the file lies")
        folder = self.folder
        path = value.removeprefix(f"{folder.rstrip(os.sep)}/").removeprefix("./")
        if path.startswith("/") or ".." in path.split("/"):
            raise self._refused(
                place,
                f"the path {value!r} leads out of {folder}",
                "write it relative to that folder, or correct the data set's root or videos in params",
            )
        if "\\" in path:
            raise self._refused(place, f"the path {value!r} has a backslash", "write / between folders")
        if PLAIN.fullmatch(path):
            return path
        return check_path({"path": path}, "path", self.listing.line(place), REMEDY)

    def _number(self, value: Any, place: int) -> float | None:
        if value is None or value == "":
            return None
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self._refused(place, f"the {self.role} {value!r} is no number", "write it as 83 or 83.5")
        return number

    def _moment(self, values: Sequence[Any], place: int) -> float | None:
        number = self._number(values[0], place)
        unit = self.dataset.columns.unit
        if number is not None and (number < 0 or (unit == "frames" and not number.is_integer())):
            wanted = "a whole number" if unit == "frames" else "seconds"
            raise self._refused(place, f"the {self.role} {number:g} is below 0 or not {wanted}")
        return number if number is None else round(number, 6)  # as the id and the manifest have it

    def _numbers(self, values: Sequence[Any], place: int) -> list[float] | None:
        values = values[0] if len(values) == 1 and isinstance(values[0], list) else values
        numbers = [self._number(value, place) for value in values]
        if None in numbers and any(number is not None for number in numbers):
            raise self._refused(place, f"one of the {len(numbers)} targets is empty", "write all or none")
        return None if None in numbers else numbers or None

    def _expect_one_length(self, targets: Sequence[list[float] | None]) -> None:
        known = next((len(of) for of in targets if of is not None), 0)
        for place, of in enumerate(targets):
            if of is not None and len(of) != known:
                self.role = "target"
                raise self._refused(place, f"{len(of)} targets, and {known} in rows before", "write as many in each")

    def _classes(self, values: Sequence[Any], place: int) -> list[str] | None:
        (value,) = values
        if value is None:
            return None
        given = value.split(self.dataset.columns.separator) if isinstance(value, str) else value
        if not isinstance(given, list):
            raise self._refused(place, f"the labels {value!r} are a {type(value).__name__}, wanted text or a list")
        names = [self._text([of.strip() if isinstance(of, str) else of], place) for of in given]
        found = [name for name in names if name is not None]
        if len(set(found)) < len(found):
            raise self._refused(place, f"the labels {value!r} name a class twice")
        return found

    def _expect_clips(self, found: dict[str, list[Any]]) -> None:
        if "start" not in found and "stop" not in found:
            return
        nothing = [None] * len(self.listing)
        starts, stops = (found.setdefault(role, nothing) for role in ("start", "stop"))
        for place, (path, *ends) in enumerate(zip(found["path"], starts, stops, strict=True)):
            start, stop = ends
            if any(ends) and path.endswith(STILL):
                self.role = "path"
                said = f"start {start:g}" if start else f"stop {stop:g}"
                raise self._refused(
                    place, f"the picture {path!r} has the {said}, and is one moment", "leave start and stop empty there"
                )
            if stop is not None and stop <= (start or 0):
                self.role = "path"
                raise self._refused(
                    place, f"the clip of {path!r} begins at {start or 0:g} and stops at {stop:g}, not after that"
                )

    def _ids(self, found: dict[str, list[Any]]) -> list[str]:
        ids = [os.path.splitext(path)[0] for path in found["path"]]
        if "start" not in found:
            return ids
        ends = zip(found["start"], found["stop"], strict=True)
        return [_with_ends(name, *of) for name, of in zip(ids, ends, strict=True)]

    def _once(self, found: dict[str, list[Any]]) -> list[int]:
        """The places of the rows that repeat no other."""
        samples = found["sample"]
        if len(set(samples)) == len(samples):
            return list(range(len(samples)))
        first: dict[str, int] = {}
        kept, again = [], []
        for place, sample in enumerate(samples):
            known = first.setdefault(sample, place)
            if known == place:
                kept.append(place)
                continue
            for role in (role for role in SAID if role in found):
                here, there = found[role][place], found[role][known]
                if here != there:
                    self.role = "path"
                    remedy = (
                        "give each a name of its own in a column id" if role in ("path", "start", "stop") else REMEDY
                    )
                    raise self._refused(
                        place,
                        f"the sample {sample!r} has the {role} {here!r}, and in "
                        f"{self.listing.noun} {self.listing.numbers[known]} {there!r}",
                        remedy,
                    )
            again.append(known)
        numbers = {place: number for number, place in enumerate(kept)}
        self.twice = [numbers[place] for place in again]
        return kept


def _with_ends(name: str, start: float | None, stop: float | None) -> str:
    if start is None and stop is None:
        return name
    return "_".join([name, *(f"{end:.6f}".rstrip("0").rstrip(".") for end in (start or 0.0, stop) if end is not None)])
