"""What a manifest says about its data set, for people: a JSON-able summary and its Markdown. Opens no file."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

SHOWN = 20  # samples named in each list; the counts are always complete
SIZES_SHOWN = 10


def summarise(frame: pd.DataFrame, listed_twice: Sequence[Sequence[str]], details: Mapping[str, str]) -> dict[str, Any]:
    """The quality report of a manifest; equal content gives an equal report.

    Args:
        frame: a manifest.
        listed_twice: [sample, split that counts, split ignored] of the ids that the annotations repeat.
        details: a sentence for the samples that are not ok.

    Returns:
        `samples`, `ok`; `splits` {split: {status: count}}; `not_ok` {reason: {count, samples: [{sample, detail}]}};
        `same_content` and `listed_twice`; `unlabelled` {split: count}; `classes`; and over the ok samples `duration`
        (s), `fps`, `frames`, `sizes`, `codecs`, `decord_exact`, `bytes`.
    """
    ok = frame[frame["status"] == "ok"]
    return {
        "samples": len(frame),
        "ok": len(ok),
        "splits": {split: _counts(rows["status"]) for split, rows in frame.groupby("split", sort=False)},
        "not_ok": _not_ok(frame, details),
        "same_content": _same_content(ok),
        "listed_twice": {"count": len(listed_twice), "samples": [list(item) for item in listed_twice[:SHOWN]]},
        "unlabelled": {split: int(rows["label"].isna().sum()) for split, rows in frame.groupby("split", sort=False)},
        "classes": _classes(frame),
        "duration": _spread(ok["duration"]) | {"hours": round(float(ok["duration"].sum()) / 3600, 3)},
        "fps": _spread(ok["fps"]),
        "frames": _spread(ok["frames"]),
        "sizes": _counts(ok["width"].astype(str) + "x" + ok["height"].astype(str), SIZES_SHOWN),
        "codecs": _counts(ok["codec"]),
        "decord_exact": int(ok["decord_exact"].sum()),
        "bytes": int(frame["bytes"].sum()),
    }


def _not_ok(frame: pd.DataFrame, details: Mapping[str, str]) -> dict[str, Any]:
    failed = frame[frame["status"] != "ok"]
    return {
        reason: {
            "count": len(rows),
            "samples": [{"sample": s, "detail": details[s]} for s in rows["sample"].head(SHOWN)],
        }
        for reason, rows in failed.groupby("status")
    }


def _same_content(ok: pd.DataFrame) -> dict[str, Any]:
    """Files that are byte for byte equal under different ids; across splits they leak from train into evaluation."""
    repeated = ok[ok["digest"].duplicated(keep=False)]
    groups = [rows for _, rows in repeated.groupby("digest", sort=False)]
    return {
        "count": len(groups),
        "across_splits": sum(rows["split"].nunique() > 1 for rows in groups),
        "groups": [
            {"count": len(rows), "samples": (rows["split"] + "/" + rows["sample"]).head(SHOWN).tolist()}
            for rows in groups[:SHOWN]
        ],
    }


def _classes(frame: pd.DataFrame) -> dict[str, Any]:
    labelled = frame.dropna(subset=["label"])
    counts = {split: _counts(rows["label"]) for split, rows in labelled.groupby("split", sort=False)}
    train, validation = set(counts.get("train", ())), set(counts.get("validation", ()))
    return {
        "count": labelled["label"].nunique(),
        "not_in_validation": sorted(train - validation),
        "not_in_train": sorted(validation - train),
        "counts": counts,
    }


def _counts(values: pd.Series, most: int | None = None) -> dict[str, int]:
    """How often each value occurs, the most frequent first, ties in alphabetical order."""
    counted = sorted(values.value_counts().items(), key=lambda item: (-item[1], item[0]))
    return {str(value): int(count) for value, count in counted[:most]}


def _spread(values: pd.Series) -> dict[str, float | None]:
    present = values.dropna().astype(float)
    names = {"min": 0.0, "median": 0.5, "max": 1.0}
    return {name: round(float(present.quantile(q)), 3) if len(present) else None for name, q in names.items()}


def quality_markdown(quality: Mapping[str, Any]) -> str:
    """The report as Markdown: what is there, what is not, and what deserves a look."""
    statuses = ["ok", *quality["not_ok"]]
    parts = [f"# Data set: {quality['ok']} of {quality['samples']} videos ok"]
    parts.append(
        _table(
            ["split", "samples", *statuses, "unlabelled"],
            [
                [split, sum(counts.values()), *(counts.get(s, 0) for s in statuses), quality["unlabelled"][split]]
                for split, counts in quality["splits"].items()
            ],
        )
    )
    parts.append(
        _table(
            ["of the ok videos", "min", "median", "max"],
            [[name, *(quality[name][q] for q in ("min", "median", "max"))] for name in ("duration", "fps", "frames")],
        )
    )
    parts.append(_facts(quality))
    for reason, found in quality["not_ok"].items():
        rows = [[item["sample"], item["detail"]] for item in found["samples"]]
        head = f"## {reason}: {found['count']}" + (f", the first {len(rows)}" if len(rows) < found["count"] else "")
        parts.append(f"{head}\n\n{_table(['sample', 'detail'], rows)}")
    return "\n\n".join(parts) + "\n"


def _facts(quality: Mapping[str, Any]) -> str:
    same, twice, classes = quality["same_content"], quality["listed_twice"], quality["classes"]
    lines = [
        f"{quality['duration']['hours']} hours, {quality['bytes'] / 1e9:.2f} GB; "
        f"decord is exact on {quality['decord_exact']}.",
        "Codecs: " + _listing(quality["codecs"]) + ". Sizes: " + _listing(quality["sizes"]) + ".",
        f"Classes: {classes['count']}; in train but not in validation {len(classes['not_in_validation'])}, "
        f"in validation but not in train {len(classes['not_in_train'])}.",
        f"Same content under different ids: {same['count']} groups, {same['across_splits']} of them across splits"
        + "".join(f"; {group['count']} times: {', '.join(group['samples'])}" for group in same["groups"])
        + ".",
        f"Ids listed twice: {twice['count']}"
        + "".join(f"; {sample} counts for {kept}, not for {ignored}" for sample, kept, ignored in twice["samples"])
        + ".",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
