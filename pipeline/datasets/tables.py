"""Reads the lines of a csv file that lists samples, and says what is wrong with one. Knows no layout."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.datasets.names import DatasetError, check_file_name

PARTED_BY = (";", "\t", ",")  # what spreadsheets put where another mark is wanted
MARKS = {",": "commas", "\t": "tabs"}


def table_lines(
    path: Path,
    columns: Sequence[str] | Callable[[list[str]], Sequence[str]],
    remedy: str,
    again: str,
    mark: str = ",",
) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line of a csv file that has a head, those without a value passed over: spreadsheets leave `,,,` at the end.

    Args:
        path: UTF-8, with a byte order mark or without.
        columns: that the head must have, in any order and beside others; or what tells them from the head's names.
        remedy: what to do about a head or a line that cannot be used, for the errors.
        again: what to do about a file that is no such table at all.
        mark: what parts the fields.

    Returns:
        The line's number and its fields by column.

    Raises:
        DatasetError: no UTF-8 or csv, cannot be read, lacks one of the columns or has it twice, or a line has more or
            fewer fields than the head.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True, delimiter=mark)
            head = next(reader, [])
            parted = next((of for of in PARTED_BY if len(head) == 1 and of in head[0] and of != mark), None)
            remedy = f"its columns are parted by {parted!r}: save it with {MARKS[mark]}" if parted else remedy
            needed = columns if not callable(columns) else () if parted else columns(head)
            absent = [name for name in needed if name not in head]
            if absent or (parted and callable(columns)):
                lacks = f"lacks the columns {', '.join(absent)}" if absent else "has one column"
                raise DatasetError(f"{path}: line 1 {lacks}, got {mark.join(head)[:200]!r}; {remedy}")
            if twice := [name for name in needed if head.count(name) > 1]:
                raise DatasetError(
                    f"{path}: line 1 has the column {twice[0]} twice, and either may be meant; remove or rename one"
                )
            for fields in reader:
                if not any(map(str.strip, fields)):
                    continue
                if len(fields) != len(head):
                    raise DatasetError(
                        f"{path}: line {reader.line_num} has {len(fields)} fields, wanted {len(head)} as on line 1; "
                        f"{remedy}"
                    )
                yield reader.line_num, dict(zip(head, fields, strict=True))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}; {again}") from None
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num} is not valid csv: {error}; {again}") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check its permissions") from None


def check_path(entry: dict[str, str], column: str, origin: str, remedy: str) -> str:
    """Returns one field of a line if it can only mean a file below a folder: POSIX, each part a plain name.

    Raises:
        DatasetError: a part of it is empty, or none that `check_file_name` takes (`..`, a hidden file).
    """
    for part in entry[column].split("/"):
        if not part:
            raise DatasetError(f"{origin} has the {column} {entry[column]!r}, wanted folder/file; {remedy}")
        check_file_name(part, origin, what=column)
    return entry[column]
