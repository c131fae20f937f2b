"""What there is to do, from params alone: runs, results, ablation tables and their files. Imports no torch.

The Snakefile and the command line both read it, so that a path is computed in one place only.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import datasets
from pipeline.config import (
    LAYOUTS,
    Ablation,
    Imported,
    MapsFeature,
    Params,
    ParamsError,
    Search,
    canonical_json,
    content_key,
    feature_key,
    override,
)
from pipeline.config.contents import readable
from pipeline.config.costs import cut, seconds_a_sample
from pipeline.config.variants import parted
from pipeline.datasets.standing import Standing, standing
from pipeline.digests import Damaged, read_json
from pipeline.heads.probe.config import READ, linear_of
from pipeline.plugins import source_of
from pipeline.projects import FEATURES, RUNS, SEARCHES
from pipeline.runs import Run
from pipeline.tasks import TASKS, Task

# What may be learned of whole samples.
ROLES = ("label", "labels", "target")
# The fields of heads that name a split.
SPLITS = ("train_split", "holdout_split", "reference_split", "eval_split")
# What a search leaves beside its table: the trials that are finished.
TRIALS = "trials.json"
# In the folder of a data set that toyworld has rendered: what from.
RENDERED = ".rendered"


class Extraction(NamedTuple):
    """The jobs of one pass over a data set.

    Attributes:
        features: of the pass.
        sample_seconds, shard_seconds: by the declared cost.
        shards: of the data set.
        jobs: the number of shards of each job that is to be done.
    """

    dataset: str
    features: tuple[str, ...]
    sample_seconds: float
    shard_seconds: float
    shards: int
    jobs: list[int]


def _with_rows_in_order(document: dict[str, Any]) -> str:
    """Canonical JSON, but an ablation's rows as params order them: so its table does, and so a grid names its rows."""
    sorted_document = json.loads(canonical_json(document))
    for name, ablation in document.get("ablations", {}).items():
        sorted_document["ablations"][name] |= {field: ablation[field] for field in ("variants", "grid")}
    return json.dumps(sorted_document, separators=(",", ":"), allow_nan=False)


