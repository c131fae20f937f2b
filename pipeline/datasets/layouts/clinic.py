"""Reads the csv file of videos, maps and diagnoses. Opens no video and no map and imports no torch: runs at plan time.

The layout, below the data set's root:
    clinic.csv    sample,video,map,label,patient,clinician,split; what one clinician marked in one video a line
                  p03_v1_c2,p03/v1.mp4,maps/c2/p03_v1.npz,tremor,p03,c2,train
Videos lie at <videos>/<video>, maps at <map> below the root: a file, or a folder of pictures. A video may be on several
lines, one a map, which all say the same label, patient and split of it. `map`, `label` and `clinician` may be empty.
All that there is of a patient is in one split.
"""

from pathlib import Path

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.labels import required
from pipeline.datasets.names import DatasetError
from pipeline.datasets.tables import check_path, table_lines
from pipeline.datasets.twins import as_seen, told

COLUMNS = ("sample", "video", "map", "label", "patient", "clinician", "split")
SPLITS = ("train", "val", "test")
REMEDY = "correct that line"
# What two lines that agree on the one must say alike, and what to do where they do not.
ALIKE = (
    ("video", ("label", "patient", "split"), "a video has one of each; correct one of the two lines"),
    ("patient", ("split",), "all there is of a patient belongs in one split; move one of the two lines"),
)


class Clinic(Layout):
    """A csv file of videos, maps and diagnoses."""

    kind = "video"
    takes = frozenset({"csv"})
    maps = True

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a line, in the file's order.

        Returns:
            Columns `sample`, `path` (POSIX, relative to the videos' folder), `label` (or None), `split` (train, val or
            test), `map` (POSIX, relative to the root, or None), `patient`, `clinician` (or None). Nothing is listed
            twice: that is refused.

        Raises:
            DatasetError: the file is absent, a link out of the root, no UTF-8 or csv, empty, lacks a column, has a line
                that cannot be used, a sample twice, a patient in two splits, in two spellings too, or lines that
                contradict each other about a video; the message names the lines.
        """
        (path,) = self.files(dataset)
        again, rows = "save it as csv in UTF-8", []
        first: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
        for number, entry in table_lines(path, COLUMNS, f"its columns are {','.join(COLUMNS)}", again):
            origin = f"{path}: line {number}"
            _check(entry, origin)
            line, known = first.setdefault(("sample", entry["sample"]), (number, entry))
            if known is not entry:
                raise DatasetError(
                    f"{origin} lists {entry['sample']!r}, which is on line {line} already; name each line's sample "
                    "apart"
                )
            for column, others, remedy in ALIKE:
                line, known = first.setdefault((column, entry[column]), (number, entry))
                for other in others:
                    if entry[other] != known[other]:
                        raise DatasetError(
                            f"{origin} has the {other} {entry[other]!r} for the {column} {entry[column]!r}, but "
                            f"line {line} has {known[other]!r}; {remedy}"
                        )
            # One person in two spellings would be learned from and evaluated on.
            seen = as_seen(entry["patient"])
            line, known = first.setdefault(("seen", seen), (number, entry))
            if entry["split"] != known["split"]:
                raise DatasetError(
                    f"{origin} has the patient {told(entry['patient'])} in {entry['split']}, and line {line} has "
                    f"{told(known['patient'])} in {known['split']}; write one person in one way, and give two people "
                    "names that differ in more than capitals and spaces"
                )
            rows.append(entry)
        if not rows:
            raise DatasetError(f"{path} lists no video; write a line for each")
        columns = {name: [row[name] or None for row in rows] for name in COLUMNS}
        return Annotations({"path": columns.pop("video"), **columns})

    def files(self, dataset: Dataset) -> list[Path]:
        """The csv file. Raises DatasetError where it is not there, or is a link that leads out of the root."""
        return [required(dataset, dataset.csv)]


def _check(entry: dict[str, str], origin: str) -> None:
    """Refuses a line that cannot be used by itself."""
    for column in ("sample", "label", "patient", "clinician"):
        value = entry[column]
        if value != value.strip() or not value.isprintable():
            raise DatasetError(
                f"{origin} has the {column} {value!r}, with a space around it or a character that cannot be printed; "
                f"{REMEDY}"
            )
    if not entry["sample"]:
        raise DatasetError(f"{origin} names no sample; {REMEDY}")
    if not entry["patient"]:
        raise DatasetError(
            f"{origin} names no patient, so nothing keeps videos of one person in one split; write who it is of, or "
            "the video's name where nobody has two"
        )
    if entry["split"] not in SPLITS:
        raise DatasetError(f"{origin} has the split {entry['split']!r}, wanted one of {', '.join(SPLITS)}; {REMEDY}")
    check_path(entry, "video", origin, REMEDY)
    if entry["map"]:
        check_path(entry, "map", origin, REMEDY)
