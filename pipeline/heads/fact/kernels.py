"""Pure kernels of FACT: positions, runs, means over segments, convolutions along time. Knows no parameters, no modules.

Shape suffixes: B videos, T frames, S segments, D and E widths, K taps of a convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoid(length: int, width: int) -> Tensor:
    """(length, width) float32: sines in the even columns, cosines in the odd, wavelengths 2 pi to 2 pi * 10,000.

    Args:
        width: even.

    Source: Vaswani et al., NeurIPS 2017, section 3.5.

    >>> sinusoid(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    frequency = 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def runs(labels_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of equal labels.

    Args:
        labels_BT: int64.
        mask_BT: bool, True for a video's own frames, which come first.

    Returns:
        (B, T) int64, the run that holds each frame, -1 where the mask is False; and (B,) int64, how many runs.

    >>> runs(torch.tensor([[7, 7, 2, 7, 7]]), torch.tensor([[True, True, True, True, False]]))
    (tensor([[ 0,  0,  1,  2, -1]]), tensor([3]))
    """
    run_BT = torch.zeros_like(labels_BT)
    run_BT[:, 1:] = (labels_BT[:, 1:] != labels_BT[:, :-1]).cumsum(dim=1)
    run_BT = run_BT.masked_fill(~mask_BT, -1)
    return run_BT, run_BT.amax(dim=1) + 1


class Segments(NamedTuple):
    """How a batch's frames fall into segments."""

    segment_of_frame_BT: Tensor  # int64, -1 for a padded frame
    length_BS: Tensor  # int64, in frames; 0 for a padded segment
    count_B: Tensor  # int64, on the CPU: what a recurrent network must know beforehand

    @property
    def mask_BS(self) -> Tensor:
        return self.length_BS > 0

    @property
    def middle_BS(self) -> Tensor:
        """The frame in the middle, the earlier of two; 0 for a padded segment.

        >>> segments(torch.tensor([[5, 5, 6, 6, 6]]), torch.ones(1, 5, dtype=torch.bool)).middle_BS
        tensor([[0, 3]])
        """
        start_BS = self.length_BS.cumsum(dim=1) - self.length_BS
        return (start_BS + (self.length_BS - 1) // 2).masked_fill(~self.mask_BS, 0)


def segments(labels_BT: Tensor, mask_BT: Tensor) -> Segments:
    """The runs of `labels_BT` as segments. Moves B numbers to the CPU: S, the most runs of any video, is a shape."""
    run_BT, count_B = runs(labels_BT, mask_BT)
    count_B = count_B.cpu()
    length = torch.zeros(len(run_BT), int(count_B.max()) + 1, dtype=torch.int64, device=run_BT.device)
    # Column 0 takes the padded frames.
    length.scatter_add_(1, run_BT + 1, torch.ones_like(run_BT))
    return Segments(run_BT, length[:, 1:], count_B)


def segment_mean(x_BTD: Tensor, segments: Segments) -> Tensor:
    """(B, S, D) in single precision at least: the mean of each segment's frames; 0 for a padded segment.

    A sum in bfloat16 would stand still after some 256 frames.

    >>> found = segments(torch.tensor([[5, 5, 6]]), torch.ones(1, 3, dtype=torch.bool))
    >>> segment_mean(torch.tensor([[[1.0], [3.0], [7.0]]]), found).tolist()
    [[[2.0], [7.0]]]
    """
    x_BTD = x_BTD if x_BTD.dtype == torch.float64 else x_BTD.float()
    (videos, _, width), slots = x_BTD.shape, segments.length_BS.shape[1] + 1
    # Slot 0 of each video takes its padded frames.
    row_BT = segments.segment_of_frame_BT + 1 + slots * torch.arange(videos, device=x_BTD.device).unsqueeze(1)
    total = x_BTD.new_zeros(videos * slots, width).index_add(0, row_BT.flatten(), x_BTD.flatten(0, 1))
    return total.unflatten(0, (videos, slots))[:, 1:] / segments.length_BS.clamp_min(1).unsqueeze(-1)


def to_frames(x_BSD: Tensor, segments: Segments) -> Tensor:
    """(B, T, D): each frame gets what its segment has; a padded frame the first segment's.

    Its gradient, a sum over frames, is added up in single precision at least.

    >>> found = segments(torch.tensor([[5, 5, 6]]), torch.ones(1, 3, dtype=torch.bool))
    >>> to_frames(torch.tensor([[[2.0], [7.0]]]), found).tolist()
    [[[2.0], [2.0], [7.0]]]
    """
    videos, slots = x_BSD.shape[:2]
    row_BT = segments.segment_of_frame_BT.clamp_min(0) + slots * torch.arange(videos, device=x_BSD.device).unsqueeze(1)
    wide = x_BSD if x_BSD.dtype == torch.float64 else x_BSD.float()
    return wide.flatten(0, 1).index_select(0, row_BT.flatten()).unflatten(0, row_BT.shape).to(x_BSD.dtype)


def time_windows(length_B: Tensor, longest: int, share: float, times: int, frames: int) -> Tensor:
    """(B, frames) bool: True in `times` random windows of each video, drawn from torch's generator.

    Args:
        length_B: int64, frames of each video.
        longest: a window's length is drawn from 0 to `longest` - 1 frames,
        share: then cut to this share of the video, rounded down.
        times: windows a video; they may overlap.
        frames: T, at least the longest video.
    """
    chance = torch.rand(2, len(length_B), times, 1, device=length_B.device)
    length = length_B[:, None, None]
    wide = torch.minimum((chance[0] * longest).long(), (length * share).long())
    start = (chance[1] * (length - wide)).long()
    frame = torch.arange(frames, device=length_B.device)
    return ((frame >= start) & (frame < start + wide)).any(dim=1)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout`; on the CPU with p in steps of 2^-16, from random words of 64 bits for four elements each.

    The library asks its generator once an element: forward and backward 4.9 -> 1.7 ms for (2000, 256), one thread.
    """
    if not (training and p) or x.device.type != "cpu":
        return F.dropout(x, p, training)
    dropped = min(round(p * 2**16), 2**16 - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


def taps(x_BTD: Tensor, weight_KDE: Tensor, bias_E: Tensor, offsets: Sequence[int]) -> Tensor:
    """Convolution along time, y[t] = bias + sum over k of x[t + offsets[k]] @ weight[k]; zeros beyond both ends.

    A GEMM a tap on shifted views, summed in place: nothing is copied, and only x and the weights are kept for the
    gradient (im2col keeps x K times). Taps that reach beyond the video cost nothing. Casts under autocast.

    Args:
        offsets: in frames, all different, 0 among them.

    Returns:
        (B, T, E).

    >>> taps(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.ones(2, 1, 1), torch.zeros(1), (0, -1)).flatten().tolist()
    [1.0, 3.0, 6.0]
    """
    device = x_BTD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_BTD, weight_KDE, bias_E = x_BTD.to(dtype), weight_KDE.to(dtype), bias_E.to(dtype)
    return _Taps.apply(x_BTD, weight_KDE, bias_E, tuple(offsets))


def _shifted(offset: int, frames: int) -> tuple[slice, slice]:
    """Where t runs and where t + offset runs, both within the frames."""
    offset = max(-frames, min(offset, frames))
    return slice(max(0, -offset), frames - max(0, offset)), slice(max(0, offset), frames - max(0, -offset))


def _add_product(into_BTE: Tensor, x_BTD: Tensor, weight_DE: Tensor) -> None:
    """into += x @ weight, on views; one video's is a plain GEMM."""
    if len(x_BTD) == 1:
        into_BTE[0].addmm_(x_BTD[0], weight_DE)
    else:
        into_BTE.baddbmm_(x_BTD, weight_DE.expand(len(x_BTD), -1, -1))


class _Taps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BTD: Tensor, weight_KDE: Tensor, bias_E: Tensor, offsets: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_KDE)
        ctx.offsets = offsets
        y_BTE = x_BTD.new_empty(*x_BTD.shape[:2], len(bias_E))
        torch.addmm(bias_E, x_BTD.flatten(0, 1), weight_KDE[offsets.index(0)], out=y_BTE.flatten(0, 1))
        for offset, weight_DE in zip(offsets, weight_KDE, strict=True):
            if 0 < abs(offset) < x_BTD.shape[1]:
                here, there = _shifted(offset, x_BTD.shape[1])
                _add_product(y_BTE[:, here], x_BTD[:, there], weight_DE)
        return y_BTE

    @staticmethod
    def backward(ctx, grad_BTE: Tensor):
        x_BTD, weight_KDE = ctx.saved_tensors
        grad_BTE = grad_BTE.contiguous()
        grad_x = grad_BTE @ weight_KDE[ctx.offsets.index(0)].t()
        grad_weight = torch.empty_like(weight_KDE)
        for offset, weight_DE, into_DE in zip(ctx.offsets, weight_KDE, grad_weight, strict=True):
            here, there = _shifted(offset, x_BTD.shape[1])
            if 0 < abs(offset) < x_BTD.shape[1]:
                _add_product(grad_x[:, there], grad_BTE[:, here], weight_DE.t())
            # A tap that reaches no frame sums over none: zeros.
            into_DE.addbmm_(x_BTD[:, there].transpose(1, 2), grad_BTE[:, here], beta=0)
        return grad_x, grad_weight, grad_BTE.sum((0, 1)), None
