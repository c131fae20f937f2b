"""Any vision model of transformers: picture models, video models, and the picture tower of models of both. Knows no
store and no video.

Shape suffixes: B samples, T frames, C colours (3), H W pixels, M pictures or clips, D width.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from pipeline.backbones.base import BackboneError
from pipeline.backbones.checkpoints import SAVE_AGAIN, Checkpoint, first_few, read_json
from pipeline.backbones.library import LibraryModel, Network, Sized, Source, States, as_it_was, error_line
from pipeline.config import HfFeature, Preprocess

# What a tower reads: its forward's first argument.
PIXELS = ("pixel_values", "pixel_values_videos")
# Fields of a config that only models of clips have.
OF_CLIPS = ("num_frames", "frames_per_clip", "tubelet_size")
# Parameters of the embeddings that are tokens before the patches, and those of them that begin with CLS.
CLS = ("cls_token", "class_embedding")
TOKENS = (*CLS, "distillation_token", "register_tokens")
# Tokens before the patches that are no parameter: this one's is the mean of the others.
MEAN_TOKEN = ("dinov3_convnext",)
# Models whose tokens have the steps of one patch after another.
TIME_LAST = ("timesformer",)
# Models that take another's preprocessor.
PROCESSOR_OF = {"dinov2_with_registers": "dinov2", "dinov3_convnext": "dinov3_vit"}


class Hf(LibraryModel):
    """A frozen vision model of transformers, from a folder, a hub, or random weights of a declared architecture."""

    def open(self, feature: HfFeature) -> str:
        self.source = HfSource.of(feature)
        self.config, self.random = self.source.config(), feature.weights.random is not None
        self.clips = _of_clips(self.config)
        self.cls = _class_of(self.config, self.source.name)
        try:
            with torch.device("meta"), as_it_was():
                self.outline = self.cls._from_config(self.config)
        except Exception as error:  # of many kinds, each about sizes that do not go together
            raise BackboneError(
                f"{self.source.name}: transformers cannot make a {self.cls.__name__} of its config "
                f"({error_line(error)}); correct it"
            ) from error
        _tower(self.outline, self.source.name)
        return self.source.name

    @staticmethod
    def preprocessor(feature: HfFeature) -> Sized:
        source = HfSource.of(feature)
        return Sized(source.pixels(feature.preprocess), source.name)

    def network(self, device: torch.device | None) -> Network:
        if device is None:
            model = self.outline
        else:
            model = self.cls._from_config(self.config) if self.random else self._loaded()
        tower, kind = _tower(model, self.name), self.config.model_type
        project = _projection(model) if device is None or self.output == "projected" else None
        module = model if self.output == "projected" else tower
        if device is not None:
            if project is not None and hasattr(model, "text_model"):
                model.text_model = None  # of no use to pictures
            module.to(device)
        vision, tokens = _vision(self.config), _tokens_before(tower)
        span, patch = _span_and_patch(vision)
        return Network(
            Forward(tower, project, self._options(tower, kind, vision, device is None), device is not None),
            module,
            prefix=sum(tokens.values()) + (kind in MEAN_TOKEN),
            has_cls=any(name in CLS for name in tokens) or kind in MEAN_TOKEN,
            patch=patch,
            span=span,
            time_last=kind in TIME_LAST,
        )

    def _options(self, tower: nn.Module, kind: str, vision: PreTrainedConfig, everything: bool) -> dict[str, Any]:
        """What the forward takes beside pixels."""
        options: dict[str, Any] = {"output_hidden_states": True} if everything or self.field == "hidden" else {}
        made_for = _pair(getattr(vision, "image_size", None))
        if kind == "vjepa2":
            options["skip_predictor"] = True
            side = vision.crop_size
            if self.size != (side, side):
                # Its rotary positions come from the token's number and this side: at another they would be wrong.
                raise BackboneError(
                    f"{self.name} sees {side} x {side} pixels, got {list(self.size)}: set preprocess: {{resize: "
                    f"{side * 256 // 224}, crop: [{side}, {side}]}}, or name a checkpoint trained at that size"
                )
        if kind == "vit_mae":  # none of its patches may be masked, nor their order be drawn
            tower.config.mask_ratio = 0.0
            count = (self.size[0] // vision.patch_size) * (self.size[1] // vision.patch_size)
            options["noise"] = torch.arange(count, dtype=torch.float32)
        if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters and made_for != self.size:
            options["interpolate_pos_encoding"] = True
        return options

    def _loaded(self) -> PreTrainedModel:
        """The checkpoint's model. A head in the files that the model has no place for is not its business.

        Raises:
            BackboneError: weights that are absent, unreadable, or do not fit config.json; a pooler that they lack.
        """
        model, report = Checkpoint(self.source.folder, self.config.model_type, self.cls).loaded()
        parts = {name for name, _ in model.named_children()}
        missing = report.get("missing_keys", [])
        poolers = [key for key in missing if "pooler" in key.split(".")]
        if poolers and self.output == "pooler":
            raise BackboneError(
                f"{self.name} has no output pooler: its files have no {poolers[0]}, which transformers would draw at "
                "random; take cls or mean"
            )
        wrong = report | {
            "missing_keys": [key for key in missing if key not in poolers],
            "unexpected_keys": [key for key in report.get("unexpected_keys", []) if key.split(".")[0] in parts],
        }
        if told := first_few({what: keys for what, keys in wrong.items() if keys}):
            raise BackboneError(f"{self.name} does not fit its own config.json ({told}); {SAVE_AGAIN}")
        return model


@dataclass(frozen=True)
class Forward:
    """Pixels (M, C, H, W) or (M, T, C, H, W) -> States.

    Attributes:
        project: pixels and options to the projected vector; it runs the tower itself.
        options: what the tower takes beside pixels.
        alone: whether `project`, where there is one, is all that is asked for.
    """

    tower: nn.Module
    project: Callable[..., Tensor] | None
    options: Mapping[str, Any]
    alone: bool

    def __call__(self, pixels: Tensor) -> States:
        options = {
            name: of.to(pixels.device).expand(len(pixels), -1) if isinstance(of, Tensor) else of
            for name, of in self.options.items()
        }
        positions = {name: of for name, of in options.items() if name == "interpolate_pos_encoding"}
        projected = None if self.project is None else self.project(pixels, **positions)
        if projected is not None and self.alone:
            return States(projected, projected=projected)
        found = self.tower(**{self.tower.main_input_name: pixels}, **options)
        return States(found.last_hidden_state, found.get("hidden_states") or (), found.get("pooler_output"), projected)


# --- what a model is --------------------------------------------------------------------------------------------------


def _vision(config: PreTrainedConfig) -> PreTrainedConfig:
    return getattr(config, "vision_config", config)


def _of_clips(config: PreTrainedConfig) -> bool:
    return any(hasattr(_vision(config), name) for name in OF_CLIPS)


def _class_of(config: PreTrainedConfig, name: str) -> type[PreTrainedModel]:
    """The class that reads a checkpoint: that with the projection where it was saved by one, else the plain model."""
    saved = (config.architectures or [""])[0]
    if saved.endswith("WithProjection") and hasattr(transformers, saved):
        return getattr(transformers, saved)
    try:
        return MODEL_MAPPING[type(config)]
    except KeyError:
        raise BackboneError(
            f"{name} is of model_type {config.model_type!r}, which has no AutoModel in transformers; name a checkpoint "
            "of a vision model"
        ) from None


def _tower(model: PreTrainedModel, name: str) -> nn.Module:
    """The part of a model that reads pixels alone. Raises BackboneError: it has none."""
    tower = getattr(model, "vision_model", model)
    first = getattr(tower, "main_input_name", None)
    if first not in PIXELS or first not in inspect.signature(tower.forward).parameters:
        raise BackboneError(
            f"{name} has no vision tower: {type(model).__name__} reads {getattr(model, 'main_input_name', 'no pixels')}"
            "; name a checkpoint of a picture or video model, or of a model of pictures and texts such as CLIP"
        )
    needs = inspect.signature(tower.forward).parameters.values()
    asked = [of.name for of in needs if of.default is of.empty and of.kind is of.POSITIONAL_OR_KEYWORD]
    if more := [of for of in asked if of != first]:
        raise BackboneError(
            f"{name}: {type(tower).__name__} also reads {', '.join(more)}, so its output does not follow from pixels "
            "of one size; name a checkpoint that reads pixels alone (of SigLIP 2 one without NaFlex)"
        )
    return tower


def _projection(model: PreTrainedModel) -> Callable[..., Tensor] | None:
    """Pixels to the space that a model's texts share; None of a model that has none."""
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return lambda pixels, **options: model.get_image_features(pixels, **options).pooler_output
    if hasattr(model, "visual_projection"):
        return lambda pixels, **options: model(pixels, **options).image_embeds
    return None