class Plan:
    """The work that a params document asks for.

    Args:
        params: the validated document.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self._shards: dict[Any, list[int]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._ablated: dict[str, dict[tuple[str, int], Run]] = {}
        self._standing: dict[str, Standing] = {}
        self._misfits: dict[str, tuple[tuple[int, int], bool]] = {}
        self._codes: dict[tuple[str, str], dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._ranges: dict[tuple[str, str], tuple[Any, dict[int, str]]] = {}

    def run(self, head: str, changes: dict[str, Any] | None = None) -> Run:
        """The run of a head, with dotted overrides.

        Raises:
            ParamsError: an override that does not fit, or a head of another package whose source cannot be read.
        """
        return self._run(head, self.params.changed(head, changes or {}))

    def _run(self, head: str, config: Any) -> Run:
        params = self.params.replacing(head, config)
        place = (config.task, config.implementation)
        if place not in self._codes:
            try:
                self._codes[place] = TASKS[config.task].run_code(config.implementation)
            except (ModuleNotFoundError, SyntaxError) as error:
                raise ParamsError(
                    f"heads.{head}.kind: the source of {config.implementation} cannot be read ({error}), and the run's "
                    "key is made from it; keep it in Python files, in a package with an __init__.py"
                ) from None
        keys = {role: self._key(read.feature) for role, read in config.inputs.items()}
        stores = {role: FEATURES / on / f"{name}-{keys[role]}" for role, (on, name) in config.inputs.items()}
        folder = RUNS / head / run_key(params, config, keys, self._codes[place])
        return Run(params, head, manifest_path(config.dataset), stores, folder)

    def _key(self, feature: str) -> str:
        """A feature's key, worked out once: a plan of 9,000 shards asks for them 84,000 times."""
        return self._keys.get(feature) or self._keys.setdefault(feature, feature_key(self.params, feature))

    @cached_property
    def results(self) -> dict[str, Run]:
        """The run behind each results/<name>.json."""
        return {head.result: self.run(name) for name, head in self.params.heads.items()}

    def ablated(self, name: str) -> dict[tuple[str, int], Run]:
        """(variant, seed) -> its run, of an ablation's table in order; worked out once.

        Raises:
            ParamsError: an override that does not fit, or two variants that are one evaluation of one training.
        """
        if name not in self._ablated:
            ablation, owner, runs = self.params.ablations[name], {}, {}
            for variant, changes in ablation.rows.items():
                for seed in ablation.seeds:
                    run = self.run(ablation.head, {**changes, "seed": seed})
                    if (other := owner.setdefault((run.key, run.evaluation), (variant, seed))) != (variant, seed):
                        raise ParamsError(
                            f"ablations.{name}: {variant} with seed {seed} is the same as {other[0]} with seed "
                            f"{other[1]}; let variants differ in what a training or an evaluation sees"
                        )
                    runs[variant, seed] = run
            self._ablated[name] = runs
        return self._ablated[name]

    def ablation_runs(self, name: str) -> list[Run]:
        """The runs of an ablation's table: its variants times its seeds, in order. Raises as `ablated`."""
        return list(self.ablated(name).values())

    def ablation_folder(self, name: str) -> str:
        """Where an ablation's table lies."""
        return self.task(self.params.ablations[name].head).folder

    def task(self, head: str) -> Task:
        """The task of a head."""
        return TASKS[self.params.head(head).task]

    @cached_property
    def claimed(self) -> dict[tuple[str, str], list[Run]]:
        """(ablation, variant) -> its runs, a seed each, of every figure that a claim names."""
        found: dict[tuple[str, str], list[Run]] = {}
        for claim in self.params.claims.values():
            for figure in claim.figures:
                runs, seeds = self.ablated(figure.ablation), self.params.ablations[figure.ablation].seeds
                found[figure.ablation, figure.variant] = [runs[figure.variant, seed] for seed in seeds]
        return found

    @cached_property
    def baselines(self) -> dict[str, dict[str, Run]]:
        """Result of a classifier -> a linear probe of each of its inputs, by role: what it is compared with.

        They lie in the folder of the head's runs; one that is a run of params by itself, or stands beside an earlier
        result too, is that run. Left out is what no probe reads, what is of another data set, and of a linear probe of
        one input the probe itself.
        """
        found: dict[str, dict[str, Run]] = {}
        known = {(run.key, run.evaluation): run for run in reversed(self._own.values())}
        for name, run in self.results.items():
            if TASKS[run.config.task].baselines:
                read = {role: self._linear(run, role) for role in run.config.inputs}
                found[name] = {
                    role: known.setdefault((of.key, of.evaluation), of) for role, of in read.items() if of is not None
                }
        return {name: of for name, of in found.items() if of}

    def _linear(self, run: Run, role: str) -> Run | None:
        read = run.config.inputs[role]
        contents = self.params.gives(read.feature)
        alone = getattr(run.config, "probe", None) == "linear" and len(run.config.inputs) == 1
        if alone or read.dataset != run.dataset or (contents is not None and len(readable(contents, READ)) != 1):
            return None
        return self._run(run.head, linear_of(run.config, role))

    @cached_property
    def probed(self) -> dict[str, list[Run]]:
        """Result -> its baselines that one job makes: each once, none that is asked for by itself, too.

        All that a job makes lie among the runs of its result's head: what lies elsewhere another job makes.
        """
        others = {(run.head, run.key) for run in self._own.values()}
        taken: set[tuple[str, str]] = set()
        found: dict[str, list[Run]] = {}
        for name, of in self.baselines.items():
            found[name] = [run for run in of.values() if (run.head, run.key) not in others | taken]
            taken |= {(run.head, run.key) for run in found[name]}
        return {name: runs for name, runs in found.items() if runs}

    def probing(self, result: str) -> str:
        """Canonical JSON of the part of params that the job of `probed` sees: these probes, and nothing of the head."""
        document: dict[str, Any] = {}
        for number, run in enumerate(self.probed[result]):
            name = probe_name(number, run.head)
            config = run.config.model_copy(update={"result": name})
            for section, of in json.loads(self.params.replacing(name, config).part(head=name)).items():
                document[section] = document.get(section, {}) | of
        return canonical_json(document)

    @cached_property
    def runs(self) -> dict[tuple[str, str], Run]:
        """A run of every training that params refer to, by (head, key): of several evaluations the first."""
        return {(run.head, run.key): run for run in reversed(self.evaluations.values())}

    @cached_property
    def evaluations(self) -> dict[tuple[str, str, str], Run]:
        """Every evaluation that params refer to, by (head, key, evaluation), those of results first, baselines last."""
        return _by_key([*self._own.values(), *(run for of in self.baselines.values() for run in of.values())])

    @cached_property
    def _own(self) -> dict[tuple[str, str, str], Run]:
        ablated = (run for name in self.params.ablations for run in self.ablation_runs(name))
        return _by_key([*self.results.values(), *ablated])

    @cached_property
    def swept(self) -> dict[str, list[Run]]:
        """Ablation -> the runs that one job makes, since none is trained: each once, none of a result's key."""
        found: dict[str, list[Run]] = {}
        shown, taken = {run.key for run in self.results.values()}, set()
        for name, ablation in self.params.ablations.items():
            if self.task(ablation.head).swept:
                runs = [run for run in self.ablation_runs(name) if run.key not in shown]
                found[name] = [run for run in runs if run.result_file not in taken]
                taken |= {run.result_file for run in found[name]}
        return {name: runs for name, runs in found.items() if runs}

    def part(
        self,
        dataset: str | None = None,
        features: tuple[str, ...] = (),
        head: str | None = None,
        key: str | None = None,
        evaluation: str | None = None,
        ablation: str | None = None,
        search: str | None = None,
    ) -> str:
        """Canonical JSON of the part of params that one rule may see; with a key, the head as that run has it."""
        chosen = self.params.ablations[ablation] if ablation else self.params.searches[search] if search else None
        head, params = chosen.head if chosen else head, self.params
        if head and key:
            params = (self.evaluations[head, key, evaluation] if evaluation else self.runs[head, key]).params
        document = json.loads(params.part(dataset=dataset, features=features, head=head))
        if chosen:
            document["ablations" if ablation else "searches"] = {ablation or search: chosen.model_dump(mode="json")}
            # A run a set of inputs: most variants read the same.
            runs = self.ablation_runs(ablation) if ablation else self.searched(search)
            for run in {tuple(run.config.evaluation_inputs.items()): run for run in runs}.values():
                read = json.loads(run.params.part(head=head))
                for section in read.keys() & {"toyworld", "datasets", "features"}:
                    document[section] = document.get(section, {}) | read[section]
            if varied := self._varied(chosen):
                document["features"] |= json.loads(self.params.part(features=varied))["features"]
        return _with_rows_in_order(document)

    def _varied(self, ablation: Ablation | Search) -> tuple[str, ...]:
        """The features that the rows of an ablation or search make variants of, whether a run reads them or not."""
        found: dict[str, None] = {}
        for changes in ablation.rows.values():
            own, varied = parted(changes, self.params.features)
            if varied:
                read = override(self.params.head(ablation.head), own).inputs.values()
                found |= dict.fromkeys((*varied, *(of.feature for of in read)))
        return tuple(found)

    # --- searches -----------------------------------------------------------------------------------------------------

    def searched(self, name: str) -> list[Run]:
        """A run of each combination of features that the trials of a search may read, as the head is otherwise."""
        chosen = self.params.searches[name]
        return [self.run(chosen.head, changes) for changes in chosen.rows.values()]

    def search_key(self, name: str) -> str:
        """The key of all that decides a search's trials; how many there are does not."""
        asked = self.params.searches[name].model_dump(mode="json", exclude={"trials"})
        return content_key({"search": asked, "runs": [run.key for run in self.searched(name)]})

    def trials(self, name: str, searches: Path = SEARCHES) -> dict[int, tuple[str, str]]:
        """Number -> (head, key) of the run, of the finished trials of a search of these params; as `tried` has them."""
        tried = self.tried(name, searches)
        return {trial["number"]: tuple(Path(trial["run"]).parts[-2:]) for trial in tried if trial["run"]}

    def tried(self, name: str, searches: Path = SEARCHES) -> list[dict[str, Any]]:
        """The finished trials of a search of these params, in order.

        A record that is damaged, or of another search, is none: the search makes it again from the runs.
        """
        try:
            record = read_json(searches / name / TRIALS, "")
            trials = record["trials"] if record["key"] == self.search_key(name) else []
            return [{**trial, "number": trial["number"], "run": trial["run"]} for trial in trials]
        except (OSError, Damaged, KeyError, TypeError):
            return []

    @property
    def document(self) -> str:
        """Canonical JSON of the whole params."""
        return _with_rows_in_order(self.params.model_dump(mode="json"))

    # --- features -----------------------------------------------------------------------------------------------------

    def features(self, dataset: str) -> tuple[str, ...]:
        """The features of a data set that a head or the data set itself asks for, with all that they are made from."""
        asked = dict.fromkeys(self.params.datasets[dataset].features)
        for run in self.results.values():
            learned = self.params.compared(*(of.feature for of in run.config.inputs.values()))
            for read in (*run.config.evaluation_inputs.values(), *learned):
                if read.dataset == dataset:
                    asked[read.feature] = None
        return self.params.reading(*asked)

    @cached_property
    def derived(self) -> list[str]:
        """The features that are made from other features alone."""
        return [name for name, feature in self.params.features.items() if feature.derived]

    @cached_property
    def fused(self) -> list[str]:
        """The features that are extracted together with others."""
        return [name for group in self.params.fused for name in group]

    def shard_path(self, dataset: str, feature: str, shard: int | str) -> str:
        """The manifest of a shard of a feature. Braces in the arguments stay, for patterns."""
        key = self._key(feature)
        return f"features/{dataset}/{feature}-{key}/shard-{shard if isinstance(shard, str) else f'{shard:03d}'}.json"

    def together(self, feature: str) -> tuple[str, ...]:
        """The features that are extracted in one pass with one, itself among them."""
        return next((group for group in self.params.fused if feature in group), (feature,))

    def shard_seconds(self, dataset: str, features: Iterable[str]) -> float:
        """Seconds that a full shard of features takes in one pass, as declared."""
        chosen = {name: self.params.features[name] for name in features}
        return self.params.datasets[dataset].shard_size * seconds_a_sample(chosen, self.params.compute)

    def ranges(self, dataset: str, feature: str) -> dict[int, str]:
        """Shard -> the first and the last of those that one job makes with it, of each that has to be made.

        Finished shards are in none, so they stay as they are, however the others are cut. Once told, a range stays as
        long as this plan: a job may be making it.
        """
        group = self.together(feature)
        manifest = manifest_path(dataset)
        shards = self.shards(dataset)
        state = (tuple(shards), manifest.stat().st_mtime_ns if manifest.exists() else None)
        before, known = self._ranges.get((dataset, group[0]), (None, {}))
        if before != state:
            wanted = [shard for shard in shards if shard not in known and self._unmade(dataset, group, shard)]
            for first, last in cut(wanted, shards, self.shard_seconds(dataset, group), self.params.compute):
                told = range_name(first, last)
                known |= {shard: told for shard in wanted if first <= shard <= last}
            self._ranges[dataset, group[0]] = state, known
        return known

    def extractions(self) -> list["Extraction"]:
        """The passes over each data set whose features somebody asks for, sources first, with the jobs left to do.

        Those over `unrendered` are not among them.
        """
        found, unknown = [], self.unrendered
        for dataset in self.params.datasets:
            if dataset in unknown:
                continue
            for group in dict.fromkeys(map(self.together, self.features(dataset))):
                jobs = Counter(self.ranges(dataset, group[0]).values()).values()
                seconds, size = self.shard_seconds(dataset, group), self.params.datasets[dataset].shard_size
                shards = len(self.shards(dataset))
                found.append(Extraction(dataset, group, seconds / size, seconds, shards, list(jobs)))
        return found

    def _unmade(self, dataset: str, features: Iterable[str], shard: int) -> bool:
        paths = [self.shard_path(dataset, feature, shard) for feature in features]
        return any(not os.path.exists(path) or self.misfits(path) for path in paths)

    def within(self, dataset: str, told: str) -> list[int]:
        """The shards of a range of `ranges`."""
        first, _, last = told.partition("-")
        return [shard for shard in self.shards(dataset) if int(first) <= shard <= int(last or first)]

    def read_by(self, dataset: str, feature: str, shard: int) -> list[str]:
        """The shard manifests that a shard of a feature is made from: those of the same samples, and those of texts."""
        chosen = self.params.features[feature]
        found = [self.shard_path(dataset, other, shard) for other in chosen.reads]
        if (texts := chosen.compares) is not None:
            numbers = self.shards(texts.dataset)
            found += [self.shard_path(texts.dataset, texts.feature, number) for number in numbers]
        return found

    def referenced(self, root: Path, runs: Path, searches: Path = SEARCHES) -> set[Path]:
        """The stores, runs and evaluations of runs that these params could read or write.

        Where weights or texts are absent, so that keys cannot be told, all that bears the name is referred to.
        """
        found: set[Path] = set()
        for feature in self.params.features:
            try:
                key = feature_key(self.params, feature)
                found |= {root / dataset / f"{feature}-{key}" for dataset in self.params.datasets}
            except ParamsError:
                found |= {path for dataset in self.params.datasets for path in (root / dataset).glob(f"{feature}-*")}
        try:
            evaluations = {runs / run.head / run.key / run.evaluation for run in self.evaluations.values()}
            trials = {runs / Path(*of) for name in self.params.searches for of in self.trials(name, searches).values()}
            return found | evaluations | {path.parent for path in evaluations} | trials
        except ParamsError:
            heads = [runs / head for head in self.params.heads]
            return found | {path for head in heads for depth in ("*", "*/*") for path in head.glob(depth)}

    # --- files --------------------------------------------------------------------------------------------------------

    @property
    def rendered(self) -> list[str]:
        """The data sets that toyworld makes."""
        return [name for name, dataset in self.params.datasets.items() if dataset.made_by == "toyworld"]

    def rendered_with(self, dataset: str) -> str | None:
        """The data set that toyworld renders this one with: itself, that in whose folder it lies, or none."""
        owner = self.params.datasets[dataset].within or dataset
        return owner if owner in self.rendered else None

    @property
    def unrendered(self) -> dict[str, str]:
        """The data sets of which nothing is known yet -> the one that toyworld has yet to render."""
        made = ((name, self.rendered_with(name)) for name in self.params.datasets)
        return {
            name: owner
            for name, owner in made
            if owner is not None and not (Path(self.params.datasets[owner].root) / RENDERED).exists()
        }

    def rendered_otherwise(self, dataset: str) -> bool:
        """Whether toyworld has rendered a data set from other params than these, or before it wrote all they name."""
        root, lists = Path(self.params.datasets[dataset].root), self.params.datasets[dataset].class_lists
        if not (root / RENDERED).exists():
            return False
        missing = any(not (root / of).exists() for of in lists.values())
        return missing or (root / RENDERED).read_bytes() != canonical_json(self.params.rendering(dataset)).encode()

    def annotation_files(self, dataset: str) -> list[str]:
        """The files that declare a data set's samples, and the source of a layout that is not this package's.

        Raises:
            DatasetError: one is not there.
        """
        chosen = self.params.datasets[dataset]
        foreign = [] if chosen.layout in LAYOUTS else [source_of(type(chosen.laid))]
        return [str(path) for path in (*datasets.annotation_files(chosen), *filter(None, foreign))]

    def label_files(self, dataset: str) -> list[str]:
        """The files with the labels of a data set's frames, a file a sample."""
        chosen = self.params.datasets[dataset]
        if not chosen.laid.labelled:
            return []
        found = datasets.label_files(chosen, datasets.read_annotations(chosen)["sample"].tolist())
        return [str(path) for path in found.values()]

    def imported(self, dataset: str) -> tuple[str, ...]:
        """The features of a data set that somebody else computed and that anybody asks for."""
        runs = self.runs.values()
        asked = dict.fromkeys(self.params.datasets[dataset].features)
        read = (of for run in runs for of in run.config.evaluation_inputs.values())
        asked |= dict.fromkeys(of.feature for of in read if of.dataset == dataset)
        return tuple(name for name in asked if isinstance(self.params.features[name], Imported))

    def standing(self, dataset: str, executes: bool) -> Standing:
        """How a data set's manifest stands to its files: looked at once, however often it is asked."""
        if dataset not in self._standing:
            chosen, manifest = self.params.datasets[dataset], manifest_path(dataset)
            stores = imported_stores(self.params, self.imported(dataset))
            self._standing[dataset] = standing(dataset, chosen, manifest, stores, executes)
        return self._standing[dataset]

    def shards(self, dataset: str) -> list[int]:
        """The shards of a data set, from its annotations and, if there is one, its manifest."""
        chosen, manifest = self.params.datasets[dataset], manifest_path(dataset)
        known = [path for path in (*map(Path, self.annotation_files(dataset)), manifest) if path.exists()]
        # Within one call of Snakemake a checkpoint may make the annotations anew.
        state = (dataset, *((path, path.stat().st_mtime_ns) for path in known))
        if state not in self._shards:
            previous = datasets.read_shards(manifest) if manifest.exists() else {}
            annotations = datasets.read_annotations(chosen)
            self._counts[dataset] = Counter(annotations["split"])
            self._expect_splits(dataset, set(annotations["split"]))
            self._expect_answers(dataset, {role for role in ROLES if _says(annotations, role)})
            samples = annotations["sample"].tolist()
            assigned = datasets.assign_shards(samples, previous, chosen.shard_size)
            self._shards[state] = sorted({assigned[sample] for sample in samples})
        return self._shards[state]

    def samples(self, dataset: str, split: str) -> int:
        """How many samples of a data set its annotations have in a split; 0 while these are not rendered yet.

        Raises:
            DatasetError: the annotations are not there, or broken.
        """
        if dataset in self.unrendered:
            return 0
        self.shards(dataset)
        return self._counts[dataset][split]

    def _expect_splits(self, dataset: str, splits: set[str]) -> None:
        """Raises DatasetError where a result needs a split that one's own data set (`videos`, `table`) does not have.

        Of published sets a part may be there whose splits are named otherwise, as one fold of several.
        """
        for run in self.results.values() if "split" in self.params.datasets[dataset].laid.takes else ():
            for field in SPLITS if run.dataset == dataset else ():
                wanted = getattr(run.config, field, None)
                if wanted is not None and wanted not in splits:
                    draw = "" if len(splits) > 1 else ", or draw splits with split: {train: 0.8, val: 0.1, test: 0.1}"
                    raise datasets.DatasetError(
                        f"heads.{run.head}.{field} is {wanted!r}, but the splits of {dataset} are "
                        f"{', '.join(sorted(splits))}; name one of these{draw}"
                    )

    def _expect_answers(self, dataset: str, has: set[str]) -> None:
        """Raises DatasetError where a head learns what no sample of one's own data set (`videos`, `table`) has."""
        chosen = self.params.datasets[dataset]
        for run in self.results.values() if "split" in chosen.laid.takes else ():
            learns = getattr(run.config, "targets", "label")
            if run.dataset != dataset or run.config.framewise is not False or learns in has:
                continue
            remedy = "make a folder a class"
            if "columns" in chosen.laid.takes:  # a column of a role's own name is found; a head learns what is named
                there = next((role for role in ROLES if role in has), "")
                remedy = f"it has {there}: " * bool(there)
                remedy += f"name its column in columns of the data set, as in columns: {{{there or learns}: NAME}}"
            raise datasets.DatasetError(
                f"heads.{run.head} learns {learns!r}, which no sample of {dataset} has; {remedy}"
            )

    def shard_manifests(self, reads: Iterable[tuple[str, str]]) -> list[str]:
        """The shard manifests of features of data sets, by (dataset, feature), each once."""
        return [
            self.shard_path(dataset, feature, shard)
            for dataset, feature in dict.fromkeys(reads)
            for shard in self.shards(dataset)
        ]

    def rests_on(self, feature: str) -> str:
        """Whose digests a feature's samples have: `of` of `datasets.shard_contents`."""
        chosen = self.params.features[feature]
        if isinstance(chosen, Imported):
            return store_name(self.params, feature)
        return "maps" if isinstance(chosen, MapsFeature) else ""

    def misfits(self, path: str) -> bool:
        """Whether a finished shard holds other samples than the manifest gives it; False while either is not there.

        Args:
            path: of the shard's manifest, as `shard_path` gives it.
        """
        _, dataset, store, shard = Path(path).with_suffix("").parts
        manifest, feature = manifest_path(dataset), store.rpartition("-")[0]
        try:
            state = (Path(path).stat().st_mtime_ns, manifest.stat().st_mtime_ns)
            if self._misfits.get(path, (None, None))[0] != state:
                wanted = datasets.shard_contents(manifest, int(shard.removeprefix("shard-")), self.rests_on(feature))
                rows = json.loads(Path(path).read_bytes())["samples"]
                self._misfits[path] = state, wanted != {row["sample"]: row["digest"] for row in rows}
            return self._misfits[path][1]
        except (FileNotFoundError, datasets.NoSuchShard, json.JSONDecodeError):
            return False  # what is damaged its readers name


