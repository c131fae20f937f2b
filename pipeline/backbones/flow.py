"""Optical flow from each frame to the next, as uint8. Knows no store, no video and no other backbone's weights.

Shape suffixes: N pairs, T frames, H Y rows and columns; the 2 of a flow are the displacements to the right and down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

from pipeline.backbones.base import BackboneError, arithmetic, centre_crop, seeded
from pipeline.backbones.i3d import STEPS, STILL, resized
from pipeline.backbones.states import open_state
from pipeline.config import FlowFeature, Weights
from pipeline.transfers import sent

RAFT_HUB = {f"torchvision/{known}": known for weights in (Raft_Large_Weights, Raft_Small_Weights) for known in weights}
RAFT_PUBLIC = "RAFT, large or small, with torchvision's key names"
# RAFT halves a picture three times, and then needs 16 cells a side for its correlation pyramid.
RAFT_MULTIPLE, RAFT_LEAST = 8, 128

# (H, W) uint8 grey before and after -> (H, W, 2) float32 pixels.
GreyFlow = Callable[[np.ndarray, np.ndarray], np.ndarray]


# --- pixels and kernels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowPixels:
    """I3D's resize without its crop: flow is computed on the whole frame, so that motion across the border is seen."""

    resize: tuple[int, int] | int

    def __call__(self, frames_THYC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, 3, h, w) uint8; for an int, h and w follow the video's shape."""
        return resized(frames_THYC, self.resize).contiguous().numpy()


def quantised(flow: np.ndarray, bound: float) -> np.ndarray:
    """Pixels, clipped to +-bound, -> uint8: 128 is exactly 0, each step is bound / 127.

    >>> quantised(np.array([-30.0, -20.0, 0.0, 0.08, 20.0]), 20.0).tolist()
    [1, 1, 128, 129, 255]
    """
    return (np.rint(np.clip(flow, -bound, bound) / bound * STEPS) + STILL).astype(np.uint8)


def quantised_there(flow: Tensor, bound: float) -> Tensor:
    """`quantised` on the tensor's own device, with the same result."""
    # A tensor, since CUDA makes a number a factor, 1 / bound, which rounds another way.
    divisor = torch.full((), bound, device=flow.device)
    return ((flow.clamp(-bound, bound) / divisor * STEPS).round() + STILL).to(torch.uint8)


def grey_flow(method: str) -> GreyFlow:
    """OpenCV's flow with its published defaults, on one thread, each pair on its own.

    Equal pictures give equal flows on a given kind of processor. TV-L1: Zach et al. 2007 (as I3D was trained); DIS:
    Kroeger et al. 2016, preset medium; Farneback: Farnebäck 2003, as in OpenCV's own example.
    """
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    match method:
        case "tvl1":
            return lambda before, after: cv2.optflow.createOptFlow_DualTVL1().calc(before, after, None)
        case "dis":
            dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            return lambda before, after: dis.calc(before, after, None)
        case "farneback":
            return partial(
                cv2.calcOpticalFlowFarneback,
                flow=None,
                pyr_scale=0.5,
                levels=3,
                winsize=15,
                iterations=3,
                poly_n=5,
                poly_sigma=1.2,
                flags=0,
            )
    raise ValueError(f"unknown flow method {method!r}: known are tvl1, dis, farneback")


# --- the backbone -----------------------------------------------------------------------------------------------------


