"""What the rules of the workflow ask: which files a job waits for, what of params it sees. Knows Snakemake.

Its methods take wildcards where a rule hands them over as they are, so that a rule reads as a sentence.
"""

import glob
import os
import shlex
import sys
from pathlib import Path

from snakemake.io import IOFile, ancient, is_flagged
from snakemake.settings.types import RerunTrigger

from pipeline.config.documents import Written
from pipeline.datasets.standing import STAMPS
from pipeline.plan import Plan
from pipeline.projects import SEARCHES
from pipeline.resources import Share, idle_gpus, most, of_evaluation, of_extraction, of_training
from pipeline.runs import RESULT, RUN, Run
from pipeline.together import Runs, Together

PAGE = "results/report.html"
RESULTS = ("results/*.json", "results/ablations/*.json", "results/searches/*.json", "results/*/explanation/*.json")


def one_of(names):
    """A regular expression of these names, of nothing when there are none; what stands beside it is of every name."""
    return f"(?:{'|'.join(names)})" if names else "(?!)"


def _unless(places):
    """A regular expression of nothing, where none of these follows in a path."""
    return f"(?!(?:{'|'.join('/'.join(place) for place in places)})/)" if places else ""


def _before(places):
    """A regular expression of heads, where one of these places begins."""
    heads = one_of(dict.fromkeys(place[0] for place in places))
    return f"(?=(?:{'|'.join('/'.join(place) for place in places)})/){heads}" if places else one_of([])


def _output(stage, run):
    return f"{run.folder}/{RUN}" if stage == "train" else run.result_file


