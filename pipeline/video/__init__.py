"""Video and picture files to frames: facts, sampling by timestamp, decoding. Knows no backbone, no store, no data set.

A damaged file is a VideoError with its reason, never a plausible shorter video: `probe` decodes every file once.
"""

from pipeline.video.by_torchcodec import DecoderMissing
from pipeline.video.by_torchcodec import expect as expect_decoder
from pipeline.video.facts import Reason, VideoError, VideoFacts, blaming
from pipeline.video.frames import frame_starts, frames_at, iterate_frames, read_frames
from pipeline.video.probing import probe
from pipeline.video.sampling import sampling_times, segment_centres

__all__ = [
    "DecoderMissing",
    "Reason",
    "VideoError",
    "VideoFacts",
    "blaming",
    "expect_decoder",
    "frame_starts",
    "frames_at",
    "iterate_frames",
    "probe",
    "read_frames",
    "sampling_times",
    "segment_centres",
]