class Flow:
    """Flow of consecutive frames by any method.

    Attributes:
        context: (0, 1): row t is the motion from frame t to frame t + 1.
        stream_sizes: what `rows` wants: rgb of the whole resized frame; None where a side follows the video's shape.
        fields: flow (rows, 2, h, w) uint8, of the centre crop.
        runs_in_worker: the methods without weights are plain CPU code, and picklable.
    """

    grid = None
    context = (0, 1)

    def __init__(self, feature: FlowFeature, device: torch.device):
        self.method, self.bound, self.batch = feature.method, feature.bound, feature.batch
        resize = feature.preprocess.resize
        self.resize = (None, None) if isinstance(resize, int) else resize
        self.size = feature.preprocess.size
        self.stream_sizes = {"rgb": (3, *self.resize)}
        self.fields = {"flow": ((None, 2, *self.size), "uint8")}
        self.runs_in_worker = feature.weights is None
        self.raft = None if feature.weights is None else Raft(feature.weights, device)

    @staticmethod
    def preprocessor(feature: FlowFeature) -> FlowPixels:
        return FlowPixels(feature.preprocess.resize)

    def rows(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One row a frame but the last.

        Args:
            streams: {"rgb": (N + 1, 3, H, W) uint8} from FlowPixels.

        Returns:
            flow (N, 2, h, w) uint8: `quantised` pixels of the resized frame. Two equal frames have no flow, whatever
            the method: a repeated frame costs nothing and gives exactly 128.

        Raises:
            BackboneError: frames of another shape or dtype.
        """
        frames_TCHY = self._check(streams)
        moving = [n for n in range(len(frames_TCHY) - 1) if not torch.equal(frames_TCHY[n], frames_TCHY[n + 1])]
        if self.raft is not None:
            return {"flow": self._by_raft(self.raft, frames_TCHY, moving)}
        out = np.full((len(frames_TCHY) - 1, 2, *self.size), STILL, np.uint8)
        for n, flow_2HY in zip(moving, self._flows(frames_TCHY, moving), strict=True):
            seen = centre_crop(torch.from_numpy(flow_2HY), self.size)
            out[n] = quantised(seen.numpy(), self.bound)
        return {"flow": torch.from_numpy(out)}

    def _by_raft(self, raft: "Raft", frames_TCHY: Tensor, moving: list[int]) -> Tensor:
        """The rows, on the device, for which nothing waits."""
        rows_N2hw = torch.full((len(frames_TCHY) - 1, 2, *self.size), STILL, dtype=torch.uint8, device=raft.device)
        there, numbers = sent(frames_TCHY, raft.device), sent(torch.tensor(moving, dtype=torch.int64), raft.device)
        for chosen in numbers.split(self.batch):
            flow_N2HY = raft(there[chosen], there[chosen + 1])
            rows_N2hw.index_copy_(0, chosen, quantised_there(centre_crop(flow_N2HY, self.size), self.bound))
        return rows_N2hw

    def _flows(self, frames_TCHY: Tensor, moving: list[int]):
        """(2, H, W) float32 pixels from each of the frames `moving` to its next one, by OpenCV."""
        calculate = grey_flow(self.method)
        greys = {}
        for n in moving:
            greys = {t: greys[t] if t in greys else _grey(frames_TCHY[t]) for t in (n, n + 1)}
            yield calculate(greys[n], greys[n + 1]).transpose(2, 0, 1)

    def _check(self, streams: Mapping[str, Tensor]) -> Tensor:
        got = {name: (tuple(stream.shape), stream.dtype) for name, stream in streams.items()}
        frames_TCHY = streams.get("rgb")
        fits = (
            frames_TCHY is not None
            and len(streams) == 1
            and frames_TCHY.dtype == torch.uint8
            and frames_TCHY.ndim == 4
            and frames_TCHY.shape[1] == 3
            and len(frames_TCHY) > 1
            and all(wanted in (None, side) for wanted, side in zip(self.resize, frames_TCHY.shape[2:], strict=True))
        )
        if not fits:
            raise BackboneError(
                f"got streams {got}, expected {{'rgb': (T, C, H, W)}} uint8 with {self.stream_sizes} and two frames or "
                "more; make them with preprocessor(feature) of the same feature"
            )
        return frames_TCHY


def _grey(frame_CHY: Tensor) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(frame_CHY.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)


# --- RAFT -------------------------------------------------------------------------------------------------------------


class Raft:
    """torchvision's RAFT in float32, frozen. Source: Teed & Deng, ECCV 2020."""

    def __init__(self, weights: Weights, device: torch.device):
        self.device = device
        self.model = _load_raft(weights).requires_grad_(False).eval().to(device)

    def __call__(self, before_NCHY: Tensor, after_NCHY: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 each -> (N, 2, H, W) float32 pixels there: the last of torchvision's 12 updates."""
        height, width = before_NCHY.shape[2:]
        pads = (*_raft_padding(width), *_raft_padding(height))
        with arithmetic(self.device, "fp32"):
            # Edges repeated, as RAFT's own evaluation does.
            before, after = (
                F.pad(frames.to(self.device).float() / 127.5 - 1, pads, mode="replicate")
                for frames in (before_NCHY, after_NCHY)
            )
            flow_N2HY = self.model(before, after)[-1]
        left, _, top, _ = pads
        return flow_N2HY[:, :, top : top + height, left : left + width]


def _raft_padding(side: int) -> tuple[int, int]:
    """Pixels to add before and after a side."""
    total = max(RAFT_LEAST, -(-side // RAFT_MULTIPLE) * RAFT_MULTIPLE) - side
    return total // 2, total - total // 2


def _load_raft(weights: Weights) -> nn.Module:
    if weights.random is not None:
        with seeded(weights.random):
            return raft_large()
    state, origin = open_state(weights, RAFT_HUB, RAFT_PUBLIC)
    stem = state.get("feature_encoder.convnormrelu.0.weight")
    builders = {64: raft_large, 32: raft_small}
    if stem is None or stem.shape[0] not in builders:
        raise BackboneError(
            f"{origin} is not a state dict of RAFT: feature_encoder.convnormrelu.0.weight is "
            f"{'absent' if stem is None else tuple(stem.shape)}, and keys are such as {sorted(state)[:3]}; "
            f"give {RAFT_PUBLIC}"
        )
    with seeded(0):
        model = builders[stem.shape[0]]()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BackboneError(f"{origin} does not fit RAFT: {error}; save it again") from None
    return model
