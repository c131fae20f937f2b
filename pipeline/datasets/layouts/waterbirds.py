"""Reads WaterBirds' metadata.csv as published. Opens no picture and imports no torch: runs at plan time.

The published layout, in the data set's root:
    metadata.csv    img_id,img_filename,y,split,place,place_filename; a picture a line
                    1,001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg,1,0,0,/b/bamboo_forest/00000131.jpg
Pictures lie at <videos>/<img_filename>. A sample's id is its img_filename, as a path is in a folder of pictures; img_id
and place_filename, which names a file of another data set, are not read.

Source: Sagawa et al., ICLR 2020, https://arxiv.org/abs/1911.08731, and its download
waterbird_complete95_forest2water2.
"""

from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.labels import required
from pipeline.datasets.names import DatasetError
from pipeline.datasets.tables import check_path, table_lines

# What each column's number means.
CODES = {
    "y": {"0": "landbird", "1": "waterbird"},
    "split": {"0": "train", "1": "val", "2": "test"},
    "place": {"0": "land", "1": "water"},
}
COLUMNS = ("img_filename", *CODES)
REMEDY = "use the metadata.csv of the official download, or correct that line"


class Waterbirds(Layout):
    """The published WaterBirds: metadata.csv, a picture a line."""

    kind = "image"
    takes = frozenset({"masks"})

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a picture, in the file's order.

        Returns:
            Columns `sample`, `path` (equal: POSIX, relative to the videos' folder), `label` (landbird or waterbird),
            `split` (train, val or test), `place` (land or water). Nothing is ignored: only what is listed counts.

        Raises:
            DatasetError: metadata.csv is absent, a link out of the root, no UTF-8 or csv, empty, lacks a column, or has
                a line that cannot be used; the message names the line.
        """
        (path,) = self.files(dataset)
        rows: dict[str, list[str]] = {}
        lines: dict[str, int] = {}
        for number, entry in table_lines(path, COLUMNS, REMEDY, "download it again"):
            sample, *meanings = _row(entry, f"{path}: line {number}")
            if sample in rows:
                raise DatasetError(
                    f"{path}: line {number} lists {sample!r}, which is on line {lines[sample]} already; remove one of "
                    "the two"
                )
            rows[sample], lines[sample] = meanings, number
        if not rows:
            raise DatasetError(f"{path} lists no picture; download it again")
        labels, splits, places = zip(*rows.values(), strict=True)
        samples = list(rows)
        return Annotations({"sample": samples, "path": samples, "label": labels, "split": splits, "place": places})

    def files(self, dataset: Dataset) -> list[Path]:
        """metadata.csv. Raises DatasetError where it is not there, or is a link that leads out of the root."""
        return [required(dataset, "metadata.csv")]


def _row(entry: dict[str, str], origin: str) -> list[str]:
    """img_filename, then what y, split and place of one line mean."""
    found = [check_path(entry, "img_filename", origin, REMEDY)]
    for column, codes in CODES.items():
        if entry[column] not in codes:
            wanted = ", ".join(f"{code} ({meaning})" for code, meaning in codes.items())
            raise DatasetError(f"{origin} has the {column} {entry[column]!r}, wanted one of {wanted}; {REMEDY}")
        found.append(codes[entry[column]])
    return found
