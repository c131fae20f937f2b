"""Any model of timm, with the preprocessing of its own `data_config`. Knows no store and no video.

Shape suffixes: T frames, C colours (3), H W pixels, M pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import str_to_interp_mode
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize

from pipeline.backbones.base import BackboneError
from pipeline.backbones.checkpoints import SAVE_AGAIN, pickled
from pipeline.backbones.library import LibraryModel, Network, Sized, Source, States
from pipeline.config import Preprocess, TimmFeature


class Timm(LibraryModel):
    """A frozen model of timm, from a folder or hub in timm's format, or random weights of a named architecture."""

    libraries = ("timm",)  # whose version stands in the store's provenance

    def open(self, feature: TimmFeature) -> str:
        self.source = TimmSource.of(feature)
        return self.source.name

    @staticmethod
    def preprocessor(feature: TimmFeature) -> Sized:
        source = TimmSource.of(feature)
        return Sized(TimmPixels(source.transform(feature.preprocess)), source.name)

    def network(self, device: torch.device | None) -> Network:
        model = self.source.model(self.size, weights=device is not None)
        if device is not None:
            model.to(device)
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        return Network(
            TimmForward(model, device is None or self.output.startswith("hidden")),
            model,
            prefix=getattr(model, "num_prefix_tokens", 0),
            has_cls=getattr(model, "cls_token", None) is not None,
            patch=None if patch is None else tuple(patch),
        )


@dataclass(frozen=True)
class TimmForward:
    """Pixels (M, C, H, W) -> States. `hidden` are timm's intermediate features of each block or stage, as maps; what
    enters the first is not among them."""

    model: nn.Module
    with_hidden: bool

    def __call__(self, pixels_MCHW: Tensor) -> States:
        hidden: tuple[Tensor | None, ...] = ()
        last = self.model.forward_features(pixels_MCHW)
        if self.with_hidden and hasattr(self.model, "forward_intermediates"):
            hidden = (None, *self.model.forward_intermediates(pixels_MCHW, intermediates_only=True))
        return States(last, hidden, self.model.forward_head(last, pre_logits=True))


@dataclass(frozen=True)
class TimmSource(Source):
    """A model of timm, from a folder or named, and its own transform.

    Raises:
        BackboneError: an architecture that timm does not have, a folder of another library, pictures of other channels
            than three.
    """

    key = "architecture"

    def __post_init__(self) -> None:
        kind = self.said.get(self.key)
        if not isinstance(kind, str):
            hint = "it is transformers': backbone: hf reads it" if "model_type" in self.said else SAVE_AGAIN
            raise BackboneError(f"{self.folder / 'config.json'} names no architecture of timm; {hint}")
        if not timm.is_model(kind):
            raise BackboneError(
                f"architecture {kind}: timm {timm.__version__} has none of that name; "
                "see timm.list_models(), or install a later timm"
            )
        if (size := self.of_pixels.get("input_size")) and size[0] != 3:
            raise BackboneError(
                f"{self.name} has input_size {list(size)}: it reads pictures of {size[0]} channels, and pixels here "
                "are of three colours; name a checkpoint that was trained on colours"
            )

    @property
    def of_pixels(self) -> Mapping[str, Any]:
        """What is said of the pixels that it was trained on: `pretrained_cfg`."""
        if self.folder is None:
            return timm.get_pretrained_cfg(self.said[self.key]).to_dict()
        return self.said.get("pretrained_cfg") or self.said

    def data_config(self) -> dict[str, Any]:
        return resolve_data_config({}, pretrained_cfg=dict(self.of_pixels))

    def transform(self, asked: Preprocess | None) -> Compose:
        """timm's own transform for evaluation, with another geometry where it is asked for."""
        config = self.data_config()
        own = create_transform(**config, is_training=False)
        if asked is None:
            return own
        after = [step for step in own.transforms if type(step).__name__ in ("MaybeToTensor", "ToTensor", "Normalize")]
        resize = Resize(asked.resize, interpolation=str_to_interp_mode(config["interpolation"]))
        return Compose([resize, *([] if asked.crop is None else [CenterCrop(asked.crop)]), *after])

    def model(self, size: tuple[int, int], weights: bool) -> nn.Module:
        """The model for pixels of a size; without `weights`, or for random ones, as torch's generator draws it.

        Raises:
            BackboneError: weights that are absent, unreadable, or of another architecture; no such size.
        """
        options: dict[str, Any] = {}
        if self.of_pixels.get("fixed_input_size") and size != tuple(self.data_config()["input_size"][1:]):
            options["img_size"] = size
        load = weights and self.folder is not None
        if load and not any(file for form in ("*.safetensors", "*.bin") for file in self.folder.glob(form)):
            raise BackboneError(
                f"{self.folder} holds no weights: neither model.safetensors nor pytorch_model.bin; {SAVE_AGAIN}"
            )
        kind = self.said[self.key]
        name = kind if self.folder is None else f"local-dir:{self.folder}"
        try:
            return timm.create_model(name, pretrained=load, **options)
        except Exception as error:  # of many kinds, each about the architecture, the size or the weights
            raise pickled(self.folder, error) or BackboneError(
                f"{self.name}: timm cannot make {kind} ({error}); {SAVE_AGAIN}, or correct preprocess"
            ) from error


@dataclass(frozen=True)
class TimmPixels:
    """timm's transform, picture by picture."""

    transform: Compose

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) float32, normalised."""
        return torch.stack([self.transform(Image.fromarray(frame)) for frame in frames_THWC]).numpy()

    def shown(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8: resized and cropped alone."""
        steps = Compose([step for step in self.transform.transforms if not isinstance(step, Normalize)])
        pixels_TCHW = torch.stack([steps(Image.fromarray(frame)) for frame in frames_THWC])
        return (pixels_TCHW * 255).round().byte().numpy()
