"""Features of any vision model of two libraries, transformers and timm: what params say, and what a checkpoint's files
say of it before it is loaded. Imports neither library: a plan costs no import of torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .contents import Contents, Rows, Tokens, Vectors, architecture, json_of, size
from .features import PixelFeature, Preprocess, Weights

# What is kept of a model: a vector a picture (or clip), or its grid of tokens after the last layer or another one.
VECTORS = ("cls", "mean", "pooler", "projected")
Output = Annotated[str, Field(pattern=r"^(cls|mean|pooler|projected|tokens|hidden:-?[0-9]{1,4})$")]

# model_type of models whose grid is the pixels divided by `patch_size`: of these alone shapes are known from files.
# Of the others (Swin, ResNet, ...) they are known once the model's shapes are computed, as an extraction begins.
PLAIN = frozenset(
    {
        *("beit", "clip", "clip_vision_model", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers"),
        *("dinov3_vit", "ijepa", "metaclip_2", "siglip", "siglip_vision_model", "vit", "vit_mae", "vit_msn"),
        *("timesformer", "videomae", "vivit", "vjepa2"),
    }
)
# Those that read a clip, and the key of config.json that says how many frames a step is of; None: each is one.
VIDEO = {"timesformer": None, "videomae": "tubelet_size", "vivit": "tubelet_size", "vjepa2": "tubelet_size"}
# Processors that do what their files' size and crop_size say and nothing else, apart from the suffixes of older names.
STANDARD = frozenset(
    f"{name}{kind}Processor"
    for kind in ("Image", "Video")
    for name in (
        *("Beit", "Bit", "Blip", "CLIP", "DINOv3ViT", "DeiT", "Siglip"),
        *("Timesformer", "VJEPA2", "ViT", "VideoMAE", "Vivit"),
    )
)


class LibraryFeature(PixelFeature):
    """A model of a library, with its own preprocessing. `sampling: {fps: ...}` gives a row a frame.

    Attributes:
        output: what is kept, in one field of that name (`hidden` for hidden:N).
        preprocess: another geometry than the checkpoint's; its mean, deviation and interpolation stay.
        storage: float32 for values beyond float16's 65,504; int8 for tokens, at half the bytes.
    """

    # What a person can do about values that float16 cannot hold.
    TOO_LARGE: ClassVar = "set storage: float32 of the feature (with precision: fp16, also another precision)"
    output: Output
    preprocess: Preprocess | None = None  # type: ignore[assignment]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    storage: Literal["float16", "float32", "int8"] = "float16"

    @property
    def ragged(self) -> bool:
        return self.sampling.ragged

    @property
    def field(self) -> str:
        """The name of what is kept, in the store."""
        return self.output.partition(":")[0]

    @property
    def geometry(self) -> Preprocess | None:
        """How pixels are resized and cropped: what params say, else the checkpoint's file; None where neither does."""
        return self.preprocess or self._published()

    @model_validator(mode="after")
    def _output_fits(self) -> "LibraryFeature":
        vector = self.output in VECTORS
        if self.ragged and not vector:
            raise ValueError(
                f"output {self.output} is a grid of tokens, and sampling {{fps: ...}} keeps a vector a frame; take "
                f"output {', '.join(VECTORS)}, or sampling {{frames: ...}}"
            )
        if vector and self.storage == "int8":
            raise ValueError(f"output {self.output} is one vector, kept as float16 or float32; change storage")
        return self

    def _published(self) -> Preprocess | None:
        return None


