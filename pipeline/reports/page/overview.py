"""The top of the page: what came out, what it rests on, what is missing. Knows documents, no file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from pipeline.config import canonical_json, flat
from pipeline.reports.claims import FAILS, HOLDS, UNDECIDED, between
from pipeline.reports.numbers import with_deviation
from pipeline.reports.page.blocks import Cell, Listing, Note, Section, Table, Tiles, command
from pipeline.reports.page.gather import Found, Result
from pipeline.tasks import TASKS

DASH = "–"
TONES = {HOLDS: "good", FAILS: "bad"}


class Headline(NamedTuple):
    """A figure in percent, its 95 % interval where a result has one, and what guessing gives where that is known."""

    name: str
    value: float | None
    interval: Sequence[float] | None = None
    chance: float | None = None

    @property
    def said(self) -> str:
        return DASH if self.value is None else f"{self.value:.1f} %"

    @property
    def between(self) -> str:
        return f"{self.interval[0]:.1f} to {self.interval[1]:.1f}" if self.interval else DASH

    @property
    def guessed(self) -> str:
        return DASH if self.chance is None else f"{self.chance:.1f} %"

    @property
    def below(self) -> str:
        interval = [f"95 % interval {self.between}"] if self.interval else []
        return "; ".join([*interval, *([f"chance {self.guessed}"] if self.chance is not None else [])])


def headlines(task: str, result: Mapping[str, Any]) -> list[Headline]:
    """The figures that a kind of result is judged by, the first above all. Chance guesses among all classes alike."""
    return TASKS[task].code("headlines")(result, 100 / max(len(result.get("per_class", ())), 1))


def classification_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of a classifier; those of tokens in other orders where it reads more than a step."""
    top1, ece = ([100 * edge for edge in result[key]] for key in ("ci95", "ece_ci95"))
    found = [Headline("top-1", 100 * result["top1"], top1, chance)]
    if result["top5"] is not None:
        found.append(Headline("top-5", 100 * result["top5"], chance=5 * chance))
    found.append(Headline("calibration error", 100 * result["ece"], ece))
    orders = {"tokens_reversed": "read backwards", "tokens_shuffled": "shuffled in time"}
    said = ((f"top-1, cached tokens {way}", result.get(f"top1_{of}")) for of, way in orders.items())
    found += [Headline(name, 100 * value, chance=chance) for name, value in said if value is not None]
    return found + [
        Headline(f"top-1, {name.replace('_', ' ')}", 100 * of["top1"], [100 * edge for edge in of["ci95"]], chance)
        for name, of in result.get("elsewhere", {}).items()
    ]


