"""What a manifest says about its data set, as a JSON-able summary; `quality_page` makes it Markdown. Opens no file."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from pipeline.datasets.manifest import classes
from pipeline.datasets.map_files import MapFinding
from pipeline.datasets.splits import usual
from pipeline.datasets.twins import SHOWN, as_read, confusable

SIZES_SHOWN = 10
NOUNS = {"video": "videos", "image": "pictures", "text": "texts"}
LENGTH_STEPS = (1, 5, 25)  # frames by which labels and video differ, as the report counts them
# What maps are divided by but for floats, whose unit may be anything; a map that stays below FAINT_MAP deserves a look.
UNITS = tuple(2**bits - 1 for bits in (1, 8, 10, 12, 14, 16))
FAINT_MAP = 0.1


def summarise(frame: pd.DataFrame, kind: str, attrs: Mapping[str, Any], details: Mapping[str, str]) -> dict[str, Any]:
    """The quality report of a manifest; equal content gives an equal report.

    Args:
        frame: a manifest.
        kind: "video", "image" or "text": what a sample is.
        attrs: what the annotations tell beside their rows. Of videos `listed_twice`, [sample, split that counts, split
            ignored] of each id that they repeat, `notes` on labels of frames and `label_fps` (None: one a frame); of
            pictures `ignored`, {suffix: count} of the files that are none; of both `maps`, what was found in each map.
        details: a sentence for the samples that are not ok.

    Returns:
        Of every kind `kind`, `samples`, `ok`, `splits` {split: {status: count}}; `not_ok` {reason: {count, samples:
        [{sample, detail}]}}; where there are maps or patients, `maps`; where names may be mistaken, `alike` and
        `unseen`. Of videos and pictures `same_content`,
        `unlabelled` {split: count}, `classes`, and over the ok samples `sizes`, `codecs`, `bytes`. Of videos also
        `listed_twice`, `duration` (s), `fps` and `frames`, and where frames have labels, `labels`
        instead of `classes`, with `lengths` in it where there are videos too; of pictures `width`, `height`,
        `file_bytes` and `ignored`; of texts `characters` and `words`. Of lists of one's own what `_of_own` says.
    """
    ok = frame[frame["status"] == "ok"]
    report = {
        "kind": kind,
        "samples": len(frame),
        "ok": len(ok),
        "splits": {split: _counts(rows["status"]) for split, rows in frame.groupby("split", sort=False)},
        "not_ok": _not_ok(frame, details),
        **_of_maps(frame, attrs.get("maps", {})),
        **_of_names(frame, kind),
    }
    return report | {"video": _of_videos, "image": _of_pictures, "text": _of_texts}[kind](frame, ok, attrs)


def _of_videos(frame: pd.DataFrame, ok: pd.DataFrame, attrs: Mapping[str, Any]) -> dict[str, Any]:
    twice = attrs["listed_twice"]
    if "classes" in frame.attrs:
        asked = {"labels": _of_labels(frame, attrs["notes"]) | _of_lengths(ok, attrs["label_fps"])}
    else:
        asked = {"classes": _classes(frame) | _absences(frame)}
    lasts = (ok["stop"] - ok["start"]).astype("Float64").fillna(ok["duration"].astype("Float64"))
    return _of_files(frame, ok) | {
        "same_content": _same_content(ok, "split"),
        **asked,
        "listed_twice": {"count": len(twice), "samples": [list(item) for item in twice[:SHOWN]]},
        "duration": _spread(lasts) | {"hours": round(float(lasts.sum()) / 3600, 3)},
        "fps": _spread(ok["fps"]),
        "frames": _spread(ok["frames"].where(ok["start"].isna() & ok["stop"].isna(), (lasts * ok["fps"]).round())),
        **_of_own(frame, attrs),
    }


def _of_own(frame: pd.DataFrame, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What only lists of one's own have, each where it is there.

    `clips`: how many, of how many videos, and how many of those lie in several splits; `groups`: how many a split has;
    `targets`: the spread of each number; `drawn`: of each split that was drawn, the classes that it lacks; `ignored`:
    {suffix: count} of files that are no samples.
    """
    found: dict[str, Any] = {}
    splits = {split: rows for split, rows in frame.groupby("split", sort=False)}
    if len(clips := frame[frame["start"].notna()]):
        shared = clips.groupby("path")["split"].nunique()
        found["clips"] = {"count": len(clips), "videos": len(shared), "across_splits": int((shared > 1).sum())}
    if frame["group"].notna().any():
        found["groups"] = {split: rows["group"].nunique() for split, rows in splits.items()}
    if len(numbers := frame["target"].dropna()):
        spreads = [_spread(pd.Series(values)) for values in zip(*numbers, strict=True)]
        found["targets"] = dict(zip(frame.attrs["targets"], spreads, strict=True))
    if attrs.get("drawn"):
        names = set(classes(frame))
        found["drawn"] = {split: sorted(names - set(_labels(rows))) for split, rows in splits.items()}
    if ignored := attrs["ignored"]:
        found["ignored"] = _ignored(ignored)
    return found


