"""What params say of one's own videos: the columns of a table, published lists of splits, shares to draw splits by."""

from math import isclose
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Fraction, Place, Positive, Seed, Strict

Column = Annotated[str, Field(min_length=1)]
# The names of splits that are drawn, in the order in which shares are laid side by side.
DRAWN = ("train", "val", "test")


class Columns(Strict):
    """The columns of a table that lists videos. One that is not named here is the column of the role's own name, where
    the table has one and `ignore` does not name it; `path` it must have. A name that is written here must be there.

    `label` is one class, `labels` are several: a list, or text parted by `separator`. `target` is a number, or several
    columns of numbers. `start` and `stop` are a clip's, in seconds, or in frames counted from 0 of which `stop` is the
    first behind the clip.
    """

    path: Column | None = None
    id: Column | None = None
    label: Column | None = None
    labels: Column | None = None
    target: Column | tuple[Column, ...] | None = None
    split: Column | None = None
    start: Column | None = None
    stop: Column | None = None
    group: Column | None = None
    ignore: tuple[Column, ...] = ()
    separator: Annotated[str, Field(min_length=1)] = ";"
    unit: Literal["seconds", "frames"] = "seconds"

    @model_validator(mode="after")
    def _one_way_to_label(self) -> "Columns":
        if self.label is not None and self.labels is not None:
            raise ValueError(
                f"label is {self.label!r} and labels is {self.labels!r}; name the one that the classes are in"
            )
        if self.target == ():
            raise ValueError("target is an empty list; name a column, or leave it out")
        return self


class Lists(Strict):
    """Lists of splits as three public sets have them, in `folder` below the root.

    `ucf101`: trainlist<fold>.txt, testlist<fold>.txt, classInd.txt. `hmdb51`: <class>_test_split<fold>.txt. `kinetics`:
    all csv files, with the columns label, youtube_id, time_start, time_end and split.
    """

    form: Literal["ucf101", "hmdb51", "kinetics"]
    folder: Place = "."
    fold: Positive = 1


class Shares(Strict):
    """The shares of a data set that its splits get, which have no other. They sum to 1.

    `by` says what is never parted: the value of the column `group`, or a single sample. By default it is the group,
    where there is such a column, and else the file: clips of one video stay together.
    """

    train: Fraction
    val: Fraction = 0.0
    test: Fraction = 0.0
    by: Literal["group", "sample"] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _whole(self) -> "Shares":
        total = sum(getattr(self, name) for name in DRAWN)
        if not isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"train, val and test are {total:g} together; they sum to 1")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that get anything."""
        return tuple(name for name in DRAWN if getattr(self, name))
