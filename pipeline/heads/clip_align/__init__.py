"""clip_align: a video and a clinician's attention in one space, on cached tokens and cached maps."""

from .losses import LossSettings, align_loss, pairs
from .model import AlignOutput, ClipAlign, Video

__all__ = ["AlignOutput", "ClipAlign", "LossSettings", "Video", "align_loss", "pairs"]
