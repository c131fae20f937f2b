"""Lists of splits as UCF-101, HMDB-51 and Kinetics have them. Opens no video: runs at plan time.

Of fold 1, in the folder that `lists` of params names:
    ucf101      trainlist01.txt: ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1; testlist01.txt, without the number;
                classInd.txt: 1 ApplyEyeMakeup
    hmdb51      brush_hair_test_split1.txt: April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1, where 1 is train, 2 is test and
                0 neither
    kinetics    *.csv: label,youtube_id,time_start,time_end,split; <youtube_id>_<start>_<end>, six digits each

Source: Soomro et al. 2012 (UCF-101), Kuehne et al., ICCV 2011 (HMDB-51), Kay et al. 2017 (Kinetics), as downloaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Dataset
from pipeline.datasets.folders import followed, home_of
from pipeline.datasets.labels import read_lines, required
from pipeline.datasets.names import DatasetError, check_file_name
from pipeline.datasets.splits import usual
from pipeline.datasets.tables import table_lines

KINETICS = ("label", "youtube_id", "time_start", "time_end", "split")
REMEDY = "get the lists of the official download, or correct lists of the data set in params"
HMDB = {"1": "train", "2": "test", "0": None}


@dataclass(slots=True)
class Entry:
    """What a list says of a video.

    Attributes:
        sample: its id.
        names: what its file may be called, without the suffix, with the folder that it lies in or without.
        place: where it should lie, below the videos' folder.
        label: its class; None where the list has none.
        split: train, val or test.
        line: where it stands.
    """

    sample: str
    names: tuple[str, ...]
    place: str
    label: str | None
    split: str
    line: str


def list_files(dataset: Dataset) -> list[Path]:
    """The lists, in a fixed order. Raises DatasetError where they are not there."""
    lists = dataset.lists
    assert lists is not None
    if lists.form == "ucf101":
        names = (f"trainlist{lists.fold:02d}.txt", f"testlist{lists.fold:02d}.txt", "classInd.txt")
        return [required(dataset, lists.folder, name) for name in names]
    pattern = f"*_test_split{lists.fold}.txt" if lists.form == "hmdb51" else "*.csv"
    folder = Path(dataset.root, lists.folder)
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not found:
        raise DatasetError(f"{folder} holds no {pattern}; {REMEDY}")
    for path in found:
        followed(path, home_of(dataset))
    return found


def entries(dataset: Dataset) -> Iterator[Entry]:
    """What the lists say, training first, so that what is listed again is never evaluated on.

    Raises:
        DatasetError: a list is absent, broken or empty; names the line.
    """
    assert dataset.lists is not None
    read = {"ucf101": _ucf, "hmdb51": _hmdb, "kinetics": _kinetics}[dataset.lists.form]
    files = list_files(dataset)
    order = {"train": 0, "val": 1, "test": 2}
    found = sorted(read(files), key=lambda entry: order[entry.split])
    if not found:
        raise DatasetError(f"{', '.join(map(str, files[:3]))} list no video; {REMEDY}")
    yield from found


def _ucf(files: list[Path]) -> Iterator[Entry]:
    train, test, classes = files
    numbered = dict(_pair(path_line) for path_line in _lines(classes))
    for path, split in ((train, "train"), (test, "test")):
        for line, text in _lines(path):
            name, _, number = text.partition(" ")
            label, slash, file = name.partition("/")
            if not slash:
                raise DatasetError(f"{line} is {text[:80]!r}, wanted class/file; {REMEDY}")
            check_file_name(label, line, "class")
            check_file_name(file, line)
            if number and numbered.get(number.strip()) != label:
                raise DatasetError(
                    f"{line} gives {label!r} the number {number.strip()}, which {classes} gives to "
                    f"{numbered.get(number.strip())!r}; use the lists of one release"
                )
            stem = file.rpartition(".")[0] or file
            yield Entry(f"{label}/{stem}", (f"{label}/{stem}",), name, label, split, line)


def _pair(path_line: tuple[str, str]) -> tuple[str, str]:
    line, text = path_line
    number, _, name = text.partition(" ")
    if not name.strip():
        raise DatasetError(f"{line} is {text[:80]!r}, wanted a number and a class; {REMEDY}")
    return number, name.strip()


def _hmdb(files: list[Path]) -> Iterator[Entry]:
    for path in files:
        label = path.name.rpartition("_test_split")[0]
        for line, text in _lines(path):
            file, _, number = text.rpartition(" ")
            file = file.strip()
            if not file or number not in HMDB:
                raise DatasetError(f"{line} is {text[:80]!r}, wanted a file and 0, 1 or 2; {REMEDY}")
            check_file_name(file, line)
            if (split := HMDB[number]) is not None:
                stem = file.rpartition(".")[0] or file
                yield Entry(f"{label}/{stem}", (f"{label}/{stem}",), f"{label}/{file}", label, split, line)


def _kinetics(files: list[Path]) -> Iterator[Entry]:
    known: set[str] = set()  # classes whose names may be folders'
    for path in files:
        columns = f"its columns are {','.join(KINETICS)}"
        for number, row in table_lines(path, KINETICS, columns, "save it as csv in UTF-8"):
            line = f"{path}: line {number}"
            video = row["youtube_id"]
            check_file_name(video, line)
            split = usual(row["split"])
            if split is None:
                raise DatasetError(f"{line} has the split {row['split']!r}, wanted train, val or test; {REMEDY}")
            try:
                start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
            except (ValueError, OverflowError):
                raise DatasetError(
                    f"{line} has the times {row['time_start']!r} and {row['time_end']!r}, wanted seconds; {REMEDY}"
                ) from None
            label = row["label"] or None
            if label is not None and label not in known:
                known.add(check_file_name(label, line, "class"))
            name = f"{video}_{start:06d}_{end:06d}"
            yield Entry(name, (name, video), f"{label or row['split']}/{name}.mp4", label, split, line)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of each line that is not empty."""
    for number, text in enumerate(read_lines(path), 1):
        if text:
            yield f"{path}: line {number}", text
