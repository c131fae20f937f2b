"""What stage 1 may be asked for: features, and how each reads its samples. Knows no backbone's code.

A feature is told apart by its `backbone`; its fields, apart from where things lie on this machine, determine the bytes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from .base import Extension, Fraction, Name, Place, Positive, PositiveFloat, Seed, Strict, Vocabulary, flat
from .contents import (
    Cams,
    Contents,
    Flow,
    Hidden,
    Maps,
    Part,
    Rows,
    Texts,
    Tokens,
    Vectors,
    architecture,
    part_of,
    size,
)

# What a file, and a member of a tar, is read of.
READABLE = {"files": (".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth"), "webdataset": (".npy", ".npz", ".pt", ".pth")}
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
    # Fields that decide no byte: no tolerance for failures, no decoder, since all of them give the same frames.
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
    def keyed(self) -> dict[str, Any]:
        """The fields that determine the bytes: none of `UNKEYED`, no place, no name of another feature."""
        return self.model_dump(mode="json", exclude={*self._weights(), *self.UNKEYED})

    @classmethod
    def _weights(cls) -> list[str]:
        """Fields that are Weights, or may be: their digests determine the bytes, wherever they lie."""
        fields = cls.model_fields.items()
        return [name for name, field in fields if Weights in (field.annotation, *get_args(field.annotation))]


class PixelFeature(BaseFeature):
    """A feature that decodes: which moments, which geometry, by what, how many samples a batch.

    `decoder: decord` fails the samples that it is not proved on; it is for who wants to know. All give the same frames,
    so it is no part of the key.
    """

    sampling: Sampling
    preprocess: Preprocess
    decoder: Literal["auto", "pyav", "decord"] = "auto"
    batch: Positive = 16

    @model_validator(mode="after")
    def _sampling_fits(self) -> "PixelFeature":
        if self.sampling.ragged != self.ragged:
            wanted = (
                "{fps: ...}: it has one row a frame" if self.ragged else "{frames: ...}: its samples have one shape"
            )
            raise ValueError(f"sampling must be {wanted}")
        return self

    @property
    def geometry(self) -> Preprocess | None:
        """How pixels are resized and cropped; None where the checkpoint's own preprocessing decides, unseen yet."""
        return self.preprocess


class BackboneFeature(PixelFeature):
    """One network over a fixed number of frames. `storage` int8 halves the bytes of tokens: relative error 0.7 %."""

    weights: Weights
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    storage: Literal["float16", "int8"] = "float16"


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


class DinoV3Feature(BackboneFeature):
    """DINOv3 patch tokens, a CLS token beside them. `pool` averages pool x pool patches into one token."""

    backbone: Literal["dinov3"]
    pool: Literal[1, 2] = 1

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        config = architecture(self.weights)
        steps, width, patch = self.sampling.count, size(config, "hidden_size"), size(config, "patch_size")
        grid = patch and self._grid(patch * self.pool)
        return {"patch_tokens": Tokens(steps, grid, width, self.preprocess.part), "cls": Vectors(width, steps)}

    def _grid(self, step: int) -> tuple[int, int]:
        height, width = self.preprocess.size
        if height % step or width % step:
            raise ValueError(
                f"preprocess gives {height} x {width} pixels, no whole number of tokens of {step} pixels (a patch "
                f"times pool {self.pool}); make both sides of crop (or resize) multiples of {step}"
            )
        return height // step, width // step


