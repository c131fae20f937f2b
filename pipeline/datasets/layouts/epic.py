"""Reads Epic-Kitchens-100's annotations as published: actions of a verb and a noun. Opens no video.

In the folder `labels` of params, below the root:
    EPIC_100_train.csv, EPIC_100_validation.csv    narration_id, participant_id, video_id, start_timestamp,
                                                   stop_timestamp, start_frame, stop_frame, verb_class, noun_class,
                                                   ...; an action a line
    EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv    id, key, ...
    EPIC_100_video_info.csv                        video_id, duration (s), fps, resolution
Videos, if there are any, lie as <videos>/<participant>/videos/<id><extension>.

Classes are the background, then each pair of verb and noun that occurs; they are made of all verbs and nouns of the
class tables, those that never occur among them, with the background before them: 98 and 301. Labels are `label_fps` a
second. Actions overlap, and a frame has one label: that of the action that began last.

When an action is, its time stamps say. Frame numbers count frames that were extracted again, at 50 or 60 a second, and
`fps` is the film's own rate: by it 11.9 % of the validation's rows would lie at another time, by up to 135 s. So
`fps` is not read, and frame numbers only prove the time stamps: all of a video must count at one rate.

Source: Damen et al., IJCV 2022, https://github.com/epic-kitchens/epic-kitchens-100-annotations.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import Annotations, Dataset, Layout
from pipeline.datasets.labels import Labels, class_list_files, required
from pipeline.datasets.names import DatasetError, check_file_name
from pipeline.datasets.segments import Segment
from pipeline.datasets.tables import table_lines

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation")
EDGES = ("start", "stop")
TIMES, FRAMES = ([f"{edge}_{kind}" for edge in EDGES] for kind in ("timestamp", "frame"))
NUMBERS = [*FRAMES, "verb_class", "noun_class"]
ACTIONS = ["narration_id", "participant_id", "video_id", *TIMES, *NUMBERS]
TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")  # hours, minutes, seconds
APART = 0.5  # seconds by which a frame number may miss its time stamp; they are written to 0.01


class Epic(Layout):
    """Epic-Kitchens-100: actions of a verb and a noun."""

    kind = "video"
    takes = frozenset({"labels", "label_fps", "class_lists", "background"})
    labelled = True

    def annotations(self, dataset: Dataset) -> Annotations:
        """One row a video, in the order train, validation, and of its first action within each.

        Returns:
            Columns `sample` (the video's id), `path` (or None where the set has no videos), `split`. A video of both
            splits counts for train, and is listed twice.

        Raises:
            DatasetError: a file is absent or broken, or an id cannot be a file name.
        """
        actions = _actions(dataset)
        rows, listed_twice = {}, []
        for video, participant, split in actions[["video_id", "participant_id", "split"]].drop_duplicates().to_numpy():
            if video in rows:
                listed_twice.append([video, rows[video][1], split])
                continue
            name = check_file_name(f"{video}{dataset.extension}", str(_file(dataset, split)))
            folder = check_file_name(participant, str(_file(dataset, split)))
            rows[video] = (None if dataset.videos is None else f"{folder}/videos/{name}", split)
        paths, splits = zip(*rows.values(), strict=True) if rows else ((), ())
        return Annotations({"sample": list(rows), "path": paths, "split": splits}, listed_twice)

    def files(self, dataset: Dataset) -> list[Path]:
        """The five tables and the lists of classes. Raises DatasetError where one is not there."""
        names = (*SPLITS, "verb_classes", "noun_classes", "video_info")
        return [*(_file(dataset, name) for name in names), *class_list_files(dataset).values()]

    def labels(self, dataset: Dataset, samples: Sequence[str]) -> Labels:
        """The labels of all frames of these videos, `label_fps` a second.

        Raises:
            DatasetError: `label_fps` or the background is not set, a table is broken, an action has a verb, a noun or
                a video that its table lacks, or its frame numbers and time stamps contradict each other.
        """
        if dataset.label_fps is None or len(dataset.background) != 1:
            raise DatasetError(
                f"the labels of {dataset.root} are made from times: set label_fps to the rows a second of the features "
                "and background to one name, that of the frames without an action"
            )
        (background,) = dataset.background
        actions = _actions(dataset)
        verbs, nouns = (_keys(_file(dataset, f"{kind}_classes")) for kind in ("verb", "noun"))
        _expect_known(dataset, actions, verbs, nouns)
        _expect_one_rate(dataset, actions)
        pairs = sorted(set(zip(actions["verb_class"], actions["noun_class"], strict=True)))
        classes = [background, *(f"{verbs[verb]} {nouns[noun]}" for verb, noun in pairs)]
        number = {pair: 1 + index for index, pair in enumerate(pairs)}
        info = _table(_file(dataset, "video_info"), ["video_id", "duration"], ["duration"])
        _expect_once(_file(dataset, "video_info"), info, "video_id")
        seconds_of = dict(zip(info["video_id"], info["duration"], strict=True))
        places = [{key: 1 + place for place, key in enumerate(sorted(keys))} for keys in (verbs, nouns)]
        parts = {
            "verbs": [background, *(verbs[key] for key in sorted(verbs))],
            "nouns": [background, *(nouns[key] for key in sorted(nouns))],
            "pairs": [[0, 0], *([places[0][verb], places[1][noun]] for verb, noun in pairs)],
        }
        segments, shared, hidden = {}, 0, 0
        for video, rows in actions[actions["video_id"].isin(set(samples))].groupby("video_id", sort=False):
            if video not in seconds_of:
                raise DatasetError(f"video {video!r} is not in {_file(dataset, 'video_info')}; use one release's files")
            rows = rows.sort_values("start_timestamp", kind="stable")
            times = (rows[TIMES].to_numpy() * dataset.label_fps).round(6)  # 57.4999... is 57.5
            spans = np.rint(times).astype(np.int64)
            owner = np.full(round(seconds_of[video] * dataset.label_fps), -1)
            for action, (start, stop) in enumerate(spans):
                shared += int((owner[start:stop] >= 0).sum())
                owner[start:stop] = action
            hidden += len(rows) - len(np.setdiff1d(owner, [-1]))
            index = np.array([number[pair] for pair in zip(rows["verb_class"], rows["noun_class"], strict=True)] + [0])
            segments[video] = _runs(index[owner], classes)
        notes = {"frames_of_several_actions": shared, "actions_without_a_frame": hidden}
        return Labels(classes, segments, parts, notes)


def _runs(labels_T: np.ndarray, classes: Sequence[str]) -> list[Segment]:
    starts = np.flatnonzero(np.diff(labels_T, prepend=-1))
    lengths = np.diff(starts, append=len(labels_T))
    return [
        {"label": classes[labels_T[start]], "frames": int(length)}
        for start, length in zip(starts, lengths, strict=True)
    ]


def _expect_known(dataset: Dataset, actions: "pd.DataFrame", verbs: dict[int, str], nouns: dict[int, str]) -> None:
    for column, keys in (("verb_class", verbs), ("noun_class", nouns)):
        unknown = actions[~actions[column].isin(keys)]
        if len(unknown):
            row = unknown.iloc[0]
            raise DatasetError(
                f"{_file(dataset, row['split'])}: {row['narration_id']} of video {row['video_id']!r} has the {column} "
                f"{row[column]}, which is not in {_file(dataset, column + 'es').name}; use one release's files"
            )


def _expect_one_rate(dataset: Dataset, actions: "pd.DataFrame") -> None:
    """The frame numbers of a video over its time stamps are one rate; a row that is elsewhere is wrong."""
    rate = actions["video_id"].map({video: _rate(rows) for video, rows in actions.groupby("video_id")})
    for time, frame in zip(TIMES, FRAMES, strict=True):
        wrong = actions[(actions[frame] / rate - actions[time]).abs() > APART]
        if len(wrong):
            row = wrong.iloc[0]
            raise DatasetError(
                f"{_file(dataset, row['split'])}: {row['narration_id']} of video {row['video_id']!r} has the {frame} "
                f"{row[frame]:g} and the {time} {row[time]:.2f} s, but the frame numbers of its video count "
                f"{rate[wrong.index[0]]:.2f} a second ({row[frame] / rate[wrong.index[0]]:.2f} s); correct the row, or "
                "use one release's files"
            )


def _rate(rows: "pd.DataFrame") -> float:
    """The median, by time, of a video's frame numbers over their time stamps.

    Late rows tell the rate best: of one at 1 s, whose frame number is rounded down, it is off by 2 %.
    """
    times = rows["stop_timestamp"].clip(lower=0.01)
    rates = (rows["stop_frame"] / times).sort_values()
    weight = times[rates.index].cumsum()
    return max(float(rates[weight >= weight.iloc[-1] / 2].iloc[0]), 1e-3)


def _actions(dataset: Dataset) -> "pd.DataFrame":
    """All actions, with their `split`; time stamps in seconds."""
    import pandas as pd  # here, as in `_table`: params name a layout, and are read without it

    tables = [_with_seconds(_file(dataset, split)).assign(split=split) for split in SPLITS]
    return pd.concat(tables, ignore_index=True)


def _with_seconds(path: Path) -> "pd.DataFrame":
    table = _table(path, ACTIONS, NUMBERS)
    for name in TIMES:
        found = [TIME.fullmatch(text.strip()) for text in table[name]]
        if None in found:
            bad = found.index(None)
            raise DatasetError(
                f"{path}: line {table.index[bad]} has the {name} {table[name].iloc[bad]!r}, wanted a time such as "
                "00:01:02.34; frame numbers cannot stand in for it, since no table says at what rate they count: "
                "correct the line, or use the files of the official release"
            )
        table[name] = [int(of[1]) * 3600 + int(of[2]) * 60 + float(of[3]) for of in found]
    return table


def _keys(path: Path) -> dict[int, str]:
    table = _table(path, ["id", "key"], ["id"])
    for name in ("id", "key"):
        _expect_once(path, table, name)
    return dict(zip(table["id"].astype(int), table["key"], strict=True))


def _expect_once(path: Path, table: "pd.DataFrame", name: str) -> None:
    if len(again := table[table[name].duplicated()]):
        raise DatasetError(
            f"{path}: line {again.index[0]} has the {name} {str(again[name].iloc[0])!r}, which an earlier line has "
            "too; remove one of the two, or download it again"
        )


def _table(path: Path, columns: list[str], numbers: list[str]) -> "pd.DataFrame":
    """The named columns of a csv file, `numbers` as such, the others as text; the index is the number of the line."""
    import pandas as pd

    lines = dict(table_lines(path, columns, "use the files of the official release", "download it again"))
    table = pd.DataFrame(lines.values(), lines, columns, dtype=object)
    for name in numbers:
        values = pd.to_numeric(table[name], errors="coerce")
        bad = table[~((values >= 0) & (values < np.inf))]
        if len(bad):
            raise DatasetError(f"{path}: line {bad.index[0]} has the {name} {bad[name].iloc[0]!r}, wanted a number")
        table[name] = values
    return table


def _file(dataset: Dataset, name: str) -> Path:
    return required(dataset, dataset.labels, f"EPIC_100_{name}.csv")
