"""What a data set of params is: where it lies on disk, or what toyworld renders. Knows no feature and no head."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .base import Extension, Name, Place, Positive, Seed, Strict
from .layouts import TAKEN, Kind, Layout, Targets, layout_of, taking
from .own import Columns, Lists, Shares
from .places import VideoPlace

# Fields that data sets of earlier versions lack.
LATER = frozenset({"table", "columns", "lists", "split", "renders"})


def _a_layout(name: str) -> str:
    layout_of(name)  # raises what is wrong with it
    return name


class ToySSv2(Strict):
    """Sizes of a rendered set of Something-Something-V2's layout; counts are videos a template."""

    train: Positive
    validation: Positive
    test: Positive
    size: Positive
    frames: tuple[Positive, Positive]
    fps: Positive


class ToyAssembly(Strict):
    """Sizes of the rendered toy-assembly set: procedures of many steps in one video."""

    train: Positive
    test: Positive
    size: Positive
    steps: tuple[Positive, Positive]  # fewest and most segments of a video, background among them
    frames: tuple[Positive, Positive]  # of a segment
    fps: Positive


HalfSide = Annotated[float, Field(gt=0, le=0.5, description="in sides of the picture")]


class ToyWaterbirds(Strict):
    """Sizes of the rendered toy-waterbirds set; counts are pictures, `ood` of each of the three folders.

    Multiples of 40 in train, and of 4 in val and test, give every pair of class and place its exact share.
    """

    train: Positive
    val: Positive
    test: Positive
    ood: Positive
    size: Positive
    radii: tuple[HalfSide, HalfSide]  # smallest and largest object


class ToyClinic(Strict):
    """Sizes of the rendered toy-clinic set; counts are patients, who have two or three videos in turn.

    Multiples of 24 give every pair of diagnosis and body site as many patients as the others.
    """

    train: Positive
    val: Positive
    test: Positive
    size: Positive
    frames: tuple[Annotated[int, Field(ge=2)], Positive]  # fewest and most of a video
    fps: Positive


class Rendering(NamedTuple):
    """A data set that toyworld can render: its layout, and the section with its sizes."""

    layout: str
    section: str


class Toyworld(Strict):
    """What is rendered, by sections; a data set is one of `RENDERINGS`, of its layout the first unless it says so."""

    RENDERINGS: ClassVar[Mapping[str, Rendering]] = {
        "ssv2": Rendering("ssv2", "ssv2"),
        "assembly": Rendering("mstcn", "assembly"),
        "waterbirds": Rendering("waterbirds", "waterbirds"),
        "clinic": Rendering("clinic", "clinic"),
        "ssv2_reversed": Rendering("ssv2", "ssv2"),
        "relations": Rendering("ssv2", "relations"),
    }

    seed: Seed
    ssv2: ToySSv2 | None = None
    relations: ToySSv2 | None = None
    assembly: ToyAssembly | None = None
    waterbirds: ToyWaterbirds | None = None
    clinic: ToyClinic | None = None


class Dataset(Strict):
    """A data set on disk. `root` is where this machine keeps it: it enters no key.

    `features` are extracted by `snakemake features` even when no head reads them.
    """

    layout: Annotated[str, AfterValidator(_a_layout)]  # one of LAYOUTS, an entry point, or my_package.module:MyLayout
    root: Place
    videos: Place | None = "."  # folder below root; None where there are published features and no videos
    extension: Extension = ".webm"
    # Some layouts alone take what follows, down to `split`: each says which.
    # Where videos do not lie as <id><extension>: the first whose `ids` fit decides.
    video_paths: tuple[VideoPlace, ...] = ()
    # Where labels of frames lie below root, how many there are a second (None: one a row
    # of the features), named lists of classes in text files below root, and the classes that are background.
    labels: Place = "groundTruth"
    label_fps: Annotated[float, Field(gt=0)] | None = None
    class_lists: dict[Name, Place] = Field(default_factory=dict)
    background: tuple[str, ...] = ()
    csv: Place = "clinic.csv"  # below root
    masks: Place | None = None  # of pictures, a folder below root: the mask of a/b.jpg is <masks>/a/b.png
    table: Place = "videos.csv"  # below root: CSV, TSV, Parquet or JSON lines, with what `columns` says
    columns: Columns = Columns()
    lists: Lists | None = None  # of splits, as published
    split: Shares | None = None  # where a data set has no splits, they are drawn by these shares
    made_by: Literal["toyworld"] | None = None
    renders: str | None = None  # by toyworld: one of Toyworld.RENDERINGS of this layout; null is the first
    within: Name | None = None  # the data set in whose folder it lies, and with which it is made
    shard_size: Annotated[int, Field(ge=1, le=4096)] = 256
    allow_links: bool = False
    watch: bool = True  # a plan looks at the size and time of every file; where that is slow, `snakemake -R manifest`
    features: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _layout_takes_it(self) -> "Dataset":
        for name in sorted(TAKEN - self.laid.takes):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} is for the layouts {' and '.join(taking(name))}, got {self.layout}; remove it"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_it_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the later fields that nobody set: a manifest of a version that lacked them stays up to date."""
        fields = type(self).model_fields
        unset = {name for name in LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unset}

    @property
    def laid(self) -> Layout:
        """The layout that `layout` names."""
        return layout_of(self.layout)

    @property
    def rendering(self) -> str | None:
        """Which of Toyworld.RENDERINGS it is; None where nothing is rendered, or nothing of this layout can be."""
        return (self.renders or next(iter(self._renderings), None)) if self.made_by else None

    @property
    def _renderings(self) -> list[str]:
        """Those of Toyworld.RENDERINGS that have this layout."""
        return [name for name, of in Toyworld.RENDERINGS.items() if of.layout == self.layout]

    @model_validator(mode="after")
    def _it_can_be_rendered(self) -> "Dataset":
        if self.renders is None:
            return self
        if self.made_by is None:
            raise ValueError(
                f"renders is {self.renders!r}, but nothing is rendered; set made_by: toyworld, or remove it"
            )
        if self.renders not in self._renderings:
            raise ValueError(
                f"renders is {self.renders!r}, expected one of those of layout {self.layout}: "
                f"{', '.join(self._renderings) or 'none'}"
            )
        return self

    @property
    def kind(self) -> Kind:
        """What a sample is."""
        return self.laid.kind

    @property
    def targets(self) -> tuple[Targets, ...]:
        """What of whole samples can be learned, the first unless a head says otherwise."""
        return self.laid.targets(self)

    @property
    def learned(self) -> dict[str, Any]:
        """What of it decides a run beside the samples: which row a label belongs to, and what is background."""
        return self.model_dump(mode="json", include={"label_fps", "background"})
