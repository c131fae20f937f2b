"""Features that somebody else computed: where their files lie, and what a sample is in them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Extension, Place, Positive, PositiveFloat
from .contents import Contents, Rows, Tokens, Vectors
from .features import BaseFeature

# What a file, and a member of a tar, is read of.
READABLE = {"files": (".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth"), "webdataset": (".npy", ".npz", ".pt", ".pth")}


class Imported(BaseFeature, ABC):
    """What somebody else computed. A sample's source is the file that holds it, so that file's digest is the store's.

    `root` is where the files lie on this machine, and no part of the key. Of `form`:
    files: a file a sample, <root>/<sample><extension>, .npy, .npz, .h5 or .pt.
    hdf5, zarr: `root` holds a dataset a sample, or a group a sample with `array` in it; with `ids`, one `array` of all
        samples, whose ids are in the array or attribute `ids`.
    webdataset: tar files, in which a sample is <key><extension>.
    """

    root: Place
    batch: Positive = 16

    @property
    @abstractmethod
    def field(self) -> tuple[str, tuple[int | None, ...], str]:
        """Name, shape of a sample and dtype of its field in the store."""

    @property
    def ragged(self) -> bool:
        return self.field[1][0] is None

    @property
    def keyed(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"root", *self.unkeyed})


class NpyFeature(Imported):
    """Published frame features: <root>/<sample><extension>, (width, T) or (T, width) as `orientation` says."""

    form: ClassVar[str] = "files"
    array: ClassVar[None] = None
    ids: ClassVar[None] = None
    lossy: ClassVar[str] = "say"
    backbone: Literal["npy"]
    orientation: Literal["DT", "TD"]
    width: Positive
    fps: PositiveFloat
    extension: Extension = ".npy"

    @property
    def field(self) -> tuple[str, tuple[int | None, ...], str]:
        return "frames", (None, self.width), "float16"

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        return {"frames": Rows(self.width, self.fps)}


class ImportedFeature(Imported):
    """Features of any kind that somebody else computed: vectors (width,) or (steps, width), rows (T, width), tokens
    (steps, rows * columns, width).

    `array` names the array of an .npz, a .h5, a .pt or a group that holds several. `dtype` is what the store keeps;
    where that changes values, `lossy: say` tells the largest error and `refuse` fails the sample.
    """

    backbone: Literal["imported"]
    form: Literal["files", "hdf5", "zarr", "webdataset"]
    content: Literal["vectors", "rows", "tokens"]
    width: Positive
    steps: Positive | None = None
    grid: tuple[Positive, Positive] | None = None
    fps: PositiveFloat | None = None
    orientation: Literal["DT", "TD"] = "TD"
    extension: Extension = ".npy"
    array: Annotated[str, Field(min_length=1)] | None = None
    ids: Annotated[str, Field(min_length=1)] | None = None
    dtype: Literal["float16", "float32"] = "float16"
    lossy: Literal["say", "refuse"] = "say"

    @model_validator(mode="after")
    def _fits(self) -> "ImportedFeature":
        wants = {"vectors": (), "rows": (), "tokens": ("steps", "grid")}[self.content]
        takes = {"vectors": ("steps",), "rows": ("fps", "orientation"), "tokens": ("steps", "grid")}[self.content]
        if absent := [name for name in wants if getattr(self, name) is None]:
            raise ValueError(f"content: tokens needs {absent[0]}: steps, and grid as [rows, columns]")
        for name in ("steps", "grid", "fps", "orientation"):
            if name not in takes and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} says nothing of content: {self.content}; remove it")
        inside = self.form in ("hdf5", "zarr")
        if inside and self.extension != ".npy":
            raise ValueError(f"extension is of files and of members, and form is {self.form}; remove it")
        if not inside and not self.extension.lower().endswith(READABLE[self.form]):
            known = ", ".join(READABLE[self.form])
            raise ValueError(f"extension is {self.extension!r}, and of form {self.form} {known} are read")
        if self.ids is not None and (not inside or self.array is None):
            raise ValueError("ids is of one array of all samples: form hdf5 or zarr, with array")
        if self.array is not None and not inside and self.extension.lower().endswith(".npy"):
            raise ValueError("array names one of several, and a .npy holds one; remove it")
        return self

    @property
    def field(self) -> tuple[str, tuple[int | None, ...], str]:
        count = () if self.steps is None else (self.steps,)
        cells = self.grid and (self.grid[0] * self.grid[1],)
        shape = {"vectors": count, "rows": (None,), "tokens": (*count, *(cells or ()))}[self.content]
        return self.content, (*shape, self.width), self.dtype

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        if self.content == "rows":
            return {"rows": Rows(self.width, self.fps)}
        if self.content == "tokens":
            return {"tokens": Tokens(self.steps, self.grid, self.width)}
        return {"vectors": Vectors(self.width, self.steps)}
