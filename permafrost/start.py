"""`permafrost init`: looks at a folder or a table of videos, and writes the params file that learns from them."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import projects
from pipeline.config import ParamsError, parse_params
from pipeline.config.documents import read_yaml
from pipeline.datasets import DatasetError, read_annotations
from pipeline.datasets.layouts.images import SUFFIXES as PICTURES
from pipeline.datasets.layouts.videos import TAKEN
from pipeline.datasets.listings import FORMS, read_listing
from pipeline.datasets.splits import ALL, usual
from pipeline.features_only.presets import MINI, SHIPPED, Choice, choose
from pipeline.plugins import PluginError

# Of a head that stops early by a split of its own; others hold a part of train out, and read no val.
WITH_VAL, WITHOUT = {"train": 0.8, "val": 0.1, "test": 0.1}, {"train": 0.8, "test": 0.2}
# Of a small set, a draw may leave a split or a class nearly empty: the first seed is taken that comes near to shares.
SMALL, SEEDS, EVEN = 2000, 100, 0.6
LOOKED_AT = 200  # rows of a table whose files decide where files lie
# Column names that are common, by role, in lower case; the first that a table has is taken.
COMMON: Mapping[str, Sequence[str]] = {
    "path": ("path", "file", "filepath", "file_path", "filename", "file_name", "video_path", "video", "recording",
             "clip", "image", "image_path"),
    "id": ("id", "sample", "sample_id", "clip_id", "video_id", "uid"),
    "label": ("label", "class", "class_name", "category", "action", "activity", "label_name", "y"),
    "labels": ("labels", "classes", "tags", "categories", "actions"),
    "target": ("target", "score", "value"),
    "split": ("split", "subset", "set", "partition", "fold_name"),
    "start": ("start", "start_time", "time_start", "begin", "start_seconds", "start_sec"),
    "stop": ("stop", "end", "end_time", "time_end", "stop_time", "end_seconds", "end_sec", "stop_seconds", "stop_sec"),
    "group": ("group", "subject", "participant", "patient", "person", "actor", "scene", "session"),
}  # fmt: skip
FRAMES = {"start": ("start_frame", "frame_start", "first_frame"), "stop": ("stop_frame", "end_frame", "frame_end")}
HEADLINE = {"label": "top1", "labels": "map", "target": "r2"}


class StartError(ValueError):
    """What was pointed at cannot be learned from as it is; the message gives the remedy."""


@dataclass(frozen=True)
class Start:
    """A params file for somebody's own videos.

    Attributes:
        text: YAML, at most 40 lines.
        said: lines on what was found.
        warnings: what everybody should know who uses the results.
        command: what makes the result, or the features where there is nothing to learn.
    """

    text: str
    said: tuple[str, ...]
    warnings: tuple[str, ...]
    command: str


def start(
    place: Path,
    name: str,
    out: Path,
    backbones: Mapping[str, str] | None = None,
    kind: str = "probe",
    allow_links: bool = False,
) -> Start:
    """Looks at a folder of videos and pictures, or a table of them, and says how params describe it. Writes nothing.

    Args:
        place: the folder; or a CSV, TSV, Parquet or JSON-lines file with a row a sample.
        name: of the data set; the result is called after it.
        out: where the params file will lie: the command names it.
        backbones: name -> weights, as `permafrost extract --weights` takes them. By default shipped mini ones.
        kind: of the head that learns from all features.
        allow_links: whether links may lead out of the folder.

    Raises:
        StartError: there is nothing that is read, or a table whose columns say nothing known.
        DatasetError: the folder or table cannot be used: names the file, the row and the remedy.
        ParamsError: backbones or a head that do not fit, or a name that no data set can have.
    """
    place = Path(os.path.abspath(os.path.expanduser(place)))
    if not place.exists():
        raise StartError(f"{place} is not there; name a folder of videos or pictures, or a table of them")
    document, notes = _folder(place) if place.is_dir() else _table(place)
    document |= {"allow_links": True} if allow_links else {}
    document, found = _with_splits(document, shares_of(kind))
    films, pictures = _kinds(found)
    warnings: list[str] = []
    if backbones is None:
        backbones = dict.fromkeys(("dinov3", "clip") if pictures else ("dinov3", "r3d18"), MINI)
    chosen = [_feature(backbone, weights, pictures > 0) for backbone, weights in backbones.items()]
    for choice in chosen:
        warnings += choice.warnings
    features = {choice.name: _with_near_weights(choice.document) for choice in chosen}
    answer = next((role for role in HEADLINE if _answers(found, role)), None)
    answered = found if answer is None else found[found[answer].notna()]
    train, *others = (_split_of(answered, part) for part in ("train", "test", "val"))
    evaluated = next(filter(None, others), None)
    whole: dict[str, Any] = {"datasets": {name: document}, "features": features}
    nothing = _nothing_to_learn(answered, answer, train, evaluated, document)
    if answer is not None and len(answered) < len(found):
        notes.append(f"{len(found) - len(answered)} of {len(found)} samples have no {answer}")
    if nothing:
        if document.pop("split", None):  # drawn above
            found = _annotations(document)
        document["features"] = list(features)
        target = "features"
        notes.append(f"{nothing}: only features are extracted")
    else:
        target = f"results/{name}_{HEADLINE[answer]}.json"
        whole["heads"] = {kind: _head(kind, whole, name, f"{name}_{HEADLINE[answer]}", train, evaluated)}
    parse_params(whole, "what was found")
    here = Path("Snakefile").exists()
    flags = [
        "--cores 4",
        *([] if here else [f"--snakefile {projects.SNAKEFILE}"]),
        f"--configfile {shlex.quote(str(out))}",
    ]
    command = f"snakemake {' '.join(flags)} -- {target}"
    sizes = Counter(found["split"])
    said = (f"{films} videos and {pictures} pictures in {len(sizes)} splits: " + _counted(sizes), *notes)
    return Start(_written(whole, name, said, command, answer, bool(warnings)), said, tuple(warnings), command)


def _folder(place: Path) -> tuple[dict[str, Any], list[str]]:
    """The data set of a folder: with published lists where they lie in it."""
    document: dict[str, Any] = {"layout": "videos", "root": str(place)}
    lists = {
        "ucf101": lambda path: path.name == "trainlist01.txt",
        "hmdb51": lambda path: path.name.endswith("_test_split1.txt"),
        "kinetics": lambda path: path.suffix == ".csv" and "youtube_id" in _first_line(path),
    }
    candidates = [path for path in place.glob("*") if path.is_file()]
    candidates += [path for path in place.glob("*/*") if path.suffix in (".txt", ".csv") and path.is_file()]
    for form, is_list in lists.items():
        if found := next((path for path in sorted(candidates) if is_list(path)), None):
            folder = found.parent.relative_to(place).as_posix()
            document["lists"] = {"form": form} | ({} if folder == "." else {"folder": folder})
            return document, [f"splits as {found.parent} lists them ({form})"]
    return document, []


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline()


def _table(place: Path) -> tuple[dict[str, Any], list[str]]:
    """The data set of a table: its columns by their names, its files where most of the first rows' are."""
    if place.suffix.lower() not in FORMS:
        raise StartError(
            f"{place} is neither a folder nor a table that is read ({', '.join(FORMS)}); name one of these"
        )
    names: list[str] = []

    def all_of(found: list[str]) -> list[str]:
        names.extend(found)
        return []

    read_listing(place, all_of)
    columns = _columns(names, place)
    paths = [str(path) for path in read_listing(place, lambda _: [columns["path"]]).columns[columns["path"]]]
    if not paths:
        raise StartError(f"{place} lists nothing; write a row for each video")
    folder = _folder_of(place, paths)
    root = os.path.commonpath([place.parent, folder])
    document: dict[str, Any] = {"layout": "table", "root": root, "table": os.path.relpath(place, root)}
    if (videos := os.path.relpath(folder, root)) != ".":
        document["videos"] = videos
    # A column of its role's own name needs no word, but for what is learned, which params must know without the table.
    said = {role: of for role, of in columns.items() if role != of or role in ("label", "labels", "target")}
    document["columns"] = said
    return document, [f"columns: {', '.join(f'{of} is the {role}' for role, of in columns.items() if role != 'unit')}"]