class R3D18Feature(BackboneFeature):
    """R3D-18: the token grid of layer 4 or 3, or (`pooled`) one vector a window, as torchvision's classifier sees it.

    `atrous` trades layer 4's temporal stride for dilation, weights unchanged.
    """

    backbone: Literal["r3d18"]
    layer: Literal[3, 4] = 4
    atrous: bool = True
    pooled: bool = False

    @model_validator(mode="after")
    def _options_fit(self) -> "R3D18Feature":
        if self.atrous and (self.layer != 4 or self.pooled):
            raise ValueError("atrous is for the token grid of layer 4; set atrous: false with layer 3 or pooled")
        if self.pooled and (self.layer != 4 or self.storage != "float16"):
            raise ValueError("pooled is one vector of layer 4, kept as float16; drop layer and storage")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        windows = self.sampling.windows
        if self.pooled:
            return {"clip_embed": Vectors(steps=windows)}
        # Frames of a step and pixels of a cell: every layer after the first halves each, unless it is dilated in time.
        span, reach = (4, 8) if self.layer == 3 else (4 if self.atrous else 8, 16)
        steps = _steps(self.sampling, span)
        rows, columns = (-(-side // reach) for side in self.preprocess.size)
        return {"clip_tokens": Tokens(steps, (rows, columns), part=self.preprocess.part)}


class VJepa2Feature(BackboneFeature):
    """V-JEPA 2's token grid, from any checkpoint in transformers' format."""

    backbone: Literal["vjepa2"]

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        config = architecture(self.weights)
        span, side, patch = (size(config, name) for name in ("tubelet_size", "crop_size", "patch_size"))
        _expect_side(self.preprocess, side)
        cells = side and patch and (side // patch, side // patch)
        steps = span and _steps(self.sampling, span)
        return {"clip_tokens": Tokens(steps, cells, size(config, "hidden_size"), self.preprocess.part)}


class ClipFeature(BackboneFeature):
    """CLIP's picture tower: the projected embedding, or the input of a block for class-activation maps.

    `block` is that one, counted from the end: -1 is the last.
    """

    backbone: Literal["clip"]
    output: Literal["image_embed", "cam_tokens"]
    block: Annotated[int, Field(le=-1)] = -1

    @model_validator(mode="after")
    def _storage_fits(self) -> "ClipFeature":
        if self.output == "image_embed" and self.storage != "float16":
            raise ValueError("image_embed is one vector, kept as float16; drop storage")
        if self.output == "image_embed" and self.block != -1:
            raise ValueError("image_embed comes out of the last block; drop block")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        config = architecture(self.weights)
        side, patch = (size(config, "vision_config", name) for name in ("image_size", "patch_size"))
        _expect_side(self.preprocess, side)
        count = self.sampling.count
        if self.output == "image_embed":
            return {"image_embed": Vectors(size(config, "projection_dim"), count if count > 1 else None, self.weights)}
        cells, width = side and patch and (side // patch, side // patch), size(config, "vision_config", "hidden_size")
        return {"cam_tokens": Hidden(count, cells, width, self.weights, self.preprocess.part)}


class ClipTextFeature(TextFeature):
    """CLIP's text tower over texts x prompts, one unit vector a text.

    `normalise_first` decides whether the prompts' embeddings become unit vectors before their mean or only after it.
    """

    backbone: Literal["clip_text"]
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    normalise_first: bool = False

    @model_validator(mode="after")
    def _prompts_have_a_place(self) -> "ClipTextFeature":
        if wrong := [prompt for prompt in self.prompts if prompt.count("{}") != 1]:
            raise ValueError(f"each prompt needs one {{}} where the text goes, {wrong[0]!r} does not")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        return {"text_embed": Texts(size(architecture(self.weights), "projection_dim"), self.weights)}


class FlowFeature(RowsFeature):
    """Optical flow from each sampled frame to the next, in pixels of the resized frame, clipped to +-`bound`.

    Kept as uint8: 128 is exactly zero, 127 steps to either side.
    """

    backbone: Literal["flow"]
    method: Literal["tvl1", "dis", "farneback", "raft"]
    bound: PositiveFloat = 20.0
    weights: Weights | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> "FlowFeature":
        if (self.method == "raft") != (self.weights is not None):
            raise ValueError(f"method {self.method} {'needs' if self.method == 'raft' else 'takes no'} weights")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        return {"flow": Flow()}


class I3DFlow(Strict):
    """I3D's flow stream: which flow feature it reads, with which weights."""

    feature: Name
    weights: Weights


class I3DFeature(RowsFeature):
    """I3D frame features: a row a sampled frame, from the `window` frames around it, rgb and flow side by side.

    `pooling` of what the last module gives: its mean, or the `published` average pool of 2 x 7 x 7 and then the mean,
    which for a window of 16 and a crop of 224 is the same, and for others gives what is at the edges less weight.
    """

    NAMES: ClassVar = ("flow.feature",)
    backbone: Literal["i3d"]
    rgb: Weights | None = None
    flow: I3DFlow | None = None
    window: Annotated[int, Field(ge=8)] = 16
    pooling: Literal["mean", "published"] = "mean"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _a_stream(self) -> "I3DFeature":
        if self.rgb is None and self.flow is None:
            raise ValueError("i3d needs rgb, flow or both")
        return self

    @model_validator(mode="after")
    def _pooling_fits(self) -> "I3DFeature":
        if self.pooling == "published" and (self.window < 9 or min(self.preprocess.size) < 193):
            raise ValueError(
                f"pooling: published is over 2 x 7 x 7, which a window of {self.window} and a crop of "
                f"{list(self.preprocess.size)} do not give; take a window of 9 frames and 193 pixels at least "
                "(published: 16 and 224), or pooling: mean"
            )
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        return {"frames": Rows(fps=self.sampling.fps)}

    @property
    def sources(self) -> dict[str, Weights]:
        streams = {"rgb": self.rgb, "flow": self.flow.weights if self.flow else None}
        return {role: weights for role, weights in streams.items() if weights is not None}

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.flow.feature,) if self.flow else ()

    @property
    def keyed(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"rgb", "flow", *self.UNKEYED})


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
        return self.model_dump(mode="json", exclude={"root", *self.UNKEYED})


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


class FeatureOfFeature(BaseFeature):
    """A feature that is made from the store of another one, its `source`."""

    derived: ClassVar = True
    NAMES: ClassVar = ("source",)
    source: Name
    batch: Positive = 64

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def keyed(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"source", "texts", *self.UNKEYED})


class DerivedFeature(FeatureOfFeature):
    """Another feature's token grid, pooled by `pool` x `pool` tokens, kept as float16 or int8: no backbone runs."""

    backbone: Literal["derived"]
    pool: Literal[1, 2] = 1
    storage: Literal["float16", "int8"] = "float16"

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        if (found := read[self.source]) is None or self.pool == 1:
            return found
        if not any(isinstance(content, Tokens) for content in found.values()):
            raise ValueError(f"source names {self.source!r}, which has no token grid that could be pooled; set pool: 1")
        return {name: self._pooled(of) if isinstance(of, Tokens) else of for name, of in found.items()}

    def _pooled(self, tokens: Tokens) -> Tokens:
        if tokens.grid is None:
            return tokens
        rows, columns = tokens.grid
        if rows % self.pool or columns % self.pool:
            raise ValueError(
                f"pool is {self.pool}, which does not divide the {rows} x {columns} tokens of {self.source}"
            )
        return replace(tokens, grid=(rows // self.pool, columns // self.pool))


class ClipCamFeature(FeatureOfFeature):
    """What CLIP's last block makes of its input, in closed form: the class-activation map of the best of `texts`, and
    each patch's projected embedding.

    `target` is what the map explains, the best text's logit or its probability; `post_norm` puts the patches through
    the last LayerNorm before they are projected. `cam_blocks` other than the last one (-1) need a source with the
    input of the first of them, and are differentiated automatically; of several the maps are scaled to [0, 1] and
    averaged.
    """

    NAMES: ClassVar = ("source", "texts.feature")
    backbone: Literal["clip_cam"]
    texts: Vocabulary
    site: Literal["layer_norm1", "block_input"] = "layer_norm1"
    target: Literal["logit", "softmax"] = "logit"
    cam_blocks: Annotated[tuple[Annotated[int, Field(le=-1)], ...], Field(min_length=1)] = (-1,)
    post_norm: bool = False

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        (hidden,) = (of for of in (read[self.source] or {}).values() if isinstance(of, Hidden))
        width = size(architecture(hidden.space), "projection_dim")
        return {"map": Cams(hidden.grid, width, hidden.space, hidden.part)}

    @property
    def compares(self) -> Vocabulary:
        return self.texts


class MapsFeature(FeatureOfFeature):
    """What a sample's `map` (a clinician's attention, a mask of the object) says, on the frames and the crop that the
    tokens of `source` saw, with `scale` x `scale` cells a token.

    `channels` of the files; pictures and videos of colours have 3, and their mean is 1.
    """

    backbone: Literal["maps"]
    scale: Positive = 2
    channels: Positive = 1

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        if (found := read[self.source]) is None:
            return None
        laid = next((of for of in found.values() if isinstance(of, Tokens | Cams | Hidden)), None)
        if laid is None:
            raise ValueError(f"source names {self.source!r}, which has no token grid")
        grid = laid.grid and (laid.grid[0] * self.scale, laid.grid[1] * self.scale)
        steps = 1 if isinstance(laid, Cams) else laid.steps
        return {"maps": Maps(self.source, steps, grid, self.channels, laid.part)}


def _steps(sampling: Sampling, span: int) -> int:
    """Steps of `span` frames each, over all windows."""
    if sampling.frames % span:
        raise ValueError(
            f"sampling.frames is {sampling.frames}, and a step is of {span} frames; make it a multiple of {span}"
        )
    return sampling.count // span


def _expect_side(preprocess: Preprocess, side: int | None) -> None:
    """Refuses pixels of another size than that of a checkpoint whose positions are of one size."""
    if side and preprocess.size != (side, side):
        raise ValueError(
            f"preprocess gives {preprocess.size[0]} x {preprocess.size[1]} pixels, and the checkpoint sees {side} x "
            f"{side}; make crop (or resize) [{side}, {side}], or name a checkpoint trained at that size"
        )


# Features whose model is one of the above; `backbones` adds those of other packages.
OwnFeature = Annotated[
    DinoV3Feature
    | R3D18Feature
    | VJepa2Feature
    | ClipFeature
    | ClipTextFeature
    | FlowFeature
    | I3DFeature
    | NpyFeature
    | ImportedFeature
    | DerivedFeature
    | ClipCamFeature
    | MapsFeature,
    Field(discriminator="backbone"),
]
