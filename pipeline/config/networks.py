"""Features of the networks of this repository, and of optical flow: what params may ask of each."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Name, PositiveFloat, Strict
from .contents import Contents, Flow, Hidden, Rows, Texts, Tokens, Vectors, architecture, size
from .features import Preprocess, RowsFeature, Sampling, TextFeature, TowerFeature, Weights


class DinoV3Feature(TowerFeature):
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


class R3D18Feature(TowerFeature):
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


class VJepa2Feature(TowerFeature):
    """V-JEPA 2's token grid, from any checkpoint in transformers' format."""

    backbone: Literal["vjepa2"]

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        config = architecture(self.weights)
        span, side, patch = (size(config, name) for name in ("tubelet_size", "crop_size", "patch_size"))
        _expect_side(self.preprocess, side)
        cells = side and patch and (side // patch, side // patch)
        steps = span and _steps(self.sampling, span)
        return {"clip_tokens": Tokens(steps, cells, size(config, "hidden_size"), self.preprocess.part)}


class ClipFeature(TowerFeature):
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
        return self.model_dump(mode="json", exclude={"rgb", "flow", *self.unkeyed})


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
