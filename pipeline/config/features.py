"""What all features share: weights, sampling, geometry, and the models that others extend. Knows no backbone's code.

A feature is told apart by its `backbone`; its fields, apart from where things lie on this machine, determine the bytes.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from .base import Fraction, Place, Positive, PositiveFloat, Seed, Strict, Vocabulary, flat
from .contents import Contents, Part, part_of

HUB_ID = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$"


class Weights(Strict):
    """Where a backbone's weights come from: exactly one of a local path, a hub id + revision, or random + seed."""

    path: Place | None = None
    hub: Annotated[str, Field(pattern=HUB_ID)] | None = None
    revision: Annotated[str, Field(min_length=1)] | None = None
    random: Seed | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Weights":
        given = [name for name in ("path", "hub", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"weights need exactly one of path, hub or random, got {given or 'none'}")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("weights from a hub need both hub and revision, so that they cannot change underneath")
        # The hub's library refuses these too, but only when the weights are loaded.
        if self.hub and (wrong := re.search(r"--|\.\.|[-.](?=/|$)|\.git$", self.hub)):
            raise ValueError(f"hub {self.hub} is no id of a hub, for its {wrong[0]!r}: expected owner/name")
        return self


class Sampling(Strict):
    """Which moments of a video are looked at; one of three:

    {frames: n}: the centres of n equal segments.
    {fps: f}: every 1/f seconds, so that a longer video has more of them.
    {frames: n, fps: f, windows: w}: w windows of n frames at f, spread evenly from the start to the end.
    """

    frames: Positive | None = None
    fps: PositiveFloat | None = None
    windows: Positive | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> "Sampling":
        given = tuple(name for name in ("frames", "fps", "windows") if getattr(self, name) is not None)
        if given not in (("frames",), ("fps",), ("frames", "fps", "windows")):
            raise ValueError(f"sampling takes frames, or fps, or frames with fps and windows, got {list(given)}")
        return self

    @property
    def ragged(self) -> bool:
        """Whether the number of frames depends on the video's length."""
        return self.frames is None

    @property
    def count(self) -> int | None:
        """Frames a video; None where that depends on its length."""
        return None if self.frames is None else self.frames * (self.windows or 1)


class Preprocess(Strict):
    """Geometry on native RGB: resize, then centre crop to [height, width].

    `resize` is [height, width], or one number: the shorter side, the frame's shape kept; a crop must follow then.
    """

    resize: Positive | tuple[Positive, Positive]
    crop: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocess":
        if isinstance(self.resize, int) and self.crop is None:
            raise ValueError(f"resize {self.resize} is the shorter side, so the other depends on the video: add a crop")
        smallest = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop and (self.crop[0] > smallest[0] or self.crop[1] > smallest[1]):
            raise ValueError(f"crop {list(self.crop)} is larger than resize {list(smallest)}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the backbone sees."""
        if self.crop is not None:
            return self.crop
        assert not isinstance(self.resize, int)
        return self.resize

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The part of the frame that is seen, as (top, left, bottom, right) fractions of its height and width.

        None where it depends on the video's shape.
        """
        return None if isinstance(self.resize, int) else self.seen(*self.resize)

    @property
    def part(self) -> Part:
        """What `part_of` says of it."""
        return part_of(self.box, self.resize, self.size)

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """`box` of a native frame of height x width pixels.

        Where `resize` is the shorter side, the longer one is rounded down; so is where the centred crop starts.
        """
        resized = self.resize
        if isinstance(resized, int):
            resized = tuple(int(resized * side / min(height, width)) for side in (height, width))
        starts = [(full - seen) // 2 for full, seen in zip(resized, self.size, strict=True)]
        sides = [(a / full, (a + seen) / full) for a, full, seen in zip(starts, resized, self.size, strict=True)]
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


class BaseFeature(Strict):
    """What every feature declares, and what can be asked of it without knowing its kind."""

    backbone: str
    max_failed: Fraction = 0.01
    # Fields that decide no byte: no tolerance for failures, no decoder, since most of them give the same frames.
    UNKEYED: ClassVar[frozenset[str]] = frozenset({"max_failed", "decoder"})
    derived: ClassVar[bool] = False  # made from stores alone: no sample is opened
    NAMES: ClassVar[tuple[str, ...]] = ()  # the dotted fields that name other features

    @property
    def sources(self) -> dict[str, Weights]:
        """The weights that it needs, by role: those of its fields that are weights."""
        return {name: weights for name in self._weights() if (weights := getattr(self, name)) is not None}

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the features that it is made from."""
        return ()

    @property
    def compares(self) -> Vocabulary | None:
        """The texts that its samples are compared with."""
        return None

    @property
    def named(self) -> dict[str, str]:
        """Dotted field -> the feature that it names."""
        document = flat(self.model_dump(mode="json"))
        return {key: document[key] for key in self.NAMES if key in document}

    @property
    def made_of(self) -> list[Any]:
        """What determines the bytes, by what is declared: weights by their place, features by their names."""
        texts = None if self.compares is None else self.compares.dataset
        return [self.keyed, {role: of.model_dump() for role, of in self.sources.items()}, self.named, texts]

    @property
    def ragged(self) -> bool:
        """Whether the first axis of a sample depends on the video's length."""
        return False

    @property
    def resized_there(self) -> bool:
        """Whether the device resizes its frames, which come there as they were decoded."""
        return False

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        """What a sample's fields are in the store, by their names, as far as it can be known before extraction.

        Args:
            read: of each of `reads`, what it gives.

        Returns:
            None of a feature that does not say: then what reads it finds out after extraction.

        Raises:
            ValueError: what cannot be made: frames that make no whole steps, pixels that patches cannot tile.
        """
        return None

    @property
    def unkeyed(self) -> frozenset[str]:
        """Fields that decide no byte as they are set."""
        return self.UNKEYED

    @property
    def keyed(self) -> dict[str, Any]:
        """The fields that determine the bytes: none of `unkeyed`, no place, no name of another feature."""
        return self.model_dump(mode="json", exclude={*self._weights(), *self.unkeyed})

    @classmethod
    @cache
    def _weights(cls) -> list[str]:
        """Fields that are Weights, or may be: their digests determine the bytes, wherever they lie."""
        fields = cls.model_fields.items()
        return [name for name, field in fields if Weights in (field.annotation, *get_args(field.annotation))]


class PixelFeature(BaseFeature):
    """A feature that decodes: which moments, which geometry, by what, how many samples a batch.

    `decoder: decord` fails the samples that it is not proved on; it is for who wants to know. It gives the frames of
    `auto` and `pyav`, so these three are no part of the key. `torchcodec` fails such samples too; it decodes with the
    machine's own FFmpeg, `torchcodec_cuda` with the GPU, and these two are.
    """

    sampling: Sampling
    preprocess: Preprocess
    decoder: Literal["auto", "pyav", "decord", "torchcodec", "torchcodec_cuda"] = "auto"
    batch: Positive = 16
    KEYED_DECODERS: ClassVar[frozenset[str]] = frozenset({"torchcodec", "torchcodec_cuda"})

    @model_validator(mode="after")
    def _sampling_fits(self) -> "PixelFeature":
        if self.sampling.ragged != self.ragged:
            wanted = (
                "{fps: ...}: it has one row a frame" if self.ragged else "{frames: ...}: its samples have one shape"
            )
            raise ValueError(f"sampling must be {wanted}")
        return self

    @property
    def unkeyed(self) -> frozenset[str]:
        return self.UNKEYED - ({"decoder"} if self.decoder in self.KEYED_DECODERS else set())

    @property
    def geometry(self) -> Preprocess | None:
        """How pixels are resized and cropped; None where the checkpoint's own preprocessing decides, unseen yet."""
        return self.preprocess


class BackboneFeature(PixelFeature):
    """One network over a fixed number of frames. `storage` int8 halves the bytes of tokens: relative error 0.7 %."""

    weights: Weights
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    storage: Literal["float16", "int8"] = "float16"


class TowerFeature(BackboneFeature):
    """A network of this repository over frames.

    `compile`: torch compiles it, which is faster and gives other bits. `resize: device` uploads frames as decoded and
    resizes them there: floating point, rounded to grey levels, so pixels may be one level from those of a decode
    process. Both are part of the key, their defaults are not.
    """

    compile: bool = False
    resize: Literal["worker", "device"] = "worker"

    @property
    def resized_there(self) -> bool:
        return self.resize == "device"

    @property
    def unkeyed(self) -> frozenset[str]:
        plain = {name for name in ("compile", "resize") if getattr(self, name) == type(self).model_fields[name].default}
        return super().unkeyed | plain


class RowsFeature(PixelFeature):
    """A row a sampled frame, as many as the video is long: `sampling: {fps: ...}`."""

    @property
    def ragged(self) -> bool:
        return True


class TextFeature(BaseFeature):
    """One network over texts: its dataset is a list of them."""

    weights: Weights
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: Positive = 256