def _columns(names: Sequence[str], place: Path) -> dict[str, str]:
    """Role -> column, by common names. Of one class, several classes and numbers, the first there is."""
    lower = {"_".join(re.split(r"[\s_-]+", name.strip().lower())): name for name in reversed(names)}
    found = {role: lower[one] for role, of in COMMON.items() if (one := next((n for n in of if n in lower), None))}
    if "start" not in found and "stop" not in found:
        frames = {role: lower[one] for role, of in FRAMES.items() if (one := next((n for n in of if n in lower), None))}
        found |= frames | ({"unit": "frames"} if frames else {})
    if "path" not in found:
        raise StartError(
            f"{place} has none of the columns {', '.join(COMMON['path'])}; its columns are {', '.join(names)[:200]}: "
            "rename the one with the files' paths to path"
        )
    answers = [role for role in HEADLINE if role in found]
    return {role: of for role, of in found.items() if role not in answers[1:]}


def _folder_of(place: Path, paths: Sequence[str]) -> str:
    """The folder that the paths of a table are relative to."""
    looked = paths[:LOOKED_AT]
    if all(os.path.isabs(path) for path in looked):  # relative ones further down are then relative to the same folder
        return os.path.commonpath([os.path.dirname(path) for path in paths if os.path.isabs(path)])
    beside = sorted(str(path) for path in place.parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    tried = list(dict.fromkeys([str(place.parent), *beside, os.getcwd()]))
    hits = {folder: sum(os.path.exists(os.path.join(folder, path)) for path in looked) for folder in tried}
    best = max(tried, key=lambda folder: hits[folder])
    if not hits[best]:
        raise StartError(
            f"{place}: none of its first {len(looked)} files is below {', '.join(tried[:5])}; the first is "
            f"{looked[0]!r}: move the table beside the folder that its paths are relative to"
        )
    return best


def shares_of(kind: str) -> dict[str, float]:
    """The shares of the splits that a kind of head reads. Raises ParamsError: there is no such kind."""
    from pipeline.config.heads import head_model

    try:
        return WITH_VAL if "holdout_split" in head_model(kind).model_fields else WITHOUT
    except PluginError as error:
        raise ParamsError(f"--head {error}") from None


def _with_splits(document: dict[str, Any], shares: Mapping[str, float]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Adds shares where there are no splits, with a seed that comes near to them; none where there is nothing to learn,
    or too few samples for a split each."""
    found = _annotations(document)
    if set(found["split"]) != {ALL} or not any(_answers(found, role) for role in HEADLINE):
        return document, found
    best, least = None, 0.0
    for seed in range(SEEDS if len(found) <= SMALL else 1):
        drawn = document | {"split": {**shares, **({"seed": seed} if seed else {})}}
        try:
            rows = _annotations(drawn)
        except DatasetError:  # a split without a sample, or a group in two spellings that is in two
            continue
        if (worth := _evenness(rows, shares)) > least or best is None:
            best, least = (drawn, rows), worth
        if worth >= EVEN:
            break
    return best or (document, found)


def _evenness(rows: pd.DataFrame, of: Mapping[str, float]) -> float:
    """How near drawn splits come to their shares: the least of found to expected, of all splits and classes."""
    shares = pd.Series(of)
    sizes = rows["split"].value_counts().reindex(shares.index, fill_value=0)
    worth = (sizes / (shares * len(rows))).clip(upper=1).min()
    if "label" in rows and rows["label"].notna().any():
        counts = (
            rows.groupby("label")["split"]
            .value_counts()
            .unstack(fill_value=0)
            .reindex(columns=shares.index, fill_value=0)
        )
        expected = counts.sum(axis=1).to_numpy()[:, None] * shares.to_numpy()
        enough = expected >= 1  # a class of few samples cannot be in each split
        worth = min(worth, (counts / expected).clip(upper=1).to_numpy()[enough].min(initial=1))
    return float(worth)


def _annotations(document: Mapping[str, Any]) -> pd.DataFrame:
    dataset = parse_params({"datasets": {"found": document}}, "what was found").datasets["found"]
    return read_annotations(dataset)


def _kinds(found: pd.DataFrame) -> tuple[int, int]:
    """How many videos and how many pictures."""
    suffixes = Counter(os.path.splitext(path)[1].lower() for path in found["path"])
    pictures = sum(count for suffix, count in suffixes.items() if suffix in PICTURES)
    if unread := sorted(suffix or "none" for suffix in suffixes if suffix not in TAKEN):
        raise StartError(
            f"files end in {', '.join(unread)}, and what is read ends in one of {', '.join(sorted(TAKEN))}; name those"
        )
    return suffixes.total() - pictures, pictures


def _feature(backbone: str, weights: str, pictures: bool) -> Choice:
    choice = choose(backbone, weights)
    frames = choice.document.get("sampling", {}).get("frames")
    return choose(backbone, weights, frames=1) if pictures and frames else choice


def _with_near_weights(document: Mapping[str, Any]) -> dict[str, Any]:
    """Shipped weights by their place in a project that has them."""
    near = dict(document)
    for role, of in document.items():
        if isinstance(of, Mapping) and str(of.get("path", "")).startswith(f"{SHIPPED}{os.sep}"):
            there = Path("weights", Path(of["path"]).name)
            near[role] = {"path": str(there) if there.exists() else of["path"]}
    return near


def _answers(found: pd.DataFrame, role: str) -> bool:
    return role in found and bool(found[role].notna().any())


def _split_of(rows: pd.DataFrame, part: str) -> str | None:
    """What the split train, val or test of some rows is called in their table."""
    names = [split for split in dict.fromkeys(rows["split"]) if usual(split) == part]
    return part if part in names else next(iter(names), None)


def _nothing_to_learn(
    found: pd.DataFrame, answer: str | None, train: str | None, evaluated: str | None, document: Mapping[str, Any]
) -> str:
    """Why no head can learn from samples with an answer, and what would change that; empty where one can."""
    if answer is None:
        remedy = (
            f"call its column {', '.join(COMMON['label'][:-1])}" if "table" in document else "make a folder a class"
        )
        return f"nothing says of which class a sample is ({remedy})"
    if train is None or evaluated is None:
        return (
            f"there is no split train with test or val beside it, of samples with a {answer} (write train_split and "
            "eval_split of a head yourself)"
        )
    sizes = found["label"][found["split"] == train].value_counts() if answer == "label" else ()
    if answer == "label" and len(sizes) < 2:
        return f"all samples of {train} are of one class"
    if answer == "label" and sizes.max() < 2:
        return f"no class has two samples in {train}, of which one is held out (write a head with probe: knn yourself)"
    return ""


def _head(kind: str, whole: Mapping[str, Any], dataset: str, result: str, train: str, evaluated: str) -> dict[str, Any]:
    """A head over all features; of a kind with named roles, the first way to give them that fits."""
    from pipeline.config.heads import head_model

    document = {"kind": kind, "dataset": dataset, "result": result, "eval_split": evaluated}
    document |= {} if train == "train" else {"train_split": train}
    names = list(whole["features"])
    if kind == "probe":
        return document | {"features": names}
    fields = getattr(head_model(kind).model_fields.get("features"), "annotation", None)
    roles = [role for role, field in getattr(fields, "model_fields", {}).items() if field.is_required()]
    failed = ParamsError(
        f"--head {kind} reads {', '.join(roles)}, and there are {len(names)} features: {', '.join(names)}"
    )
    for order in permutations(names, len(roles)):
        head = document | {"features": dict(zip(roles, order, strict=True))}
        try:
            parse_params({**whole, "heads": {kind: head}}, f"--head {kind}")
            return head
        except ParamsError as error:
            failed = error
    raise failed


def _counted(sizes: Counter) -> str:
    return ", ".join(f"{split} {count}" for split, count in sorted(sizes.items()))


def _written(
    whole: Mapping[str, Any], name: str, said: Sequence[str], command: str, answer: str | None, red: bool
) -> str:
    """The document with a comment on each line that a person may want to change."""
    lines = [f"# {name}, as `permafrost init` found it. Keys that are absent have defaults: docs/own-data.md."]
    lines += [f"# {line}" for line in said]
    lines += ["# Run it with:", f"#   {command}", "", "datasets:", f"  {name}:"]
    comments = {
        "split": "drawn once by a hash: a video that is added moves no other",
        "lists": "published splits; fold: 2 takes the second",
        "columns": "role: its column in the table",
        "features": "extracted by `snakemake features`",
    }
    lines += _fields(whole["datasets"][name], comments, "    ")
    lines += [
        "",
        "features:"
        + ("     # mini weights are for trying only, never for results: put real ones in their place" if red else ""),
    ]
    for feature, document in whole["features"].items():
        lines += [f"  {feature}:", *_fields(document, {}, "    ")]
    for kind, document in whole.get("heads", {}).items():
        of = {
            "result": "results/<this>.json",
            "eval_split": "what the result is about",
            "features": "one, or several side by side",
        } | ({"kind": "linear; probe: attentive or probe: knn are the others"} if kind == "probe" else {})
        lines += ["", "heads:", f"  {kind}:", *_fields(document, of, "    ")]
    text = "\n".join(lines) + "\n"
    assert read_yaml(text, "what was written") == json.loads(json.dumps(whole)), (
        "what was written reads as another document"
    )
    return text


def _fields(document: Mapping[str, Any], comments: Mapping[str, str], indent: str) -> list[str]:
    lines = [f"{indent}{key}: {_flow(value)}" for key, value in document.items()]
    width = max(map(len, (line for line, key in zip(lines, document, strict=True) if key in comments)), default=0)
    return [
        f"{line:{width}}   # {comments[key]}" if key in comments else line
        for line, key in zip(lines, document, strict=True)
    ]


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(of)}" for key, of in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return value if _plain(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _plain(text: str) -> bool:
    """Whether YAML reads a text without quotes as itself, in a mapping of one line too."""
    if not text or text != text.strip() or any(mark in text for mark in "{}[],:#&*!|>'\"%@`\n\\?"):
        return False
    try:
        return read_yaml(f"- {text}", "") == [text]
    except ParamsError:
        return False