def _ignored(found: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:SHOWN])


def _labels(frame: pd.DataFrame) -> pd.Series:
    """The classes of all samples, one after the other: of one that is of several, each of them."""
    return pd.concat([frame["label"].dropna(), frame["labels"].dropna().explode().dropna()])


def _of_pictures(frame: pd.DataFrame, ok: pd.DataFrame, attrs: Mapping[str, Any]) -> dict[str, Any]:
    return _of_files(frame, ok) | {
        "same_content": _same_content(ok, "label"),
        "classes": _classes(frame),
        "width": _spread(ok["width"]),
        "height": _spread(ok["height"]),
        "file_bytes": _spread(ok["bytes"]),
        "ignored": _ignored(attrs["ignored"]),
    }


def _of_texts(_: pd.DataFrame, ok: pd.DataFrame, __: Mapping[str, Any]) -> dict[str, Any]:
    texts = ok["sample"].astype(str)
    return {"characters": _spread(texts.str.len()), "words": _spread(texts.str.split().str.len())}


def _of_names(frame: pd.DataFrame, kind: str) -> dict[str, Any]:
    """`alike` and `unseen`: see `twins.confusable`. Of texts, what CLIP's tokenizer reads decides."""
    if kind == "text":
        return confusable({"texts": frame["sample"]}, as_read)
    named = {"samples": frame["sample"], "classes": frame.attrs.get("classes", _labels(frame))}
    return confusable(named | {f"{column}s": frame[column].dropna() for column in ("patient", "clinician", "group")})


def _of_files(frame: pd.DataFrame, ok: pd.DataFrame) -> dict[str, Any]:
    return {
        "unlabelled": {
            split: int(rows[["label", "segments", "labels", "target"]].isna().all(axis=1).sum())
            for split, rows in frame.groupby("split", sort=False)
        },
        "sizes": _counts((ok["width"].astype("string") + "x" + ok["height"].astype("string")).dropna(), SIZES_SHOWN),
        "codecs": _counts(ok["codec"]),
        "bytes": int(frame["bytes"].sum()),
    }


def _of_labels(frame: pd.DataFrame, notes: Mapping[str, Any]) -> dict[str, Any]:
    """How many frames and segments have labels, in all and by class, and which videos have none."""
    labelled, without = frame.dropna(subset=["segments"]), frame[frame["segments"].isna()]
    runs = pd.DataFrame(
        [
            (row.sample, segment["label"], segment["frames"])
            for row in labelled[["sample", "segments"]].itertuples(index=False)
            for segment in row.segments
        ],
        columns=["sample", "label", "frames"],
    )
    by_class = runs.groupby("label").agg(
        frames=("frames", "sum"), segments=("frames", "size"), videos=("sample", "nunique")
    )
    counts = by_class.reindex(frame.attrs["classes"], fill_value=0)
    listed = frame.attrs["class_lists"]
    return {
        "videos": len(labelled),
        "without": {"count": len(without), "samples": without["sample"].head(SHOWN).tolist()},
        "frames": int(runs["frames"].sum()),
        "segments": len(runs),
        "frames_a_video": _spread(runs.groupby("sample")["frames"].sum()),
        "segments_a_video": _spread(runs.groupby("sample").size()),
        "classes": {name: {key: int(value) for key, value in row.items()} for name, row in counts.T.items()},
        "never": counts.index[counts["segments"] == 0].tolist(),
        "lists": {name: {"classes": len(names)} | _sums(counts.loc[names]) for name, names in listed.items()},
        **notes,
    }


