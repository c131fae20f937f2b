"""What a layout is: how a data set lies on disk. Lists the layouts there are, and imports one where params name it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pipeline.plugins import PluginError, load_class, named

if TYPE_CHECKING:
    from .datasets import Dataset

# A layout is a module and a line. They are named, not imported: params are read without pandas.
LAYOUTS = {
    "ssv2": "pipeline.datasets.layouts.ssv2:SSv2",
    "images": "pipeline.datasets.layouts.images:Images",
    "texts": "pipeline.datasets.layouts.texts:Texts",
    "mstcn": "pipeline.datasets.layouts.mstcn:MsTcn",
    "egoprocel": "pipeline.datasets.layouts.mstcn:EgoProceL",
    "epic": "pipeline.datasets.layouts.epic:Epic",
    "waterbirds": "pipeline.datasets.layouts.waterbirds:Waterbirds",
    "words": "pipeline.datasets.layouts.words:Words",
    "clinic": "pipeline.datasets.layouts.clinic:Clinic",
    "videos": "pipeline.datasets.layouts.videos:Videos",
    "table": "pipeline.datasets.layouts.table:Table",
}

GROUP = "permafrost.layouts"  # of entry points
Kind = Literal["video", "image", "text"]
Targets = Literal["label", "labels", "target"]
# The fields of a data set that have a meaning in some layouts only.
TAKEN = frozenset(
    {"video_paths", "labels", "label_fps", "class_lists", "background", "csv", "masks"}
    | {"table", "columns", "lists", "split"}
)


@dataclass(frozen=True)
class Annotations:
    """What a layout's files say of the samples.

    Attributes:
        columns: lists of one length, a value a sample, in the order that the manifest keeps; or one value for all.
            `sample`: the id, text, each once.
            `split`: text.
            `path`: of the video or picture, POSIX, relative to `videos` of the data set; None where it has no videos.
                A text is its own id, and has none.
            `label`, `template`, and of layouts that know of them `map` (POSIX, relative to the root), `patient`,
            `clinician` and `group`: text or None. A column that is absent is None throughout.
            `labels`: a list of the names of the classes that a sample is of, maybe none; `target`: a list of numbers;
            `start` and `stop`: numbers, of a clip within a longer video, in the unit that `columns` of the data set
            says; each or None. `line`: where a clip stands, below the root, for messages: "clips.csv: line 7: ".
        listed_twice: [sample, list that counts, list ignored] of what is listed again, for the quality report.
        ignored: {suffix: count} of the files that are no samples, for the quality report.
        targets: the names of the numbers in `target`.
    """

    columns: Mapping[str, Sequence[Any] | str | None]
    listed_twice: list[list[str]] = field(default_factory=list)
    ignored: Mapping[str, int] = field(default_factory=dict)
    targets: Sequence[str] = ()


class Layout(ABC):
    """How a data set lies on disk: derive a class, and name it in a data set's `layout`.

    Ours stand in `LAYOUTS` by a word. Somebody else's is named as `my_package.module:MyLayout`, or by the word of an
    entry point of the group `permafrost.layouts`. Both are one module:

        class MyLayout(Layout):
            kind = "image"
            takes = frozenset({"csv"})

            def files(self, dataset):
                return [Path(dataset.root, dataset.csv)]

            def annotations(self, dataset):
                ids, labels = ...
                return Annotations({"sample": ids, "path": ids, "label": labels, "split": "train"})

    The module is imported when params are read, so it loads neither torch nor pandas at its top. All methods may be
    called while a plan is made: they read annotations and list folders, and open no video and no picture. Each takes
    the `Dataset` of params. They raise `pipeline.datasets.DatasetError`, a line that names the file and the remedy.

    Attributes:
        kind: what a sample is: "video", "image" or "text".
        takes: which of `TAKEN`, the fields of a data set that not every layout has, it reads.
        maps: whether its annotations name maps of samples (the column `map`).
        searched: whether a file that lists samples says their names alone, and the videos' folder is searched for them.
        labelled: whether the frames of its videos have labels: `labels` then gives a `pipeline.datasets.labels.Labels`.
    """

    kind: ClassVar[Kind]
    takes: ClassVar[frozenset[str]] = frozenset()
    maps: ClassVar[bool] = False
    searched: ClassVar[bool] = False
    labelled: ClassVar[bool] = False

    @abstractmethod
    def annotations(self, dataset: "Dataset") -> Annotations:
        """What the annotation files, or the folders of a layout that has none, say of the samples."""

    @abstractmethod
    def files(self, dataset: "Dataset") -> list[Path]:
        """The files that `annotations` reads, in a fixed order; none where it only lists folders.

        Raises:
            DatasetError: one that must be there is not; says where it was looked for.
        """

    def targets(self, dataset: "Dataset") -> tuple[Targets, ...]:
        """The columns of what can be learned of whole samples, the first unless a head says otherwise: one `label`,
        several `labels`, or numbers, `target`. Asked when params are read: what is not there yet has a label."""
        return ("label",)

    def places(self, dataset: "Dataset", sample: str) -> tuple[str, ...]:
        """Where a sample's video may lie, below `videos`, where that may be several places: the first that is there."""
        return ()

    def label_files(self, dataset: "Dataset", samples: Sequence[str]) -> dict[str, Path]:
        """sample -> the file of its frames' labels, where they have one a sample and it is there."""
        return {}

    def labels(self, dataset: "Dataset", samples: Sequence[str]) -> Any:
        """The `Labels` of the frames of these samples, of a layout that is `labelled`."""
        return None


@lru_cache(maxsize=64)
def layout_of(name: str) -> Layout:
    """The layout of a name in params. Raises ValueError, one line: there is none, or it is not what it should be."""
    try:
        chosen = load_class(named(name, LAYOUTS, GROUP), Layout)
    except PluginError as error:
        raise ValueError(f"layout {error}") from None
    if (kind := getattr(chosen, "kind", None)) not in get_args(Kind):
        raise ValueError(f"layout {name}: its kind is {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if unknown := sorted(set(chosen.takes) - TAKEN):
        raise ValueError(f"layout {name}: it takes {unknown}, of a data set's {', '.join(sorted(TAKEN))}; remove it")
    return chosen()


def taking(name: str) -> list[str]:
    """Our layouts that take a field."""
    return [layout for layout in LAYOUTS if name in layout_of(layout).takes]