class HfFeature(LibraryFeature):
    """Any vision model of transformers: a picture model, a video model, or the picture tower of a model of both.

    `architecture` is for random weights only: the fields of its config, `model_type` among them.
    """

    backbone: Literal["hf"]
    weights: Weights
    architecture: Annotated[dict[str, Any], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _architecture_fits(self) -> "HfFeature":
        _one_architecture(self.weights, self.architecture, "{model_type: dinov2, hidden_size: 384}")
        if self.architecture is not None and not isinstance(self.architecture.get("model_type"), str):
            raise ValueError("architecture has no model_type, such as dinov2; transformers' name of the model")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        config = self.architecture or architecture(self.weights)
        kind, vision = config.get("model_type"), config.get("vision_config", config)
        if kind not in PLAIN or not isinstance(vision, Mapping):
            return None
        if kind in VIDEO and self.ragged:
            raise ValueError(
                f"{kind} reads clips of several frames, and sampling {{fps: ...}} is of single frames; name a picture "
                "model, or set sampling: {frames: ..., fps: ..., windows: ...}"
            )
        wanted = size(vision, "num_frames") if kind in ("videomae", "vivit") else None
        if wanted and self.sampling.frames != wanted:
            raise ValueError(
                f"sampling.frames is {self.sampling.frames}, and this {kind} reads clips of {wanted}; set frames: "
                f"{wanted}"
            )
        width = size(config, "projection_dim") if self.output == "projected" else size(vision, "hidden_size")
        if self.output == "pooler" and "pooler_output_size" in vision:
            width = size(vision, "pooler_output_size")
        if self.output in VECTORS:
            return {self.field: _vectors(self, width, self.sampling.windows if kind in VIDEO else None, kind in VIDEO)}
        steps = self._steps(vision, kind)
        return {self.field: Tokens(steps, self._grid(vision), width, self.geometry and self.geometry.part)}

    def _steps(self, vision: Mapping[str, Any], kind: str) -> int | None:
        key, frames = VIDEO.get(kind), self.sampling.frames
        span = 1
        if key is not None:
            said = vision.get(key)
            span = size({"span": said[0] if isinstance(said, list) and said else said}, "span")
        if span is None:
            return None
        if frames % span:
            raise ValueError(
                f"sampling.frames is {frames}, and this {kind} makes a step of {span} frames; make it a multiple of "
                f"{span}"
            )
        return self.sampling.count // span

    def _grid(self, vision: Mapping[str, Any]) -> tuple[int, int] | None:
        patch, seen = size(vision, "patch_size"), self.geometry
        return None if patch is None or seen is None else (seen.size[0] // patch, seen.size[1] // patch)

    def _published(self) -> Preprocess | None:
        if self.weights.path is None:
            return None
        files = ("video_preprocessor_config.json", "preprocessor_config.json")
        return geometry_of(next(filter(None, (json_of(Path(self.weights.path, name)) for name in files)), {}))


class TimmFeature(LibraryFeature):
    """Any model of timm, with its own `data_config`.

    `architecture` is for random weights only: timm's name of the model, such as vit_small_patch14_dinov2.
    """

    backbone: Literal["timm"]
    weights: Weights
    architecture: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _architecture_fits(self) -> "TimmFeature":
        _one_architecture(self.weights, self.architecture, "vit_small_patch14_dinov2")
        return self

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        width = None if self.output == "pooler" else size(architecture(self.weights), "num_features")
        if self.output in VECTORS:
            return {self.field: _vectors(self, width, None, False)}
        width = width if self.output == "tokens" else None
        return {self.field: Tokens(self.sampling.count, None, width, self.geometry and self.geometry.part)}


def geometry_of(published: Mapping[str, Any]) -> Preprocess | None:
    """What the file of a processor of transformers says of the geometry; None where that is not all it does.

    >>> geometry_of({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_resize": True,
    ...              "crop_size": {"height": 224, "width": 224}, "do_center_crop": True})
    Preprocess(resize=256, crop=(224, 224))
    """
    names = (published.get(f"{what}_processor_type") or "" for what in ("video", "image"))
    kind = next(filter(None, names), published.get("feature_extractor_type") or "")
    kind = re.sub(r"(Fast|Pil)$", "", str(kind)).replace("FeatureExtractor", "ImageProcessor")
    resize, crop = (_sides(published.get(name)) for name in ("size", "crop_size"))
    if isinstance(published.get("crop_size"), int):
        crop = (published["crop_size"], published["crop_size"])
    crop = crop if published.get("do_center_crop") else None
    if kind not in STANDARD or resize is None or not published.get("do_resize", True) or isinstance(crop, int):
        return None
    try:
        return Preprocess(resize=resize, crop=crop)
    except ValueError:
        return None  # a shorter side without a crop: pixels as the video's shape has them


def _sides(said: Any) -> int | tuple[int, int] | None:
    """(height, width), or the shorter side; None of another form, such as a number, which is either."""
    if isinstance(said, Mapping):
        if size(said, "shortest_edge"):
            return size(said, "shortest_edge")
        if (height := size(said, "height")) and (width := size(said, "width")):
            return height, width
    return None


def _vectors(feature: LibraryFeature, width: int | None, windows: int | None, clips: bool) -> Vectors | Rows:
    if feature.ragged:
        return Rows(width, feature.sampling.fps)
    count = (windows or 1) if clips else feature.sampling.count
    space = feature.weights if feature.output == "projected" else None
    return Vectors(width, count if count > 1 else None, space)


def _one_architecture(weights: Any, architecture: Any, example: str) -> None:
    if weights.random is not None and architecture is None:
        raise ValueError(f"weights are random, so architecture must say of what, such as {example}")
    if weights.random is None and architecture is not None:
        raise ValueError(
            "architecture is for random weights; a checkpoint's own config.json says it: drop architecture"
        )