def label_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of several labels a sample: guessing gives each class the precision of its share."""
    between = [100 * edge for edge in result["ci95"]]
    return [
        Headline("mAP", 100 * result["map"], between, 100 * result["chance"]),
        Headline("micro F1", 100 * result["f1"]),
    ]


def number_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of numbers: shares in percent; errors, which have units, stand in its section."""
    found = [("R²", "r2", "ci95"), ("Spearman", "spearman", "spearman_ci95")]
    return [
        Headline(name, _percent(result[key]), [100 * edge for edge in result[interval] or ()], 0.0)
        for name, key, interval in found
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def alignment_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of a diagnosis."""
    if "predicted" in result["retrieval"]:
        found = result["retrieval"]["predicted"]["video_to_map"]
        interval = (found["ci95"] or {}).get("r5") or ()
        retrieved = Headline("R@5 of its map, by the predicted one", found["r5"], interval, found["chance_r5"])
    else:
        found = result["retrieval"]["unguided"]["video_to_map"]
        retrieved = Headline("R@1 of its map, unguided", found["r1"], chance=found["chance_r1"])
    return [
        Headline("accuracy", result["accuracy"], result["ci95"], chance),
        Headline("accuracy without a map", result["accuracy_without_map"], result.get("ci95_without_map"), chance),
        Headline("macro F1", result["macro_f1"]),
        retrieved,
    ]


def ood_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of scores in and out of distribution."""
    sets = result["sets"].items()
    return [
        Headline("AUROC, mean of the sets", result["auroc"], chance=50.0),
        *(Headline(f"AUROC, {name}", of["negalign"]["auroc"], of["ci95"]["auroc"], 50.0) for name, of in sets),
        Headline("FPR95, mean of the sets", result["fpr95"], chance=95.0),
    ]


def segmentation_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of frames and segments."""
    names = {"acc": "frame accuracy", "edit": "edit score", "f1@10": "F1@10", "f1@25": "F1@25", "f1@50": "F1@50"}
    return _of_frames(names, result, chance)


def zeroshot_headlines(result: Mapping[str, Any], chance: float) -> list[Headline]:
    """Of seen and unseen classes, and those of frames and segments."""
    names = {"harmonic": "H", "seen": "S, seen classes", "unseen": "U, unseen classes", "ausuc": "AUSUC"}
    return [*_of_frames(names, result, chance), *segmentation_headlines(result, chance)]


def _of_frames(names: Mapping[str, str], result: Mapping[str, Any], chance: float) -> list[Headline]:
    guessed = {"acc": chance, "seen": chance, "unseen": chance, "harmonic": chance}
    return [Headline(name, result[key], result["ci95"].get(key), guessed.get(key)) for key, name in names.items()]


def tiles(result: Result) -> Tiles:
    """The headline figures of a result, with their intervals below."""
    found = headlines(result.task, result.document or {})
    return Tiles([(of.name, of.said, of.below) for of in found])


def summary(found: Found) -> Section:
    """A row a finished result; what is not made yet is at the end of the page."""
    finished = [result for result in found.results if result.document is not None]
    rows = [_row(result, found.mini) for result in finished]
    columns = [
        "result",
        "figure",
        "value",
        "95 % interval",
        "chance",
        "head",
        "evaluated",
        "failed",
        "skipped",
        "weights",
    ]
    caption = (
        "Each result's first figure; its section has the others. The interval is the middle 95 % of bootstrap "
        "resamples of the evaluated samples; chance is a guess among all classes alike. Failed samples have no "
        "feature; skipped ones belong to other splits."
    )
    lead = f"{len(finished)} of {len(found.results)} results are finished."
    return Section("summary", "Summary", [Table(columns, rows, caption)] if rows else [], lead)


def _row(result: Result, mini: frozenset[str]) -> list[str | Cell]:
    document = result.document or {}
    first, *others = headlines(result.task, document)
    # A mean of sets has no interval of its own: each set's is said.
    sets = [of for of in others if of.interval] if first.interval is None else []
    between = "; ".join(f"{of.name.rpartition(', ')[2]} {of.between}" for of in sets) or first.between
    samples = document["samples"]
    counts = [str(samples.get(key, samples.get(f"id.{key}", DASH))) for key in ("evaluated", "failed", "skipped")]
    kind = weights_kind(document, mini)
    return [
        result.name,
        first.name,
        Cell(first.said, best=True),
        between,
        first.guessed,
        result.head,
        *counts,
        Cell(kind, tone="" if kind == "trained" else "bad"),
    ]


def weights_kind(document: Mapping[str, Any], mini: frozenset[str]) -> str:
    """What the backbones' weights are: random, mini, or trained."""
    rests = document["provenance"]
    if rests["weights"] == "random":
        return "random"
    digests = {digest for feature in rests["features"].values() for digest in feature["weights"].values()}
    return "mini" if digests & mini else "trained"


def warnings(found: Found) -> Iterator[Note]:
    """What has to be known before any number is read."""
    kinds: dict[str, list[str]] = {}
    for result in found.results:
        if result.document is not None:
            kinds.setdefault(weights_kind(result.document, found.mini), []).append(result.name)
    if names := kinds.get("random"):
        yield Note(
            f"Random weights: {_listed(names)}. These backbones learned nothing; the numbers mean nothing.", tone="bad"
        )
    if names := kinds.get("mini"):
        yield Note(
            f"Mini weights: {_listed(names)}. These small backbones know the rendered toy world alone; the numbers "
            "test code and claims, and say nothing of real video.",
            tone="bad",
        )
    yield from _mixtures(found)
    yield from _on_the_cpu(found)


def _mixtures(found: Found) -> Iterator[Note]:
    """Features that several environments computed: one key, and bytes that may differ."""
    for result in found.results:
        for name, differ in (result.document or {}).get("provenance", {}).get("mixed", {}).items():
            yield Note(
                f"Mixed: {name}, on which {result.name} rests, was computed by several environments: {differ}. Equal "
                "videos may have unequal features; compute.mixed: refuse in params forbids it.",
                tone="bad",
            )


def _on_the_cpu(found: Found) -> Iterator[Note]:
    """Results that `device: auto` had computed on the CPU, by the reason."""
    reasons: dict[str, list[str]] = {}
    for result in found.results:
        if because := (result.document or {}).get("provenance", {}).get("cpu_because"):
            reasons.setdefault(because, []).append(result.name)
    for because, names in reasons.items():
        yield Note(
            f"On the CPU: {_listed(names)}. compute.device is auto, and no GPU was found: {because}. "
            "compute.device: cpu in params says that this is meant.",
            tone="bad",
        )


def missing(found: Found, snakemake: str) -> Iterator[Section]:
    """What params ask for and is not there, behind one line; nothing where all is made."""
    absent = [(f"the result of {of.head}", f"results/{of.name}.json") for of in found.results if of.document is None]
    absent += [(f"an ablation of {of.head}", str(path_of(of.path))) for of in found.ablations if of.document is None]
    for of in found.searches:
        if of.document is None:
            absent.append((f"a search over {of.head}, {of.done} of {of.trials} trials", str(path_of(of.path))))
    if found.claims is None:
        absent.append(("what the methods promise, checked", "results/claims.json"))
    absent += [
        (f"the look at {name}", f"features/{name}/manifest.parquet") for name, of in found.quality.items() if of is None
    ]
    rows = [[what, target, Cell(command(snakemake, target), tone="code")] for what, target in absent]
    if rows:
        caption = "What params ask for and is not there yet. Each command makes all that it needs."
        table = Table(["missing", "file", "made by"], rows, caption, folded=f"{len(rows)} of what params ask for")
        yield Section("missing", "Not made yet", [table])


def path_of(path: Any) -> str:
    """A file below results/, as a target."""
    return "results/" + str(path).rpartition("results/")[2]


def claims(found: Found) -> Section:
    """Each claim, what was measured, and why where it does not hold."""
    rows, checked = [], found.claims or {}
    for name, of in checked.items():
        verdict = Cell(of["verdict"], tone=TONES.get(of["verdict"], ""))
        known = "; ".join(filter(None, (of["undecided"], of["why"])))
        why = "" if of["verdict"] == HOLDS else f"Why not: {known or 'not looked into'}."
        said = [Cell(of["says"], title=name, note=why), verdict, with_deviation(of["mean"], of["sd"])]
        apart, edges = of["difference"], of["difference"]["ci95"]
        difference = Cell(with_deviation(apart["mean"], apart["sd"]), note=between(edges) if edges else "")
        seeds = f"{of['seeds_that_agree']} of {of['seeds']}"
        rows.append([*said, Cell(of["wants"], tone="long"), difference, seeds, str(of["units"] or "")])
    counts = Counter(of["verdict"] for of in checked.values())
    caption = (
        "A claim holds if the 95 % interval of its difference, over seeds and over samples, lies above what it wants; "
        "it fails if that lies below, and is undecided otherwise. Where no number of samples is given, the interval is "
        "over seeds alone."
    )
    columns = ["claim", "verdict", "measured", "wanted", "difference, 95 % interval", "seeds", "samples"]
    told = f"{counts[HOLDS]} of {len(checked)} hold, {counts[FAILS]} fail, {counts[UNDECIDED]} are undecided."
    return Section("claims", "Claims", [Table(columns, rows, caption)], told)


def provenance(result: Result, mini: frozenset[str]) -> Section:
    """What the numbers of a result rest on."""
    document = result.document or {}
    rests, samples = document["provenance"], document["samples"]
    features = [
        [
            role,
            of["name"],
            of["dataset"],
            of["backbone"],
            Cell(of["key"], tone="code"),
            *_weights(of, mini),
            str(of["failed"]),
        ]
        for role, of in rests["features"].items()
    ]
    columns = ["read as", "feature", "data set", "backbone", "key", "weights, sha256", "", "failed"]
    facts = {
        "evaluation": (result.evaluation and "/".join(result.evaluation.parts[-4:])) or "not there any more",
        "seed": str(rests["seed"]),
        "device": rests["device"],
        **_elsewhere(rests),
        "weights": weights_kind(document, mini),
        "code": rests["code"][:16],
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(rests["versions"].items())),
        "wall time": ", ".join(f"{name} {value}" for name, value in _timings(rests["timings"])),
        "samples": ", ".join(f"{count} {name}" for name, count in samples.items() if name != "failures"),
    }
    rows = [[name, Cell(said, tone="code" if name in ("evaluation", "code") else "")] for name, said in facts.items()]
    blocks: list[Any] = list(_otherwise(result))
    blocks.append(Table(["", "made with"], rows, "What made this result."))
    blocks.append(
        Table(columns, features, "The features that it reads; a key is computed from all that decides the bytes.")
    )
    if samples["failures"]:
        failures = [[of["sample"], of["reason"]] for of in samples["failures"]]
        blocks.append(
            Table(["sample", "reason"], failures, "The first samples that could not be used.", folded="failed samples")
        )
    blocks.append(Listing("params of this result", yaml.safe_dump(rests["params"], sort_keys=True, allow_unicode=True)))
    return Section(f"{result.name}-provenance", "Provenance", blocks, contents="provenance")


