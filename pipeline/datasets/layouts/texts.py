"""Reads a file of texts, one a line: class names, a word list. Imports no torch: runs at plan time.

The data set's `root` is the file. A sample is a line without the white space around it, and its id is the text itself;
blank lines are passed over, and nothing is a comment, since a word list may hold anything.
"""

from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.names import DatasetError

SPLIT = "all"


class Texts(Layout):
    """A file with a text a line."""

    kind = "text"

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a text, in the file's order. UTF-8 with or without a byte order mark; any of the three line ends.

        Returns:
            Columns `sample` (the text) and `split` ("all").

        Raises:
            DatasetError: the file is absent, no file, not UTF-8 or empty, or a text is there twice.
        """
        (path,) = self.files(dataset)
        lines: dict[str, int] = {}
        for number, text in lines_of(path):
            if text in lines:
                raise DatasetError(
                    f"{path}: {text[:80]!r} is on line {lines[text]} and again on line {number}; remove one"
                )
            lines[text] = number
        return Annotations({"sample": list(lines), "split": SPLIT})

    def files(self, dataset: Dataset) -> list[Path]:
        """The file itself.

        Raises:
            DatasetError: it is not there, or is no file.
        """
        path = Path(dataset.root)
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise DatasetError(
                f"{path} {found}, wanted a file with one text a line; correct the data set's root in params"
            )
        return [path]


def lines_of(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank, at least one.

    Raises:
        DatasetError: the file cannot be read, is not UTF-8, holds a NUL or no text.
    """
    found = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if "\0" in line:
                    raise DatasetError(f"{path}: line {number} holds a NUL; save the file as UTF-8 text")
                if text := line.strip():
                    found.append((number, text))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if not found:
        raise DatasetError(f"{path} holds no text; write one text a line")
    return found