def _tokens_before(tower: nn.Module) -> dict[str, int]:
    """Name of each parameter of the embeddings that is tokens before the patches -> how many."""
    found = {}
    for name, of in tower.named_parameters():
        *within, last = name.split(".")
        if last in TOKENS and any("embed" in part for part in within):
            found[last] = of.shape[-2] if of.ndim > 1 else 1
    return found


def _span_and_patch(vision: PreTrainedConfig) -> tuple[int, tuple[int, int] | None]:
    """Frames of a step, and a patch's height and width."""
    tubelet = getattr(vision, "tubelet_size", 1)
    if isinstance(tubelet, int):
        return tubelet, _pair(getattr(vision, "patch_size", None))
    return tubelet[0], tuple(tubelet[1:])


def _pair(said: Any) -> tuple[int, int] | None:
    return (said, said) if isinstance(said, int) else tuple(said) if isinstance(said, list | tuple) else None


# --- where it comes from, and its pixels ------------------------------------------------------------------------------


@dataclass(frozen=True)
class HfSource(Source):
    """A model of transformers, from a folder or declared, and its own processor."""

    key = "model_type"

    def config(self) -> PreTrainedConfig:
        """Raises BackboneError: a model that transformers does not have, or one that needs code of its own."""
        kind = self.said.get("model_type")
        if kind not in CONFIG_MAPPING_NAMES:
            if "auto_map" in self.said:
                raise BackboneError(
                    f"{self.name} needs code that comes with it (auto_map in its config.json), which is never run; "
                    "name a checkpoint of a model that transformers has, or write a backbone: docs/adding-a-backbone.md"
                )
            if "architecture" in self.said:
                raise BackboneError(f"{self.name} is a checkpoint of timm, not of transformers; set backbone: timm")
            raise BackboneError(
                f"{self.name} is of model_type {kind!r}, which transformers {transformers.__version__} does not have; "
                "correct its config.json, or install a later transformers"
            )
        try:
            if self.folder is None:
                return AutoConfig.for_model(**self.said)
            return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of many kinds, each about what the config says
            raise BackboneError(f"{self.name}: transformers refuses its config ({error}); correct it") from error

    def pixels(self, asked: Preprocess | None) -> "HfPixels":
        """The model's own processor, with another geometry where it is asked for. Raises BackboneError: it has none."""
        config = self.config()
        clips = _of_clips(config)
        return HfPixels(self._default(config, clips) if self.folder is None else self._saved(clips), clips, asked)

    def _saved(self, clips: bool) -> Any:
        said = self._said_of_pixels()
        video = clips and ("video_processor_type" in said or "video_processor" in said)
        auto = AutoVideoProcessor if video else AutoImageProcessor
        try:
            return auto.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise BackboneError(f"{self.name}: its preprocessor cannot be made ({error}); {SAVE_AGAIN}") from error

    def _said_of_pixels(self) -> Mapping[str, Any]:
        """What the checkpoint's files say of its preprocessors, together."""
        names = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
        files = [self.folder / name for name in names if (self.folder / name).is_file()]
        if not files:
            raise BackboneError(
                f"{self.folder} has no preprocessor_config.json, so how its pixels are made is unknown; download or "
                "save the whole checkpoint, not only its weights"
            )
        return {key: value for file in files for key, value in read_json(file).items()}

    def _default(self, config: PreTrainedConfig, clips: bool) -> Any:
        kind = config.model_type
        kind = PROCESSOR_OF.get(kind, kind.removesuffix("_vision_model"))
        names = (VIDEO_PROCESSOR_MAPPING_NAMES if clips else IMAGE_PROCESSOR_MAPPING_NAMES).get(kind) or {}
        if not names.get("torchvision"):
            raise BackboneError(
                f"transformers has no preprocessor for {kind}, so how its pixels are made is unknown; name a folder "
                "that has a preprocessor_config.json"
            )
        return getattr(transformers, names["torchvision"])()


