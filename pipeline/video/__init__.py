"""Video files to frames: facts, sampling by timestamp, decoding. Knows no backbone, no store and no data set.

A damaged file is a VideoError with its reason, never a plausible shorter video: `probe` decodes every file once.
"""

from pipeline.video.facts import Reason, VideoError, VideoFacts, probe
from pipeline.video.frames import read_frames, segment_centres

__all__ = ["Reason", "VideoError", "VideoFacts", "probe", "read_frames", "segment_centres"]
