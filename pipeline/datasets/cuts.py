"""Clips within longer videos: where each begins and ends, in seconds, and what makes it another than its neighbours.

Knows no layout.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.config import Dataset
from pipeline.datasets.folders import video_folder
from pipeline.datasets.manifest import FACTS
from pipeline.datasets.names import DatasetError

if TYPE_CHECKING:
    from pipeline.datasets.build import Finding

PAST_END = "past_end"  # the status of a clip that its video is too short for
# Tables round to a hundredth of a second or to a frame: what a clip ends too late by is cut off.
SLACK = 0.05
# Of so many clips one may be past its video's end; where more are, the table means something else.
MOST_PAST = 0.01


def cut(dataset: Dataset, annotations: pd.DataFrame, findings: Sequence["Finding"]) -> list["Finding"]:
    """The findings of the samples, of those of their files: a clip has its own digest, and lies within its video.

    `annotations` gets `start` and `stop` in seconds, and `file_digest`; those of whole videos stay None.

    Args:
        dataset: whose `columns` say whether clips are given in seconds or in frames.
        annotations: with `start` and `stop`, or without.
        findings: one a row, of its file.

    Raises:
        DatasetError: more than `MOST_PAST` of the clips begin or end after their video does. Single ones have the
            status `past_end`.
    """
    if "start" not in annotations:
        return list(findings)
    from pipeline.video import VideoError  # here, as in `build.examine`: a plan loads no decoder

    found, past = list(findings), []
    columns: dict[str, list[Any]] = {name: [None] * len(found) for name in ("start", "stop", "file_digest")}
    in_frames, folder = dataset.columns.unit == "frames", video_folder(dataset)
    starts_of: dict[str, Any] = {}
    lines = annotations["line"] if "line" in annotations else [""] * len(found)
    for place, (sample, path, *ends) in enumerate(
        zip(*(annotations[name] for name in ("sample", "path", "start", "stop")), strict=True)
    ):
        finding = found[place]
        if ends == [None, None] or finding.facts is None:
            continue
        facts = dict(zip(FACTS, finding.facts, strict=True))
        lasts = facts["duration"]
        if not lasts:  # a picture
            if any(ends):
                raise DatasetError(
                    f"{Path(dataset.root)}{os.sep}{lines[place]}the clip {_said(ends, dataset.columns.unit)} of "
                    f"{sample!r}: {path} is a picture, one moment; leave start and stop empty in that row"
                )
            continue
        seconds = ends
        if in_frames:
            try:
                if path not in starts_of:
                    starts_of = {path: _starts(Path(folder, path), facts)}  # rows of one video mostly stand together
            except VideoError as error:
                found[place] = finding._replace(status=error.reason, facts=None, detail=str(error))
                continue
            seconds = [_shown(end, starts_of[path], lasts) for end in ends]
        start, stop = 0.0 if seconds[0] is None else seconds[0], lasts if seconds[1] is None else seconds[1]
        if start >= lasts or stop > lasts + max(SLACK, 1.01 * lasts / facts["frames"]):
            said = _said(ends, "frames" if in_frames else "s")
            has = f"{facts['frames']} frames" if in_frames else f"{lasts:.2f} s"
            past.append(f"{lines[place]}the clip {said} of {sample!r} is past the end of {path}, which lasts {has}")
            found[place] = finding._replace(status=PAST_END, facts=None, detail=f"{past[-1]}; correct start and stop")
            columns["file_digest"][place] = finding.digest
            continue
        start, stop = round(start, 6), round(min(stop, lasts), 6)
        of_clip = hashlib.sha256(json.dumps([finding.digest, start, stop]).encode()).hexdigest()
        found[place] = finding._replace(digest=of_clip)
        for name, value in (("start", start), ("stop", stop), ("file_digest", finding.digest)):
            columns[name][place] = value
    clips = sum(start is not None or stop is not None for start, stop in annotations[["start", "stop"]].to_numpy())
    if len(past) > MOST_PAST * clips:
        unit = "frames" if in_frames else "seconds"
        raise DatasetError(
            f"{Path(dataset.root)}{os.sep}{past[0]} ({len(past)} of {clips} clips are such); correct start and stop in "
            f"that row, or columns.unit of the data set in params, which is {unit}"
        )
    for name, values in columns.items():
        annotations[name] = pd.Series(values, dtype=object)
    return found


def _starts(path: Path, facts: dict[str, Any]) -> Any:
    """When each frame starts, seconds. At a constant rate no frame is decoded."""
    from pipeline.video import VideoFacts, frame_starts  # here, as above

    return frame_starts(path, VideoFacts(**facts))


def _shown(frame: float | None, starts: Any, lasts: float) -> float | None:
    """When a frame starts; of one behind the last, when it would."""
    if frame is None:
        return None
    beyond = int(frame) - len(starts)
    return float(starts[int(frame)]) if beyond < 0 else lasts + beyond * lasts / len(starts)


def _said(ends: Sequence[float | None], unit: str) -> str:
    start, stop = ("" if end is None else f"{end:g}" for end in ends)
    return f"from {start or 0} {unit}" if not stop else f"from {start or 0} to {stop} {unit}"