def _of_lengths(ok: pd.DataFrame, label_fps: float | None) -> dict[str, Any]:
    """`lengths`: labels of each video less the labels that it has time for, and the videos whose frames have no rate
    though the labels may count them; nothing where no video has both."""
    both = ok.dropna(subset=["segments", "frames"])
    if both.empty:
        return {}
    labels = both["segments"].map(lambda runs: sum(run["frames"] for run in runs)).astype(int)
    wanted = both["frames"] if label_fps is None else (both["duration"] * label_fps).round()
    table = pd.DataFrame({"sample": both["sample"], "labels": labels, "video": wanted.astype(int)})
    table["difference"] = table["labels"] - table["video"]
    size = table["difference"].abs()
    worst = table[size > 0].sort_values("difference", key=abs, ascending=False, kind="stable").head(SHOWN)
    bounds = [0, *LENGTH_STEPS, float("inf")]
    names = ["0", *(f"up to {step}" for step in LENGTH_STEPS), f"over {LENGTH_STEPS[-1]}"]
    counts = [int((size == 0).sum())]
    counts += [int(((size > low) & (size <= high)).sum()) for low, high in pairwise(bounds)]
    return {
        "lengths": {
            "videos": len(table),
            "differences": dict(zip(names, counts, strict=True)),
            "worst": worst.to_dict("records"),
            "uneven": _uneven(both, labels, label_fps),
        }
    }


def _uneven(both: pd.DataFrame, labels: pd.Series, label_fps: float | None) -> dict[str, Any]:
    """Videos with about as many labels as frames, some of them shown more than a label's time from an even rate."""
    a_label = 1 / label_fps if label_fps else both["duration"] / both["frames"]
    counted = (labels - both["frames"]).abs() <= 0.01 * both["frames"] + 1
    found = both[counted & (both["uneven"].fillna(0) > a_label)]
    samples = [{"sample": row.sample, "seconds": float(row.uneven)} for row in found.head(SHOWN).itertuples()]
    return {"count": len(found), "samples": samples}


def _of_maps(frame: pd.DataFrame, found: Mapping[str, MapFinding]) -> dict[str, Any]:
    """`maps`: how many samples have one, by split and clinician, which cannot be read, and how many patients; or {}.

    Of those that can be read the `units` {what their numbers are divided by: how many}, where floats that are divided
    by their own largest count as one; `largest`, the spread of each map's largest number in its unit; which are
    `faint`, below FAINT_MAP everywhere, and `refused`, with the reason.
    """
    if frame["map"].isna().all() and frame["patient"].isna().all():
        return {}
    unreadable = frame.loc[frame["map_digest"] == "", "sample"]
    splits = {split: rows for split, rows in frame.groupby("split", sort=False)}
    refused = {path: of.refused for path, of in found.items() if of.refused}
    maps = {path: of for path, of in found.items() if not of.refused}
    largest = pd.Series({path: of.largest / of.unit for path, of in maps.items()}, dtype=float)
    faint = largest[largest < FAINT_MAP]
    return {
        "maps": {
            "units": _counts(pd.Series([_unit_name(of) for of in maps.values()], dtype=object)),
            "largest": _spread(largest),
            "faint": {"count": len(faint), "maps": faint.index[:SHOWN].tolist()},
            "refused": {"count": len(refused), "maps": [list(item) for item in list(refused.items())[:SHOWN]]},
            "with": {split: int(rows["map"].notna().sum()) for split, rows in splits.items()},
            "without": {split: int(rows["map"].isna().sum()) for split, rows in splits.items()},
            "distinct": frame["map_digest"].replace("", None).nunique(),
            "unreadable": {"count": len(unreadable), "samples": unreadable.head(SHOWN).tolist()},
            "patients": {split: rows["patient"].nunique() for split, rows in splits.items()},
            "clinicians": _counts(frame["clinician"]),
        }
    }


