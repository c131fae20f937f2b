"""Which files a job waits for, and what of params it sees. Knows Snakemake."""

import os
import shlex
import sys
from pathlib import Path

from snakemake.io import IOFile, ancient
from snakemake.settings.types import RerunTrigger

from pipeline.config.documents import Written
from pipeline.datasets.standing import STAMPS
from pipeline.jobs.names import one_of
from pipeline.plan import Plan


class Reads:
    """Data sets, their manifests and shards, and params, as the inputs of jobs.

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
        self._marks: set[str] = set()

    def search_reads(self, wildcards):
        """What the trials of a search may read, as (data set, feature)."""
        return self.inputs_of(*self.plan.searched(wildcards.search))

    def search_manifests(self, wildcards):
        """The manifest tables of all data sets that its trials read."""
        return self.manifests_of(self.search_reads(wildcards))

    def search_shards(self, wildcards):
        """The shard manifests that its trials may read."""
        return self.shards_of(self.search_reads(wildcards))

    def study_of_search(self, wildcards):
        """As `study_of`, of a search."""
        return self._study(f"searches.{wildcards.search}")

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

    def extracted_alone(self):
        """The features that have a job of their own: neither derived, nor extracted together with others."""
        apart = {*self.plan.derived, *self.plan.fused}
        return one_of([name for name in self.plan.params.features if name not in apart])

    def derived(self):
        return one_of(self.plan.derived)

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