class Jobs:
    """The jobs of a plan, as a workflow runs them.

    Args:
        plan: of the params.
        workflow: Snakemake's.
        checkpoints: the workflow's, by name.
        params_files: whose params the plan is of.
        written: what these, and the studies that they name, hold.
    """

    def __init__(self, plan: Plan, workflow, checkpoints, params_files: list[str], written: Written) -> None:
        self.plan, self.workflow, self.checkpoints = plan, workflow, checkpoints
        self.params_files, self.written = params_files, written
        self._said: set[str] = set()
        self._waiting: dict[str, set] = {}
        self._marks: set[str] = set()
        self.runs = Runs(plan)
        self._made_in: dict[str, str] = {}

    # --- what there is to make --------------------------------------------------------------------------------------

    def every_result(self):
        """The files of all results, and what explains them."""
        results = self.plan.results
        return [*(f"results/{name}.json" for name in results), *(f"results/{name}/explanation" for name in results)]

    def every_ablation(self):
        """The tables of all ablations."""
        return [self.table(name) for name in self.plan.params.ablations]

    def every_search(self):
        """The tables of all searches."""
        return [f"{SEARCHES}/{name}.json" for name in self.plan.params.searches]

    def table(self, ablation):
        """An ablation's table."""
        return f"{self.plan.ablation_folder(ablation)}/{ablation}.json"

    def trained_alone(self):
        """A regular expression of the heads with weights to learn, where no key of a run that others are trained with
        follows in a path.
        """
        heads = one_of(dict.fromkeys(run.head for run in self.plan.runs.values() if run.config.trains))
        return f"{_unless(self.runs.trained.places)}{heads}"

    def trained_together(self):
        """A regular expression of heads that keys of such runs follow in a path."""
        return _before(self.runs.trained.places)

    def evaluated_alone(self):
        """As `trained_alone`, of evaluations; nor does the key of a baseline follow, which has a job of its own.

        Of another head the same probe may be a run of its own, so a key alone does not tell.
        """
        probed = ((run.head, run.key) for runs in self.plan.probed.values() for run in runs)
        return f"{_unless([*self.runs.evaluated.places, *probed])}[A-Za-z0-9][A-Za-z0-9_-]*"

    def evaluated_together(self):
        """As `trained_together`, of evaluations."""
        return _before(self.runs.evaluated.places)

    def mined(self):
        """A regular expression of the heads whose runs hold what is mined."""
        return one_of([name for name in self.plan.params.heads if self.plan.task(name).mines])

    def results(self):
        """A regular expression of the results."""
        return one_of(self.plan.results)

    def ablations(self, task):
        """A regular expression of the ablations of heads of a task."""
        chosen = self.plan.params.ablations.items()
        return one_of([name for name, of in chosen if self.plan.task(of.head) is task])

    def searches(self):
        """A regular expression of the searches."""
        return one_of(self.plan.params.searches)

    def snakemake_command(self):
        """How this workflow is called with these params: what the page says of what is missing."""
        chosen = " ".join(os.path.relpath(path) for path in self.workflow.overwrite_configfiles)
        return "snakemake --cores all" + (f" --configfile {chosen}" if chosen else "")

    # --- code -------------------------------------------------------------------------------------------------------

    def evaluation_code(self, wildcards):
        """What an evaluation is made again for: the code of its task's."""
        return self.plan.code(self.plan.runs[wildcards.head, wildcards.key].config.task, "evaluate")

    def report_code(self, wildcards):
        """What a result's report is made again for."""
        return self.plan.code(self.plan.results[wildcards.result].config.task, "publish", "follows")

    def explanation_code(self, wildcards):
        """What a result's explanation is made again for."""
        return self.plan.code(self.plan.results[wildcards.result].config.task, "points", "streams")

    # --- runs, results, ablations -----------------------------------------------------------------------------------

    def made(self, wildcards):
        """What says that the run of an evaluation is complete: weights, or what is mined; nothing where it has none."""
        run = self.plan.runs[wildcards.head, wildcards.key]
        self._forget(f"{run.folder}/{wildcards.evaluation}/{RESULT}", "evaluated")
        if run.config.trains:
            return f"{run.folder}/run.json"
        return [f"{run.folder}/negatives.csv"] if self.plan.task(run.head).mines else []

    def baselines(self, wildcards):
        """The results of the linear probes that a result stands beside."""
        return [run.result_file for run in self.plan.baselines.get(wildcards.result, {}).values()]

    def beside(self, wildcards):
        """What tells a report of them."""
        roles = self.plan.baselines.get(wildcards.result, {}).items()
        return " ".join(f"--baseline {role}={run.evaluation_folder}" for role, run in roles)

    def shown_manifests(self, wildcards):
        """The manifests of the samples that a report shows, if it shows any."""
        run = self.plan.results[wildcards.result]
        return [self.manifest_of(run.dataset)] if self.plan.task(run.head).looks else []

    def looking(self, wildcards):
        """What lets a report show samples: the params of a run, which say where they are."""
        run = self.plan.results[wildcards.result]
        looks = self.plan.task(run.head).looks
        return f"--params {self.part('head', 'key', 'evaluation')(run)}" if looks else ""

    def result_file(self, wildcards):
        """The result of the evaluation that a head's result file shows."""
        return self.plan.results[wildcards.result].result_file

    def claimed_results(self, wildcards):
        """The results of every run that a claim is about."""
        return [run.result_file for runs in self.plan.claimed.values() for run in runs]

    def of_result(self, function):
        """A function of the run behind a result, as one of the result."""
        return lambda wildcards: function(self.plan.results[wildcards.result])

    def ablation_results(self, wildcards):
        """The results of an ablation's runs: variants times seeds."""
        return [run.result_file for run in self.plan.ablation_runs(wildcards.ablation)]

    # --- what a job takes -------------------------------------------------------------------------------------------

    def cores_to_extract(self, *features):
        """A function of the cores of an extraction or a derivation of features: those named, or the wildcard's."""

        def cores(wildcards):
            names = features or (wildcards.feature,)
            share = of_extraction(self.plan.params, *names)
            gpus = self.plan.extraction_gpus(*names)
            self.say_idle(f"an extraction of {' and '.join(names)}", wildcards, share, gpus, "extract_threads")
            return share.cores

        return cores

    def memory_to_extract(self, *features):
        """A function of its MB; a job that ran out of them gets more when it is tried again."""
        return lambda wildcards, attempt: (
            attempt * of_extraction(self.plan.params, *(features or (wildcards.feature,))).mem_mb
        )

    def cores_to_train(self, runs):
        """A function of the cores of the trainings of runs, one after the other, of which `runs` takes wildcards: of
        all processes on one node, on several of each."""

        def cores(wildcards):
            share = self._to_train(runs(wildcards))
            self.say_idle("a training", wildcards, share, self.plan.gpus, "threads")
            return share.cores

        return cores

    def memory_to_train(self, runs):
        """A function of their MB."""
        return lambda wildcards, attempt: attempt * self._to_train(runs(wildcards)).mem_mb

    @staticmethod
    def _to_train(runs):
        return most(of_training(run.params, run.config) for run in runs)

    def trained(self, wildcards):
        """The run that is trained."""
        return [self.plan.runs[wildcards.head, wildcards.key]]

    def cores_of(self, runs):
        """A function of the cores of what asks the stores of runs in one process; `runs` may take wildcards."""
        return lambda wildcards: self._to_evaluate(runs, wildcards).cores

    def memory_of(self, runs):
        """A function of its MB."""
        return lambda wildcards, attempt: attempt * self._to_evaluate(runs, wildcards).mem_mb

    def _to_evaluate(self, runs, wildcards):
        found = runs(wildcards) if callable(runs) else runs
        return most(of_evaluation(run.params, run.config) for run in found)

    def evaluated(self, wildcards):
        """The run that is evaluated."""
        return [self.plan.runs[wildcards.head, wildcards.key]]

    def shown(self, wildcards):
        """The run behind a result."""
        return [self.plan.results[wildcards.result]]

    def tried(self, wildcards):
        """The runs that the trials of a search may be."""
        return self.plan.searched(wildcards.search)

    def say_idle(self, job: str, wildcards, share: Share, gpus: int, threads: str) -> None:
        """One line a kind of job, where this machine's cores let fewer of them run than wait and there are GPUs for.

        Args:
            job: what it is, in words.
            wildcards: which one.
            share, gpus: what it takes.
            threads: the setting of its threads, by which kinds are told apart.
        """
        given = self.workflow.global_resources
        there, cores = (of.value if (of := given.get(name)) else None for name in ("gpu", "_cores"))
        if not (self.workflow.is_main_process and self.workflow.local_exec and gpus and there and cores):
            return
        waiting = self._waiting.setdefault(threads, set())
        waiting.add(tuple(wildcards))
        idle = idle_gpus(cores, there, share, gpus)
        if threads in self._said or not idle or len(waiting) <= max(1, cores // share.cores):
            return
        self._said.add(threads)
        jobs = there // gpus
        each = cores // (jobs * gpus)  # of a process
        lower = f", or lower compute.{threads} + decode_workers to {each}" if each else ""
        print(
            f"{idle} of {there} GPUs stay idle: {job} takes {share.cores} cores of {cores}; give "
            f"--cores {jobs * share.cores}{lower}",
            file=sys.stderr,
        )

    # --- runs that one job makes ------------------------------------------------------------------------------------

    def trained_in(self, wildcards):
        """The mark that a job leaves for Snakemake once it has trained a run, and others with it; nothing of a run
        that is there and no older than its manifest: how runs were cut into jobs makes none again.
        """
        return self._told("train", self.runs.trained, self.plan.runs[wildcards.head, wildcards.key], self._untrained)

    def evaluated_in(self, wildcards):
        """The same of an evaluation, which is made again for its task's code, too."""
        run = self.plan.evaluations[wildcards.head, wildcards.key, wildcards.evaluation]
        return self._told("evaluate", self.runs.evaluated, run, self._unevaluated)

    def _told(self, stage, together: Together, run: Run, unmade):
        """The mark of the job that makes a run; [] of one that is there. Once told it stays: the job may be at it."""
        output = _output(stage, run)
        if not self.workflow.is_main_process:
            return []
        if output not in self._made_in and os.path.exists(output):  # what is stale is told by a manifest that is not
            for dataset in dict.fromkeys(dataset for dataset, _ in self.read_at(stage, run)):
                self.look_at(dataset)
        if output not in self._made_in:
            runs = together.beside(together.place(run))
            named = {of for of in runs if _output(stage, of) in (self.workflow.dag_settings.targets or ())}
            wanted = [of for of in runs if _output(stage, of) not in self._made_in and unmade(of)]
            jobs = together.cut([of for of in wanted if of not in named], self._at_once(stage, runs))
            for made in [*jobs, *([of] for of in wanted if of in named)]:
                mark = f"logs/{stage}/{run.head}/{together.name(made)}.done"
                Path(mark).unlink(missing_ok=True)  # of a Snakemake that was killed
                self._made_in |= {_output(stage, of): mark for of in made}
        if (mark := self._made_in.get(output)) is None:
            self._forget(output)
            return []
        return mark

    def _forget(self, output, *rules):
        """Has Snakemake forget what made a run, so that no job is made again for how runs were cut into jobs.

        Args:
            output: of the run.
            rules: of which it forgets; of any if none is named.
        """
        if not self.workflow.is_main_process:
            return
        known = self.workflow.persistence.metadata(IOFile(output))
        if known and (not rules or known.rule in rules):
            self.workflow.persistence.cleanup_metadata(IOFile(output))

    def _at_once(self, stage, runs):
        """How many jobs of runs may run at once: as params say, and no more than this machine lets start."""
        train = stage == "train"
        share = self._to_train(runs) if train else most(of_evaluation(run.params, run.config) for run in runs)
        found = self.plan.params.compute.jobs
        given = self.workflow.global_resources if self.workflow.local_exec else {}
        asked = {"_cores": share.cores, "gpu": self.plan.gpus if train else self.plan.evaluation_gpus}
        for name, takes in asked.items():
            there = given[name].value if name in given else None
            if there and takes:
                found = min(found, max(1, there // takes))
        return found

    def _untrained(self, run):
        """Whether a run has to be trained, or looked at, since its samples may be others."""
        if self._is_wanted("train", run):
            return True
        older = self._is_older(_output("train", run), [self.manifest_of(run.dataset)])
        return older or any(map(self.plan.misfits, self.plan.shard_manifests(self.inputs_of(run))))

    def _unevaluated(self, run):
        """Whether an evaluation has to be made, or its run is trained before."""
        if self._is_wanted("evaluate", run) or (trained := _output("train", run)) in self._made_in:
            return True
        read = self.evaluation_inputs_of(run)
        files = [trained, *self.manifests_of(read), *self.plan.code(run.config.task, "evaluate")]
        if self._untrained(run) or self._is_older(run.result_file, files):
            return True
        return any(map(self.plan.misfits, self.plan.shard_manifests(read)))

    def _is_wanted(self, stage, run):
        """Whether what says that a run is made is not there, or is forced."""
        settings, output = self.workflow.dag_settings, _output(stage, run)
        forced = settings.forceall or not {f"{stage}_runs", output}.isdisjoint(settings.forcerun)
        return forced or not os.path.exists(output)

    def _is_older(self, output, files):
        """Whether a file is older than one of others, as Snakemake sees it, or one of them is not there."""
        made = os.lstat(output).st_mtime
        seen = [path for path in files if not is_flagged(path, "ancient")]
        return any(not os.path.exists(path) or os.stat(path).st_mtime > made for path in seen)

    def runs_to_train(self, wildcards):
        """The runs of a job that trains several."""
        return self.runs.trained.named(wildcards.head, wildcards.runs)

    def runs_to_evaluate(self, wildcards):
        """The runs of a job that evaluates several."""
        return self.runs.evaluated.named(wildcards.head, wildcards.runs)

    def trained_before(self, wildcards):
        """What says that the runs of several evaluations are complete."""
        return list(dict.fromkeys(_output("train", run) for run in self.runs_to_evaluate(wildcards)))

    def keys_to_train(self, wildcards):
        """What names them on the command line."""
        return " ".join(f"--runs {run.key}" for run in self.runs_to_train(wildcards))

    def keys_to_evaluate(self, wildcards):
        """As `keys_to_train`."""
        return " ".join(f"--runs {run.key}/{run.evaluation}" for run in self.runs_to_evaluate(wildcards))

    def rows_part(self, runs):
        """A function of the canonical JSON of the part of params with the ablation of a job's runs, for the shell."""
        return lambda wildcards: shlex.quote(self.plan.part(ablation=self.runs.ablation_of(runs(wildcards))))

    def code_of(self, runs):
        """A function of the code that runs of one head are evaluated with."""
        return lambda wildcards: self.plan.code(runs(wildcards)[0].config.task, "evaluate")

    # --- searches ---------------------------------------------------------------------------------------------------

    def search_reads(self, wildcards):
        """What the trials of a search may read, as (data set, feature)."""
        return self.inputs_of(*self.plan.searched(wildcards.search))

    def search_manifests(self, wildcards):
        """The manifest tables of all data sets that its trials read."""
        return self.manifests_of(self.search_reads(wildcards))

    def search_shards(self, wildcards):
        """The shard manifests that its trials may read."""
        return self.shards_of(self.search_reads(wildcards))

    def search_key(self, wildcards):
        """What changes when a trial would be another run."""
        return self.plan.search_key(wildcards.search)

    def study_of_search(self, wildcards):
        """As `study_of`, of a search."""
        return self._study(f"searches.{wildcards.search}")

    # --- inputs -----------------------------------------------------------------------------------------------------

    def page_results(self, wildcards):
        """What the page waits for, and what it is made again for: what this call was asked for, and all that is there.

        The first by their own names, so that they are made before. The others by absolute paths, which nothing makes:
        a page of what is finished never starts a training.
        """
        groups = {
            "all": self.every_result(),
            "ablations": self.every_ablation(),
            "searches": self.every_search(),
            "claims": ["results/claims.json"],
        }
        targets = self.workflow.dag_settings.targets or ["all"]
        asked = [path for target in targets for path in groups.get(target, [target])]
        awaited = {path for path in asked if path.startswith("results/")} - {PAGE}
        there = {path for kind in RESULTS for path in glob.glob(kind)} - awaited
        # What lies in a folder that is awaited is there after this call, if not before: named, it would be an input
        # more in the next one, and the page made again for it.
        there = {path for path in there if os.path.dirname(path) not in awaited}
        return sorted(awaited) + [os.path.abspath(path) for path in sorted(there)]

    def rendered_datasets(self):
        """A regular expression of the data sets that toyworld may write: never a real one, wherever that lies."""
        return one_of(self.plan.rendered)

    def as_found(self, path):
        """A file as an input; where it was pulled, not made by this project, its time is chance and says nothing."""
        if os.path.exists(path) and not self.workflow.persistence.metadata(IOFile(path)):
            return ancient(path)
        return path

    def see_every_edit(self):
        """Adds the triggers that numbers rest on to those of a command line or profile that leaves some of them out.

        Called where the first manifest is asked for: of every plan, before it is decided what runs; when rules are read
        the settings are not known yet.
        """
        chosen = set(self.workflow.dag_settings.rerun_triggers)
        unseen = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT} - chosen
        if unseen:
            self.workflow.dag_settings.rerun_triggers = frozenset(chosen | unseen)
            names = ", ".join(sorted(trigger.item_to_choice() for trigger in unseen))
            print(
                f"rerun-triggers: {names} added; without them an edit would leave old numbers",
                file=sys.stderr,
            )

    def standing(self, dataset):
        """How a data set's manifest stands to its files."""
        self.see_every_edit()
        executes = self.workflow.executor_plugin is not None and not self.workflow.dryrun
        return self.plan.standing(dataset, executes)

    def manifest_of(self, dataset):
        """The manifest table of a data set as an input; where it was pulled, its time says nothing."""
        path = f"features/{dataset}/manifest.parquet"
        if not self.workflow.is_main_process:
            return path
        found = self.standing(dataset)
        return self.as_found(path) if found.pulled and not found.stale else path

    def stamp(self, wildcards):
        """What is newer than a manifest where a file that it was made from was replaced; a job finds it as it is."""
        if self.workflow.is_main_process:
            return str(self.standing(wildcards.dataset).stamp)
        return str(STAMPS / wildcards.dataset)

    def edited_params(self, wildcards):
        """The params; their time matters where they ask for another rendering than was pulled: nothing else tells."""
        stale = self.plan.rendered_otherwise(wildcards.dataset)
        return self.params_files if stale else [ancient(path) for path in self.params_files]

    def params_for(self, output, files=None):
        """A function of the params files; their time matters where it is unknown what made an output: it was pulled.

        Args:
            output: the file, or a function of wildcards that gives it.
            files: a function of wildcards that gives these files; those of params alone if None.
        """

        def inputs(wildcards):
            made = output(wildcards) if callable(output) else output.format_map(dict(wildcards))
            known = self.workflow.persistence.metadata(IOFile(made))
            read = files(wildcards) if files else self.params_files
            return [ancient(path) for path in read] if known else read

        return inputs

    def study_of(self, wildcards):
        """The params files, and the study that an ablation stands in where that is a file of its own."""
        return self._study(f"ablations.{wildcards.ablation}")

    def _study(self, key):
        file = self.written.origins.get(key)
        return [*self.params_files, *([file] if file else [])]

    def every_study(self, wildcards):
        """The params files and all their studies."""
        return self.written.files

    def annotations(self, wildcards):
        """The annotation files of a data set; those that toyworld renders exist only once its checkpoint has run."""
        if rendered := self.plan.rendered_with(wildcards.dataset):
            return self.as_found(self.checkpoints.toyworld.get(dataset=rendered).output[0])
        return [
            *self.plan.annotation_files(wildcards.dataset),
            *self.plan.label_files(wildcards.dataset),
        ]

    def manifest_part(self, wildcards):
        """The part of params that a manifest is made from, quoted for the shell."""
        imported = self.plan.imported(wildcards.dataset)
        return shlex.quote(self.plan.part(dataset=wildcards.dataset, features=imported))

    def afresh(self, wildcards, output):
        """A forced manifest trusts no size and no time. With the output, so that Snakemake does not remember it."""
        settings = self.workflow.dag_settings
        forced = settings.forceall or "manifest" in settings.forcerun
        return "--afresh" if forced or output.table in settings.forcerun else ""

    def imported(self, wildcards):
        return " ".join(self.plan.imported(wildcards.dataset))

    def look_at(self, dataset):
        """Has what decides a data set's shards made first: the rendered annotations, and a stale manifest.

        The extraction itself waits for a manifest that is not there yet: shards follow from the annotation files.
        """
        if rendered := self.plan.rendered_with(dataset):
            self.checkpoints.toyworld.get(dataset=rendered)
        if os.path.exists(f"features/{dataset}/manifest.parquet"):
            self.checkpoints.manifest.get(dataset=dataset)

    def run_shards(self, wildcards):
        """The shard manifests that a run reads: every shard of every feature of its head."""
        return self.shards_of(self.inputs_of(self.plan.runs[wildcards.head, wildcards.key]))

    def every_shard(self, wildcards):
        """The shard manifests of every feature that a head or a data set asks for."""
        datasets = self.plan.params.datasets
        return self.shards_of([(name, feature) for name in datasets for feature in self.plan.features(name)])

    def range_reads(self, wildcards):
        """The shard manifests of the features that a range of shards of a feature is made from."""
        dataset, feature = wildcards.dataset, wildcards.feature
        read = (self.plan.read_by(dataset, feature, shard) for shard in self.plan.within(dataset, wildcards.shards))
        return self.as_made(list(dict.fromkeys(path for of in read for path in of)))

    def range_manifest(self, wildcards):
        """The manifest that a range of shards is made from: which of them are out of date was asked before."""
        return ancient(f"features/{wildcards.dataset}/manifest.parquet")

    def made_in(self, wildcards):
        """The mark that a job leaves for Snakemake once it has made a shard, and others with it.

        A finished shard has none, and nothing that Snakemake remembers of it: how shards were cut into jobs, and what
        else was true then, makes none again. What it holds, and of what, its manifest says (`Plan.misfits`).
        """
        dataset, feature, shard = wildcards.dataset, wildcards.feature, int(wildcards.shard)
        told = self.plan.ranges(dataset, feature).get(shard)
        if told is None:
            if self.workflow.is_main_process:
                self.workflow.persistence.cleanup_metadata(IOFile(self.plan.shard_path(dataset, feature, shard)))
            return []
        group = self.plan.together(feature)
        store = Path(self.plan.shard_path(dataset, feature, shard)).parent.name
        stage = "derive" if feature in self.plan.derived else "extract"
        mark = f"logs/{stage}/{dataset}/{store if len(group) == 1 else '_and_'.join(group)}/shard-{told}.done"
        if mark not in self._marks and self.workflow.is_main_process:
            Path(mark).unlink(missing_ok=True)  # of a Snakemake that was killed
        self._marks.add(mark)
        return mark

    def feature_gpus(self, wildcards):
        return self.plan.extraction_gpus(wildcards.feature)

    def scored_alone(self):
        """A regular expression of the keys of runs that are no part of a sweep."""
        swept = "|".join(run.key for runs in self.plan.swept.values() for run in runs)
        return f"(?!{swept})[0-9a-f]{{10}}" if swept else "[0-9a-f]{10}"

    def extracted_alone(self):
        """The features that have a job of their own: neither derived, nor extracted together with others."""
        apart = {*self.plan.derived, *self.plan.fused}
        return one_of([name for name in self.plan.params.features if name not in apart])

    def derived(self):
        return one_of(self.plan.derived)

    def run_manifest(self, wildcards):
        """The manifest table of the data set that a run reads."""
        run = self.plan.runs[wildcards.head, wildcards.key]
        self._forget(_output("train", run), "trained")
        return self.manifest_of(run.dataset)

    def evaluation_manifests(self, wildcards):
        """The manifest tables of all data sets that an evaluation reads."""
        return self.manifests_of(self._read_by(wildcards))

    def evaluation_shards(self, wildcards):
        """The shard manifests that an evaluation reads: those of its run, and of what else it looks at."""
        return self.shards_of(self._read_by(wildcards))

    def inputs_of(self, *runs):
        """What runs read, as (data set, feature), each once."""
        return list(dict.fromkeys(read for run in runs for read in run.config.inputs.values()))

    def evaluation_inputs_of(self, *runs):
        """The same of their evaluations, which may read other data sets, too."""
        return list(dict.fromkeys(read for run in runs for read in run.config.evaluation_inputs.values()))

    def read_at(self, stage, *runs):
        """What runs read when they are trained, or evaluated."""
        return (self.inputs_of if stage == "train" else self.evaluation_inputs_of)(*runs)

    def _read_by(self, wildcards):
        return self.evaluation_inputs_of(self.plan.evaluations[wildcards.head, wildcards.key, wildcards.evaluation])

    def manifests_of(self, reads):
        """The manifest tables of the data sets of what is read."""
        return [self.manifest_of(dataset) for dataset in dict.fromkeys(dataset for dataset, _ in reads)]

    def shards_of(self, reads):
        """The shard manifests of what is read."""
        for dataset in dict.fromkeys(dataset for dataset, _ in reads):
            self.look_at(dataset)
        return self.as_made(self.plan.shard_manifests(reads))

    def as_made(self, shards):
        """Shard manifests as inputs: when they were made says nothing, unless they will be made anew, of others.

        Snakemake does not ask a job for reasons of its own once it waits for one that runs; were all of them ancient,
        it would be left out of that call.
        """
        if not self.workflow.is_main_process:
            return shards
        return [path if self.plan.misfits(path) else ancient(path) for path in shards]

    def text_inputs(self, wildcards):
        """What a run reads of data sets of texts."""
        inputs = self.inputs_of(self.plan.runs[wildcards.head, wildcards.key])
        return [read for read in inputs if self.plan.params.datasets[read.dataset].kind == "text"]

    def text_manifests(self, wildcards):
        return self.manifests_of(self.text_inputs(wildcards))

    def text_shards(self, wildcards):
        """The shard manifests of every feature of texts that a run reads."""
        return self.shards_of(self.text_inputs(wildcards))

    def of_runs(self, function, runs, stage="train"):
        """A function of what some runs read at a stage, as one of their job; `runs` may take wildcards."""
        return lambda wildcards: function(self.read_at(stage, *(runs(wildcards) if callable(runs) else runs)))

    def part(self, *names, features=()):
        """The canonical JSON of the part of params that a rule may see, quoted for the shell."""

        def quoted(wildcards):
            chosen = {name: getattr(wildcards, name) for name in names}
            feature = chosen.pop("feature", None)
            return shlex.quote(self.plan.part(features=(feature,) if feature else features, **chosen))

        return quoted

    def shard_source(self, wildcards):
        """The manifest that a shard is made from.

        Its time says nothing: only where it is out of date is it awaited, and the shard looked at again; and where the
        shard holds other samples than it says, the shard is made again.
        """
        dataset = wildcards.dataset
        path = f"features/{dataset}/manifest.parquet"
        if not self.workflow.is_main_process:
            return path
        if self.standing(dataset).stale:
            self.checkpoints.manifest.get(dataset=dataset)
        made = self.plan.shard_path(dataset, wildcards.feature, int(wildcards.shard))
        return path if self.plan.misfits(made) else ancient(path)