def _unit_name(found: MapFinding) -> str:
    return f"{found.unit:g}" if found.unit.is_integer() and found.unit in UNITS else "its largest"


def _sums(counts: pd.DataFrame) -> dict[str, int]:
    return {name: int(counts[name].sum()) for name in ("frames", "segments")}


def _not_ok(frame: pd.DataFrame, details: Mapping[str, str]) -> dict[str, Any]:
    failed = frame[frame["status"] != "ok"]
    return {
        reason: {
            "count": len(rows),
            "samples": [{"sample": s, "detail": details[s]} for s in rows["sample"].head(SHOWN)],
        }
        for reason, rows in failed.groupby("status")
    }


def _same_content(ok: pd.DataFrame, across: str) -> dict[str, Any]:
    """Files that are byte for byte equal under different names, and how many groups of them are not of one `across`.

    Several samples of one file count as one. Across splits they leak from train into evaluation; across labels at least
    one is labelled wrongly.
    """
    ok = ok[ok["path"].isna() | ~ok["path"].duplicated()]
    ok = ok.assign(digest=ok["file_digest"].fillna(ok["digest"]))
    shown = ok["split"] + "/" + ok["sample"] if across == "split" else ok["sample"]
    repeated = ok.assign(shown=shown)[ok["digest"].duplicated(keep=False)]
    groups = repeated.groupby("digest", sort=False)
    samples = [repeated.loc[repeated["digest"] == digest, "shown"] for digest in repeated["digest"].unique()[:SHOWN]]
    return {
        "count": groups.ngroups,
        f"across_{across}s": int((groups[across].nunique() > 1).sum()),
        "groups": [{"count": len(group), "samples": group.head(SHOWN).tolist()} for group in samples],
    }


def _classes(frame: pd.DataFrame) -> dict[str, Any]:
    labelled = frame[frame["label"].notna() | frame["labels"].notna()]
    return {
        "count": _labels(labelled).nunique(),
        "counts": {split: _counts(_labels(rows)) for split, rows in labelled.groupby("split", sort=False)},
    }


def _absences(frame: pd.DataFrame) -> dict[str, list[str]]:
    """`not_in_<split>`: of each split beside train, the classes of train that it lacks; `not_in_train`: those of the
    others that train lacks. Splits without a label, and sets without a split train, say nothing."""
    labels = {split: of for split, rows in frame.groupby("split") if (of := set(_labels(rows)))}
    named = sorted((split for split in labels if usual(split) == "train"), key=lambda split: split != "train")
    if not named:
        return {}
    train = labels.pop(named[0])
    lacking = {f"not_in_{split}": sorted(train - of) for split, of in labels.items()}
    return lacking | {"not_in_train": sorted(set().union(*labels.values()) - train)}


def _counts(values: pd.Series, most: int | None = None) -> dict[str, int]:
    """How often each value occurs, the most frequent first, ties in alphabetical order."""
    counted = sorted(values.value_counts().items(), key=lambda item: (-item[1], item[0]))
    return {str(value): int(count) for value, count in counted[:most]}


def _spread(values: pd.Series) -> dict[str, float | None]:
    present = values.dropna().astype(float)
    names = {"min": 0.0, "median": 0.5, "max": 1.0}
    return {name: round(float(present.quantile(q)), 3) if len(present) else None for name, q in names.items()}
