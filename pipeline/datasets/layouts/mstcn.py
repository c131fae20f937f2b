"""Reads the layout of MS-TCN's data sets, a label a line a frame, and EgoProceL's variant of it. Opens no video.

    mapping.txt                 `0 SIL`: number and name of each class; the name may hold spaces
    groundTruth/<id>.txt        the name of a class a line, one a frame; the folder is `labels` in params
    splits/train.split1.bundle  mstcn: a video a line, as `<id>.txt`; Breakfast, 50Salads, GTEA, HA-ViD
    split1.train, split1.test   egoprocel: a video a line, as `<id>`; EgoProceL and Epic-Kitchens as FACT publishes them

Bundles may begin with a line `#bundle`, have paths before their ids, and lack the last line end. At plan time only they
and the mapping are read, not the labels.

Videos, if there are any, lie as <videos>/<id><extension> or where `video_paths` of params says: Breakfast's
`P03_cam01_P03_coffee` is `P03/cam01/P03_coffee.avi`.

Source: Abu Farha and Gall, CVPR 2019, and the data published with it, https://zenodo.org/records/3625992; Lu and
Elhamifar, CVPR 2024.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.folders import followed, home_of
from pipeline.datasets.labels import Labels, class_list_files, read_label_file, read_lines, required
from pipeline.datasets.names import DatasetError, check_file_name
from pipeline.datasets.twins import twins

# A suffix of videos, features or labels, which a list may give to an id by mistake, and whatever follows it.
SUFFIX = re.compile(r"\.(?:txt|csv|avi|mp4|webm|mkv|mov|npy|npz|h5)(?![^\W_]).*", re.IGNORECASE)


class Bundle(NamedTuple):
    """A list of videos: `kind` is train, test or the like, `fold` which division of the set it belongs to."""

    kind: str
    fold: str
    path: Path


class MsTcn(Layout):
    """MS-TCN's data sets: a label a line a frame."""

    kind = "video"
    takes = frozenset({"video_paths", "labels", "label_fps", "class_lists", "background"})
    labelled = True
    # The folder of the lists of videos, the names that are looked at, and how they are understood.
    folder: ClassVar = "splits"
    patterns: ClassVar = ("*.bundle",)
    name: ClassVar = re.compile(r"(?P<kind>\w+)\.(?P<fold>\w+)\.bundle")

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a video, in the order of the lists: fold by fold, train first and test last.

        Returns:
            Columns `sample`, `path` (the first of `video_paths`, or None where the set has no videos), `split` (every
            list that has the video: "train.split1+test.split2", or "train" where there is one fold only). Listed twice
            is [sample, list, list] of what a list repeats.

        Raises:
            DatasetError: there is no list, one has an unknown name, cannot be read or holds an id that cannot be a file
                name or is like none of the patterns of params, two paths have one id, or a fold trains on a video that
                it also tests on.
        """
        bundles = self._bundles(dataset)
        one_fold = len({bundle.fold for bundle in bundles}) == 1
        rows: dict[str, list[Bundle]] = {}
        places: dict[str, str] = {}
        listed_twice = []
        for bundle in bundles:
            for sample, place in _ids(dataset, bundle.path):
                if place and place != places.setdefault(sample, place):
                    raise DatasetError(
                        f"{bundle.path} lists {place}/{sample}, but {places[sample]}/{sample} is listed too, and a "
                        "video's id is what follows the last slash; name the two apart, or write one path for one video"
                    )
                check_file_name(f"{sample}{dataset.extension}", str(bundle.path))
                if bundle in rows.setdefault(sample, []):
                    listed_twice.append([sample, bundle.path.name, bundle.path.name])
                    continue
                trains = [of for of in rows[sample] if of.fold == bundle.fold and of.kind.casefold() == "train"]
                if trains:
                    raise DatasetError(
                        f"video {sample!r} is in {trains[0].path} and in {bundle.path}: what was trained on must not "
                        "be evaluated on; remove it from one of them"
                    )
                rows[sample].append(bundle)
        splits = ["+".join(b.kind if one_fold else f"{b.kind}.{b.fold}" for b in lists) for lists in rows.values()]
        paths = [None if dataset.videos is None else self.places(dataset, sample)[0] for sample in rows]
        return Annotations({"sample": list(rows), "path": paths, "split": splits}, listed_twice)

    def files(self, dataset: Dataset) -> list[Path]:
        """The mapping, the lists of videos and those of classes. Raises DatasetError where one must be and is not."""
        bundles = [bundle.path for bundle in self._bundles(dataset)]
        return [required(dataset, "mapping.txt"), *bundles, *class_list_files(dataset).values()]

    def places(self, dataset: Dataset, sample: str) -> tuple[str, ...]:
        """Where the video of a sample may lie, below the videos' folder: the first that is there is meant.

        Raises:
            DatasetError: the id is like none of the patterns of `video_paths`, or makes a path that leads elsewhere.
        """
        if not dataset.video_paths:
            return (f"{sample}{dataset.extension}",)
        found = next(filter(None, (place.of(sample) for place in dataset.video_paths)), None)
        if found is None:
            patterns = ", ".join(place.ids for place in dataset.video_paths)
            raise DatasetError(
                f"video {sample!r} of the data set in {dataset.root} is like none of the ids of video_paths "
                f"({patterns}); add a pattern to params, or correct the id in its list"
            )
        for path in found:
            for part in path.split("/"):
                check_file_name(part, f"video_paths of the data set in {dataset.root}")
        return tuple(f"{path}{dataset.extension}" for path in found)

    def label_files(self, dataset: Dataset, samples: Sequence[str]) -> dict[str, Path]:
        """sample -> its text file of labels, of the samples that have one."""
        paths = {sample: _labels_of(dataset, sample) for sample in samples}
        return {sample: path for sample, path in paths.items() if path.exists()}

    def labels(self, dataset: Dataset, samples: Sequence[str]) -> Labels:
        """The labels of all frames of these samples; one without a file of labels has none.

        Raises:
            DatasetError: the mapping cannot be used, or a file of labels; the message names the video and the file.
        """
        classes = _mapping(required(dataset, "mapping.txt"))
        known, home = frozenset(classes), home_of(dataset)
        segments = {}
        for sample, path in self.label_files(dataset, samples).items():
            followed(path, home)
            segments[sample] = read_label_file(path, sample, known)
        return Labels(classes, segments)

    def _bundles(self, dataset: Dataset) -> list[Bundle]:
        found = []
        for path in (path for pattern in self.patterns for path in Path(dataset.root, self.folder).glob(pattern)):
            if path.name.startswith("."):  # what a Mac leaves beside a list is none
                continue
            parts = self.name.fullmatch(path.name)
            if parts is None:
                raise DatasetError(
                    f"{path} is not named like a list of videos of the layout {dataset.layout} "
                    "(train.split1.bundle, or split1.train for egoprocel); rename or remove it"
                )
            found.append(Bundle(parts["kind"], parts["fold"], required(dataset, self.folder, path.name)))
        if not found:
            raise DatasetError(
                f"no list of videos ({', '.join(self.patterns)}) in {Path(dataset.root, self.folder)}; put the data "
                "set's files there (docs/real-data.md says where from), or correct its root in params"
            )
        for alike in (*twins(bundle.kind for bundle in found), *twins(bundle.fold for bundle in found)):
            raise DatasetError(
                f"the lists of videos in {Path(dataset.root, self.folder)} are of {' and of '.join(map(repr, alike))}, "
                "which would be different splits; rename them so that what is one is written in one way"
            )
        # split2 before split10; train first, test last.
        return sorted(
            found, key=lambda b: (len(b.fold), b.fold, b.kind.casefold() != "train", b.kind == "test", b.kind)
        )


class EgoProceL(MsTcn):
    """EgoProceL's and Epic-Kitchens' variant of it, as FACT publishes them."""

    folder = "."
    patterns = ("*.train", "*.test")
    name = re.compile(r"(?P<fold>\w+)\.(?P<kind>train|test)")


def _labels_of(dataset: Dataset, sample: str) -> Path:
    return Path(dataset.root, dataset.labels, f"{sample}.txt")


def _ids(dataset: Dataset, path: Path) -> Iterator[tuple[str, str]]:
    """The id of each line, and the path before it, which may be empty.

    Raises:
        DatasetError: a line has another suffix than .txt, or something behind that, and no labels are called so.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        *folders, name = re.split(r"[/\\]", line)
        sample = name.removesuffix(".txt")
        plain = SUFFIX.sub("", sample).removesuffix(dataset.extension)
        if plain != sample and not _labels_of(dataset, sample).exists():
            raise DatasetError(
                f"{path}: line {number} is {line!r}, wanted the id of a video, alone or as {plain}.txt; correct it"
            )
        yield sample, "/".join(part for part in folders if part != ".")


def _mapping(path: Path) -> list[str]:
    """Names of the classes, by their numbers."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        index, *name = line.split(maxsplit=1)
        if not index.isdecimal() or not name:
            raise DatasetError(f"{path}: line {number} is {line!r}, wanted `0 name of a class`; correct it")
        if int(index) in names or name[0] in names.values():
            raise DatasetError(f"{path}: line {number} ({line!r}) repeats a number or a name; remove one of the two")
        names[int(index)] = name[0]
    if not names or sorted(names) != list(range(len(names))):
        raise DatasetError(
            f"{path} has the numbers {sorted(names)[:20]}, wanted 0, 1, 2, ... without a gap; correct it"
        )
    return [names[index] for index in range(len(names))]
