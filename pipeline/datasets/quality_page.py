"""The quality report of a data set as Markdown, made of its summary. Opens no file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.datasets.quality import FAINT_MAP, NOUNS
from pipeline.datasets.twins import SHOWN, confusable_lines
from pipeline.markdown import escaped, table

LABEL_SPREADS = ("frames_a_video", "segments_a_video")
SPREADS = ("duration", "fps", "frames", "width", "height", "file_bytes", "characters", "words")


def quality_markdown(quality: Mapping[str, Any]) -> str:
    """The report as Markdown: what is there, what is not, and what deserves a look."""
    noun = NOUNS[quality["kind"]]
    parts = [f"# Data set: {quality['ok']} of {quality['samples']} {noun} ok", _split_table(quality)]
    spreads = {name: quality[name] for name in SPREADS if name in quality}
    if "labels" in quality:
        spreads |= {f"labelled {name.split('_')[0]}": quality["labels"][name] for name in LABEL_SPREADS}
    parts.append(
        _table(
            [f"of the ok {noun}", "min", "median", "max"],
            [
                [name, *("–" if spread[q] is None else spread[q] for q in ("min", "median", "max"))]
                for name, spread in spreads.items()
            ],
        )
    )
    lines = {"video": _video_lines, "image": _picture_lines, "text": lambda _: []}[quality["kind"]](quality)
    lines += _map_lines(quality["maps"]) if "maps" in quality else []
    lines += [line for store, found in quality.get("imported", {}).items() for line in _imported_lines(store, found)]
    lines += confusable_lines(quality)
    if lines:
        parts.append("\n".join(f"- {line}" for line in lines))
    if "labels" in quality:
        rows = [[name, *counts.values()] for name, counts in quality["labels"]["classes"].items()]
        parts.append(f"## Labels of frames\n\n{_table(['class', 'frames', 'segments', 'videos'], rows)}")
        parts += _length_tables(quality["labels"].get("lengths"))
    for reason, found in quality["not_ok"].items():
        rows = [[item["sample"], item["detail"]] for item in found["samples"]]
        head = f"## {reason}: {found['count']}" + (f", the first {len(rows)}" if len(rows) < found["count"] else "")
        parts.append(f"{head}\n\n{_table(['sample', 'detail'], rows)}")
    return "\n\n".join(parts) + "\n"


def _length_tables(lengths: Mapping[str, Any] | None) -> list[str]:
    if lengths is None:
        return []
    tables = [_table(["differ by", "videos"], list(lengths["differences"].items()))]
    if lengths["worst"]:
        head = ["sample", "labels", "video", "difference"]
        tables.append(_table(head, [[row[name] for name in head] for row in lengths["worst"]]))
    if lengths["uneven"]["count"]:
        named = "".join(
            f"; {escaped(of['sample'])} by up to {of['seconds']:.2f} s" for of in lengths["uneven"]["samples"]
        )
        tables.append(
            f"{lengths['uneven']['count']} have as many labels as frames, but show their frames for unequal times"
            f"{named}. Labels that count frames have no rate there: they do not fit rows a second."
        )
    return ["\n\n".join([f"## Frames of labels less those of the video: {lengths['videos']} videos", *tables])]


def _split_table(quality: Mapping[str, Any]) -> str:
    statuses = ["ok", *quality["not_ok"]]
    head, rows = ["split", "samples", *statuses], []
    for split, counts in quality["splits"].items():
        rows.append([split, sum(counts.values()), *(counts.get(status, 0) for status in statuses)])
    if "unlabelled" in quality:
        head.append("unlabelled")
        rows = [[*row, quality["unlabelled"][row[0]]] for row in rows]
    return _table(head, rows)


def _video_lines(quality: Mapping[str, Any]) -> list[str]:
    same, twice = quality["same_content"], quality["listed_twice"]
    shown = [map(escaped, of) for of in twice["samples"]]
    return [
        f"{quality['duration']['hours']} hours, {quality['bytes'] / 1e9:.2f} GB.",
        "Codecs: " + _listing(quality["codecs"]) + ". Sizes: " + _listing(quality["sizes"]) + ".",
        *(_label_lines(quality["labels"]) if "labels" in quality else _class_lines(quality["classes"])),
        f"Same content under different ids: {same['count']} groups, {same['across_splits']} of them across splits"
        + _repeated(same),
        f"Ids listed twice: {twice['count']}"
        + "".join(
            f"; {sample} in {kept}" if kept == ignored else f"; {sample} counts for {kept}, not for {ignored}"
            for sample, kept, ignored in shown
        )
        + ".",
        *_own_lines(quality),
    ]


def _own_lines(quality: Mapping[str, Any]) -> list[str]:
    lines = []
    if clips := quality.get("clips"):
        lines.append(
            f"Clips within longer videos: {clips['count']}, of {clips['videos']} videos, of which "
            f"{clips['across_splits']} have clips in several splits."
        )
    if groups := quality.get("groups"):
        lines.append(f"Groups, none of which is in two splits: {_listing(groups)}.")
    for name, spread in quality.get("targets", {}).items():
        lines.append(f"Target {escaped(name)}: {spread['min']} to {spread['max']}, median {spread['median']}.")
    for split, absent in quality.get("drawn", {}).items():
        named = f"{len(absent)} classes{_named(absent[:SHOWN])}; another seed draws otherwise" if absent else "no class"
        lines.append(f"The drawn split {escaped(split)} lacks {named}.")
    if ignored := quality.get("ignored"):
        lines.append(f"Files passed over: {_listing(ignored)}.")
    return lines


def _class_lines(classes: Mapping[str, Any]) -> list[str]:
    absent = {key.removeprefix("not_in_"): names for key, names in classes.items() if key.startswith("not_in_")}
    unlearned = absent.pop("train", None)
    said = [f"in train but not in {escaped(split)} {len(names)}" for split, names in absent.items()]
    if unlearned is not None:
        said.append(f"in another split but not in train {len(unlearned)}{_named(unlearned[:SHOWN])}")
    return [f"Classes: {classes['count']}{'; ' if said else ''}{', '.join(said)}."]


def _label_lines(labels: Mapping[str, Any]) -> list[str]:
    without = labels["without"]
    lines = [
        f"Labels: {labels['frames']} frames in {labels['segments']} segments of {labels['videos']} videos.",
        f"Videos without labels: {without['count']}" + _named(without["samples"]) + ".",
        f"Classes: {len(labels['classes'])}; without a frame {', '.join(map(escaped, labels['never'])) or 'none'}.",
    ]
    lines += [
        f"List {name}: {found['classes']} classes, {found['frames']} frames in {found['segments']} segments."
        for name, found in labels["lists"].items()
    ]
    if "frames_of_several_actions" in labels:
        lines.append(
            f"Actions overlap on {labels['frames_of_several_actions']} frames; {labels['actions_without_a_frame']} are "
            "left without one."
        )
    return lines


def _picture_lines(quality: Mapping[str, Any]) -> list[str]:
    same, counts = quality["same_content"], quality["classes"]["counts"]
    sizes = [count for labels in counts.values() for count in labels.values()]
    per_class = f", of {min(sizes)} to {max(sizes)} pictures" if sizes else ""
    return [
        f"{quality['bytes'] / 1e9:.2f} GB. Formats: {_listing(quality['codecs'])}. "
        f"Sizes: {_listing(quality['sizes'])}.",
        f"Classes: {quality['classes']['count']}{per_class}.",
        f"Same content under different ids: {same['count']} groups, {same['across_labels']} of them across labels"
        + _repeated(same),
        "Files passed over, since their names are not those of pictures: " + _listing(quality["ignored"]) + ".",
    ]


def _map_lines(maps: Mapping[str, Any]) -> list[str]:
    bad = maps["unreadable"]
    return [
        f"Samples with a map: {_listing(maps['with'])}; without: {_listing(maps['without'])}; {maps['distinct']} "
        "different maps.",
        f"Maps that cannot be read: {bad['count']}" + _named(bad["samples"]) + ".",
        f"Their numbers are divided by: {_listing(maps['units'])}; the largest of each is then "
        f"{maps['largest']['min']} to {maps['largest']['max']}, median {maps['largest']['median']}.",
        f"Maps that stay below {FAINT_MAP} everywhere, of which the unit may be wrong or which are empty: "
        f"{maps['faint']['count']}" + _named(maps["faint"]["maps"]) + ".",
        f"Maps that are refused: {maps['refused']['count']}"
        + "".join(f"; {escaped(f'{path} {why}')}" for path, why in maps["refused"]["maps"])
        + ".",
        f"Patients: {_listing(maps['patients'])}. Samples of each clinician: {_listing(maps['clinicians'])}.",
    ]


def _imported_lines(store: str, found: Mapping[str, Any]) -> list[str]:
    without, unclaimed = found["without"], found["unclaimed"]
    return [
        f"Imported {escaped(store)}: {found['with']} samples have features.",
        f"Samples without features: {without['count']}{_named(without['names'])}.",
        f"Features of no sample: {unclaimed['count']}{_named(unclaimed['names'])}.",
        *([f"What cannot be read: {escaped(found['damage'])}."] if found["damage"] else []),
    ]


def _named(names: Iterable[str]) -> str:
    return "".join(f", {escaped(name)}" for name in names)


def _repeated(same: Mapping[str, Any]) -> str:
    return (
        "".join(f"; {group['count']} times: {', '.join(map(escaped, group['samples']))}" for group in same["groups"])
        + "."
    )


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{escaped(name)} ({count})" for name, count in counts.items()) or "none"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    return table([escaped(name) for name in head], [[escaped(cell) for cell in row] for row in rows])
