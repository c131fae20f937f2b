"""What models of transformers and timm share: pixels by the library's own preprocessing, shapes computed before any
weight is read, and one of several outputs kept. Knows neither library.

Shape suffixes: B samples, T frames, C colours (3), H W pixels, M pictures or clips, P steps, N patches, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backbones.base import BackboneError, Fields, Grid, arithmetic, check_pixels, seeded, step_times, unit
from pipeline.backbones.checkpoints import checkpoint_folder, read_json
from pipeline.backbones.grids import Layout, layout
from pipeline.config import LibraryFeature

# Native frames of these sides are preprocessed before any video is: both must give pixels of one size.
PROBES = ((96, 128), (128, 96))


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, or the architecture of random weights. A subclass names its library's `key`.

    Attributes:
        key: of config.json, that says what the model is.
        name: in errors.
        said: config.json, or what params declare.
    """

    key: ClassVar[str]
    name: str
    said: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def of(cls, feature: LibraryFeature) -> Self:
        """Raises BackboneError: a folder, or its config.json, that is not there or cannot be read."""
        if feature.weights.random is None:
            folder = checkpoint_folder(feature.weights, feature.backbone)
            return cls(str(folder), read_json(folder / "config.json"), folder)
        said = feature.architecture
        said = said if isinstance(said, Mapping) else {cls.key: said}
        return cls(f"architecture {said[cls.key]}", said)


@dataclass(frozen=True)
class States:
    """What a network gives of M pictures or clips.

    Attributes:
        last: after the last layer, as a `Layout` reads it.
        hidden: before (None where the network does not give that), between and after the layers; empty where it gives
            none.
        pooled: (M, ...), the network's own pooling.
        projected: (M, E), in a space that texts share.
    """

    last: Tensor
    hidden: Sequence[Tensor] = ()
    pooled: Tensor | None = None
    projected: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """A network, and what is known of it before it has run.

    Attributes:
        run: pixels (M, C, H, W), or (M, T, C, H, W) of a model of clips, to States.
        module: what `run` runs.
        prefix: tokens before the patches.
        has_cls: whether the first of these is a CLS token.
        patch: height and width of a patch.
        span: frames of a step.
        time_last: as of `Layout`.
    """

    run: Callable[[Tensor], States]
    module: nn.Module
    prefix: int = 0
    has_cls: bool = False
    patch: tuple[int, int] | None = None
    span: int = 1
    time_last: bool = False


