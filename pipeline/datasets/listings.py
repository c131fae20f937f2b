"""Tables of any columns that list samples: CSV, TSV, Parquet, JSON lines. Knows no layout and no role of a column."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config.documents import loaded_json
from pipeline.datasets.labels import read_lines
from pipeline.datasets.names import DatasetError
from pipeline.datasets.tables import table_lines

FORMS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
Chooser = Callable[[list[str]], Sequence[str]]


@dataclass(frozen=True)
class Listing:
    """Some columns of a table.

    Attributes:
        path: of its file.
        columns: name -> the value of each row, as the file has it: text of CSV and TSV, else what was stored.
        numbers: of each row, as an editor counts lines, or as a Parquet file does rows.
        noun: "line" or "row".
    """

    path: Path
    columns: dict[str, list[Any]]
    numbers: Sequence[int]
    noun: str

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, place: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}: {self.noun} {self.numbers[place]}"


def column_names(path: Path) -> list[str]:
    """The names of a table's columns, of JSON lines the keys of the first; [] where they cannot be told.

    What is wrong with the file who reads it says.
    """
    try:
        status = os.stat(path)
        return _column_names(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, TypeError, RecursionError, csv.Error):
        return []


@lru_cache(maxsize=64)
def _column_names(path: Path, _mtime_ns: int, _size: int) -> list[str]:
    form = FORMS.get(path.suffix.lower())
    if form == "parquet":
        from pipeline.tables import opened

        return opened(path, "write it again", unproved=True).schema_arrow.names
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if form == "jsonl":
            return list(json.loads(next((line for line in lines if line.strip()), "{}")))
        return next(csv.reader(lines, delimiter="\t" if form == "tsv" else ","), [])


def read_listing(path: Path, choose: Chooser) -> Listing:
    """Reads a table whose form its suffix says.

    Args:
        path: of the file.
        choose: the columns to be kept, of those there are; raises where they do not do.

    Raises:
        DatasetError: another suffix, a file that cannot be read as what its suffix says, a column twice.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise DatasetError(f"{path} is no table that is read ({', '.join(FORMS)}); save it as one of these")
    if form == "parquet":
        return _of_parquet(path, choose)
    return _of_lines(path, choose) if form == "jsonl" else _of_text(path, choose, "\t" if form == "tsv" else ",")


def _of_text(path: Path, choose: Chooser, mark: str) -> Listing:
    kept: list[str] = []

    def chosen(head: list[str]) -> Sequence[str]:
        kept.extend(choose(head))
        return kept

    again = "save it in UTF-8, as comma-separated values" if mark == "," else "save it in UTF-8, parted by tabs"
    numbers, rows = [], []
    for number, entry in table_lines(path, chosen, "correct that line", again, mark):
        numbers.append(number)
        rows.append([entry[name] for name in kept])
    columns = list(map(list, zip(*rows, strict=True))) or [[] for _ in kept]
    return Listing(path, dict(zip(kept, columns, strict=True)), numbers, "line")


def _of_lines(path: Path, choose: Chooser) -> Listing:
    def refusal(twice: str) -> DatasetError:
        return DatasetError(f"{path} has the key {twice!r} twice in one object, and either may be meant; remove one")

    numbers, rows = [], []
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        try:
            row = loaded_json(line, refusal)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DatasetError(f"{path}: line {number} is not valid JSON: {error}; write an object a line") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{path}: line {number} is a {type(row).__name__}; write an object a line")
        numbers.append(number)
        rows.append(row)
    kept = choose(list(dict.fromkeys(name for row in rows for name in row)))
    return Listing(path, {name: [row.get(name) for row in rows] for name in kept}, numbers, "line")


def _of_parquet(path: Path, choose: Chooser) -> Listing:
    from pipeline.digests import Damaged
    from pipeline.tables import opened, read_columns  # here: params name a layout, and are read without pandas

    try:
        file = opened(path, "write it again", unproved=True)
        table = read_columns(file, choose(file.schema_arrow.names))
    except Damaged as error:
        raise DatasetError(str(error)) from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    return Listing(path, columns, range(1, len(table) + 1), "row")