def manifest_path(dataset: str) -> Path:
    """Where a data set's manifest lies."""
    return FEATURES / dataset / "manifest.parquet"


def range_name(first: int, last: int) -> str:
    """A range of shards, as paths and the option `--shards` have it: 003, or 003-066."""
    return f"{first:03d}" if first == last else f"{first:03d}-{last:03d}"


def _by_key(runs: Iterable[Run]) -> dict[tuple[str, str, str], Run]:
    """(head, key, evaluation) -> the first run of it."""
    found: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        found.setdefault((run.head, run.key, run.evaluation), run)
    return found


def store_name(params: Params, feature: str) -> str:
    """`<feature>-<key>`: the folder of a feature's store, whatever the data set."""
    return f"{feature}-{feature_key(params, feature)}"


def imported_stores(params: Params, features: Iterable[str]) -> dict[str, Imported]:
    """The names of the stores of imported features -> the features. Raises ParamsError for one that is not imported."""
    for name in features:
        if not isinstance(params.features[name], Imported):
            raise ParamsError(
                f"features.{name} is computed: only of imported features (backbone: imported, npy) a manifest keeps "
                "digests"
            )
    return {store_name(params, name): params.features[name] for name in features}


def run_key(params: Params, config: Any, keys: dict[str, str], code: dict[str, Any]) -> str:
    """The key of a run: what decides it of the head and of its data set, its features, the code that trains it."""
    data = params.datasets[config.dataset].learned
    return content_key({"config": config.learned, "data": data, "features": keys, "code": code})


def probe_name(number: int, head: str) -> str:
    """Of a head's probe in the part of params that its job sees: no head's own, and no longer than a name may be."""
    return f"{number}-of-{head}"[:120]


def _says(annotations: Any, role: str) -> bool:
    return role in annotations and bool(annotations[role].notna().any())