class LibraryPixels(Protocol):
    """The library's own preprocessing, as decode processes run it. Picklable."""

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) float32, normalised."""
        ...

    def shown(self, frames_THWC: np.ndarray) -> np.ndarray:
        """The same geometry for people: (T, 3, h, w) uint8."""
        ...


@dataclass(frozen=True)
class Sized:
    """A library's preprocessing, and the size of what it gives.

    Raises:
        BackboneError: frames that it cannot take, or pixels whose size depends on the video's shape.
    """

    pixels: LibraryPixels
    name: str
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        try:
            made = [self.pixels(np.zeros((1, *sides, 3), np.uint8)) for sides in PROBES]
        except Exception as error:
            raise BackboneError(
                f"{self.name}: its own preprocessing fails ({error_line(error)}); leave preprocess out or give it "
                "another geometry, or correct the preprocessor's file"
            ) from error
        if not all(np.isfinite(of).all() for of in made):
            raise BackboneError(
                f"{self.name}: its own preprocessing gives pixels that are no numbers, as where image_std is 0; "
                "correct the preprocessor's file"
            )
        sizes = {of.shape[-2:] for of in made}
        if len(sizes) > 1:
            raise BackboneError(
                f"{self.name}: its own preprocessing gives pixels of another size for each shape of video; add a crop: "
                "preprocess: {resize: 256, crop: [224, 224]}"
            )
        object.__setattr__(self, "size", tuple(map(int, sizes.pop())))

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        return self.pixels(frames_THWC)

    def shown(self, frames_THWC: np.ndarray) -> np.ndarray:
        return self.pixels.shown(frames_THWC)


class LibraryModel(ABC):
    """A frozen model of a library: a `Backbone`, or a `FrameBackbone` where its feature has a row a frame.

    A subclass gives `preprocessor`, `name` and `network`. What the network gives is first computed on the `meta`
    device, which holds no number: whether its tokens are a grid is known before its weights are read. Made for the
    `meta` device, it never reads them, and `fields` and `grid` are what it is for.

    Attributes:
        name: of the model, in errors.
        clips: whether it reads clips; otherwise it reads pictures, and each frame is one.
        geometry: how pixels are resized and cropped, where that can be said.
        vectors: the outputs that are one vector a picture or clip, and their widths.
        parameters: how many the network has.

    Raises:
        BackboneError: weights that cannot be loaded, pixels that the network cannot take, an output that it does not
            have; with the remedy.
    """

    runs_in_worker: ClassVar = False
    itemsize: ClassVar = 4  # bytes of a value of its pixels: float32
    context: ClassVar = (0, 0)
    clips = False

    def __init__(self, feature: LibraryFeature, device: torch.device) -> None:
        self.device, self.precision, self.batch = device, feature.precision, feature.batch
        self.output, self.field = feature.output, feature.field
        self.name = self.open(feature)
        self.frames, self.windows = feature.sampling.count, feature.sampling.windows or 1
        if feature.ragged and self.clips:
            raise BackboneError(
                f"{self.name} reads clips of several frames, and sampling {{fps: ...}} is of single frames; name a "
                "picture model, or set sampling: {frames: ..., fps: ..., windows: ...}"
            )
        self.size = self.preprocessor(feature).size
        said = feature.geometry
        self.geometry = said if said is not None and said.size == self.size else None
        self.stream_sizes = {"rgb": (3, *self.size)}
        with torch.device("meta"), as_it_was():
            outline = self.network(None)
        states = self._outlined(outline, feature.sampling.frames or 1)
        self._layout, shape = self._kept(outline, states, feature.sampling.frames or 1)
        dtype = "float32" if feature.storage == "float32" else "float16"
        self.fields, self.grid = self._fields(shape, dtype, feature.ragged)
        self._network, self.parameters = outline, sum(of.numel() for of in outline.module.parameters())
        if device.type == "meta":
            return  # shapes were all that was asked for
        seed = feature.weights.random
        with seeded(0 if seed is None else seed):
            self._network = self.network(device)
        self._network.module.requires_grad_(False).eval()

    # --- of a subclass ---

    @abstractmethod
    def open(self, feature: Any) -> str:
        """Finds the checkpoint, or the architecture of random weights; returns its name, for errors."""

    @abstractmethod
    def network(self, device: torch.device | None) -> Network:
        """The network with its weights on a device; with None, its outline: no weight is read."""

    @staticmethod
    @abstractmethod
    def preprocessor(feature: Any) -> Sized:
        """The library's own preprocessing, with the geometry that the feature asks for."""

    # --- shapes, before weights ---

    def _outlined(self, outline: Network, frames: int) -> States:
        """The states of one input, without numbers."""
        shape = (1, frames, 3, *self.size) if self.clips else (1, 3, *self.size)
        outline.module.eval()
        try:
            with torch.device("meta"), torch.inference_mode(), as_it_was():
                return outline.run(torch.zeros(shape, device="meta"))
        except BackboneError:
            raise
        except Exception as error:
            what = f"clips of {frames} frames of" if self.clips else "pictures of"
            raise BackboneError(
                f"{self.name} cannot take {what} {self.size[0]} x {self.size[1]} pixels ({error_line(error)}); set "
                "preprocess (and, of a model of clips, sampling.frames) to what it was made for"
            ) from error

    def _kept(self, outline: Network, states: States, frames: int) -> tuple[Layout | None, tuple[int, ...]]:
        """How the states that are kept lie, and the shape of one input's output.

        Raises:
            BackboneError: an output that this network does not have, a layer that it does not have, no grid.
        """
        self.vectors = _vectors(outline, states)
        # What enters the first layer is hidden:0, which some networks do not give.
        layers = range(-len(states.hidden), len(states.hidden))
        layers = [number for number in layers if states.hidden[number] is not None]
        named = {*self.vectors, "tokens"} | {f"hidden:{number}" for number in layers}
        if self.output not in named:
            there = [*self.vectors, "tokens"]
            if layers:
                first = min(number for number in layers if number >= 0)
                there.append(f"hidden:{first} to hidden:{layers[-1]} (from the end hidden:-1 to hidden:{layers[0]})")
            raise BackboneError(f"{self.name} has no output {self.output}; it has {', '.join(there)}")
        if self.output in self.vectors and self.output != "mean":
            return None, (self.vectors[self.output],)
        chosen = states.last
        if self.output.startswith("hidden"):
            chosen = states.hidden[int(self.output.partition(":")[2])]
        steps, rest = divmod(frames if self.clips else 1, outline.span if self.clips else 1)
        if rest:
            raise BackboneError(
                f"{self.name} makes one step of {outline.span} frames, got sampling.frames {frames}; make it a "
                f"multiple of {outline.span}"
            )
        try:
            lies = layout(
                tuple(chosen.shape),
                self.size,
                steps=steps,
                prefix=outline.prefix,
                patch=outline.patch,
                time_last=outline.time_last,
            )
        except BackboneError as error:
            raise BackboneError(f"{self.name}: {error}") from None
        width = chosen.shape[1] if lies.form == "first" else chosen.shape[-1]
        self.vectors |= {} if chosen is not states.last else {"mean": width}
        return lies, (lies.grid[0], lies.grid[1] * lies.grid[2], width)

    def _fields(self, shape: tuple[int, ...], dtype: str, ragged: bool) -> tuple[Fields, Grid | None]:
        """Of an output of one picture or clip, those of a sample: pictures and windows follow each other in time."""
        count = 1 if ragged else self.windows if self.clips else self.frames
        if self.output in self.vectors:
            width = shape[-1]
            whole = (None, width) if ragged else (count, width) if count > 1 else (width,)
            return {self.field: (whole, dtype)}, None
        steps, cells, width = shape
        grid = (count * steps, *self._layout.grid[1:])
        return {self.field: ((grid[0], cells, width), dtype)}, grid

    # --- running it ---

    def token_times(self, times: Sequence[float]) -> list[float]:
        """The mean time of each step's frames; of a vector, of all frames that it is of."""
        steps = self.grid[0] if self.grid else self.windows if self.clips else self.frames
        return step_times(times, self.frames, self.frames // steps)

    def __call__(self, pixels_BTCHW: Tensor) -> dict[str, Tensor]:
        """The field that is kept, float32. Raises BackboneError: pixels that its own preprocessor would not make."""
        check_pixels(pixels_BTCHW, self.frames, self.size, torch.float32)
        whole = pixels_BTCHW.unflatten(1, (self.windows, -1)) if self.clips else pixels_BTCHW
        shape = self.fields[self.field][0]
        return {self.field: self._output(whole.flatten(0, 1)).reshape(len(pixels_BTCHW), *shape)}

    def rows(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A row a frame: {"rgb": (n, 3, h, w)} as the preprocessor makes them -> (n, D) float32."""
        frames_TCHW = streams["rgb"]
        check_pixels(frames_TCHW[None], len(frames_TCHW), self.size, torch.float32)
        return {self.field: torch.cat([self._output(part) for part in frames_TCHW.split(self.batch)])}

    def _output(self, inputs: Tensor) -> Tensor:
        """(M, D) or (M, P * N, D), float32."""
        with arithmetic(self.device, self.precision):
            states = self._network.run(inputs.to(self.device))
            if self.output == "cls":
                return states.last[:, 0].float()
            if self.output == "pooler":
                return states.pooled.float().flatten(1)
            if self.output == "projected":
                return unit(states.projected.float())
            of_layer = self.output.startswith("hidden")
            chosen = states.hidden[int(self.output.partition(":")[2])] if of_layer else states.last
            patches = self._layout.patches(chosen.float())
            return patches.mean(dim=1) if self.output == "mean" else patches


def _vectors(outline: Network, states: States) -> dict[str, int]:
    """The outputs that are one vector a picture or clip, and their widths; that of the mean is only known as a grid is.

    A mean is of patches, so it needs a grid too; the others need none.
    """
    found = {"cls": states.last.shape[-1]} if outline.has_cls and states.last.ndim == 3 else {}
    found["mean"] = states.last.shape[-1]
    for name, of in (("pooler", states.pooled), ("projected", states.projected)):
        if of is not None:
            found[name] = prod(of.shape[1:])
    return found


@contextmanager
def as_it_was():
    """Leaves torch's random state as it was: an outline draws its weights too."""
    with torch.random.fork_rng(devices=[]):
        yield


def error_line(error: Exception) -> str:
    """The first line of an error, and its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