def _elsewhere(rests: Mapping[str, Any]) -> dict[str, str]:
    """The devices of training and of extraction, where a result names them."""
    chain = [of for environments in rests.get("environments", {}).values() for of in environments]
    extracted = ", ".join(dict.fromkeys(" ".join(of["device"].values()) for of in chain if "device" in of))
    named = {"trained on": rests.get("trained", {}).get("device", ""), "extracted on": extracted}
    return {name: said for name, said in named.items() if said}


def _otherwise(result: Result) -> Iterator[Note]:
    """Says so where params have changed since."""
    made, asked = (
        {key: canonical_json(value) for key, value in flat(of).items()}
        for of in ((result.document or {})["provenance"]["params"], result.asked)
    )
    apart = sorted(key for key in made.keys() | asked.keys() if made.get(key) != asked.get(key))
    if apart:
        yield Note(f"Made with other params than these now: {', '.join(apart)}.", tone="bad")


def _weights(feature: Mapping[str, Any], mini: frozenset[str]) -> list[Cell]:
    digests = list(dict.fromkeys(feature["weights"].values()))
    kinds = {"random" if of.startswith("random:") else "mini" if of in mini else "" for of in digests} - {""}
    short = Cell(", ".join(of[:12] for of in digests) or DASH, tone="code", title=", ".join(digests))
    return [short, Cell(", ".join(sorted(kinds)), tone="bad")]


def _timings(timings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in timings.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", said) for inner, said in _timings(value))
        elif name.endswith("_s"):
            yield name.removesuffix("_s").replace("_", " "), duration(value)
        else:
            yield name, f"{value:g}"


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(0.5), duration(90), duration(7300)
    ('0.5 s', '1.5 min', '2.0 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