@dataclass(frozen=True)
class HfPixels:
    """A processor of transformers, run as it is: pictures one by one, a clip's frames together.

    Attributes:
        asked: another geometry than the processor's own; its mean, deviation and interpolation stay.
    """

    processor: Any
    clips: bool
    asked: Preprocess | None = None

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) float32, normalised."""
        return self._run(frames_THWC)

    def shown(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8: resized and cropped alone."""
        # ViViT's offset moves rescaled values; of others it is no option.
        offset = {"offset": False} if hasattr(self.processor, "offset") else {}
        return self._run(frames_THWC, do_rescale=False, do_normalize=False, **offset).astype(np.uint8)

    def _run(self, frames_THWC: np.ndarray, **options: bool) -> np.ndarray:
        options = {"return_tensors": "pt", "input_data_format": "channels_last", **self._geometry(), **options}
        if hasattr(self.processor, "video_processor_type") or "VideoProcessor" in type(self.processor).__name__:
            found = self.processor(videos=[frames_THWC], do_sample_frames=False, **options)
        else:
            found = self.processor(list(frames_THWC), **options)
        pixels = next(found[name] for name in PIXELS if name in found)
        return np.ascontiguousarray(pixels.flatten(0, -4).numpy())

    def _geometry(self) -> dict[str, Any]:
        if self.asked is None:
            return {}
        resize, crop = self.asked.resize, self.asked.crop
        sides = {"shortest_edge": resize} if isinstance(resize, int) else dict(zip(_SIDES, resize, strict=True))
        cropped = {} if crop is None else {"crop_size": dict(zip(_SIDES, crop, strict=True))}
        return {"do_resize": True, "size": sides, "do_center_crop": crop is not None, **cropped}


_SIDES = ("height", "width")
