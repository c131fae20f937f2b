"""The runs that one job makes, and which have to be made. Knows Snakemake."""

import os
import shlex
from pathlib import Path

from snakemake.io import IOFile, is_flagged

from pipeline.jobs.code import of_task
from pipeline.jobs.names import before, one_of, unless
from pipeline.jobs.needs import Needs
from pipeline.jobs.reads import Reads
from pipeline.plan import Plan
from pipeline.resources import most, of_evaluation
from pipeline.runs import RESULT, RUN, Run
from pipeline.together import Runs, Together


def _output(stage, run):
    return f"{run.folder}/{RUN}" if stage == "train" else run.result_file


class Several:
    """The trainings and evaluations of a plan: alone, and several in one job.

    Args:
        plan: of the params.
        workflow: Snakemake's.
        reads, needs: of its jobs.
    """

    def __init__(self, plan: Plan, workflow, reads: Reads, needs: Needs) -> None:
        self.plan, self.workflow, self.reads, self.needs = plan, workflow, reads, needs
        self.runs = Runs(plan)
        self._made_in: dict[str, str] = {}

    def trained_alone(self):
        """A regular expression of the heads with weights to learn, where no key of a run that others are trained with
        follows in a path.
        """
        heads = one_of(dict.fromkeys(run.head for run in self.plan.runs.values() if run.config.trains))
        return f"{unless(self.runs.trained.places)}{heads}"

    def trained_together(self):
        """A regular expression of heads that keys of such runs follow in a path."""
        return before(self.runs.trained.places)

    def evaluated_alone(self):
        """As `trained_alone`, of evaluations; nor does the key of a baseline follow, which has a job of its own.

        Of another head the same probe may be a run of its own, so a key alone does not tell.
        """
        probed = ((run.head, run.key) for runs in self.plan.probed.values() for run in runs)
        return f"{unless([*self.runs.evaluated.places, *probed])}[A-Za-z0-9][A-Za-z0-9_-]*"

    def evaluated_together(self):
        """As `trained_together`, of evaluations."""
        return before(self.runs.evaluated.places)

    def made(self, wildcards):
        """What says that the run of an evaluation is complete: weights, or what is mined; nothing where it has none."""
        run = self.plan.runs[wildcards.head, wildcards.key]
        self._forget(f"{run.folder}/{wildcards.evaluation}/{RESULT}", "evaluated")
        if run.config.trains:
            return f"{run.folder}/run.json"
        return [f"{run.folder}/negatives.csv"] if self.plan.task(run.head).mines else []

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
            for dataset in dict.fromkeys(dataset for dataset, _ in self.reads.read_at(stage, run)):
                self.reads.look_at(dataset)
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
        share = self.needs.to_train(runs) if train else most(of_evaluation(run.params, run.config) for run in runs)
        found = self.plan.params.compute.jobs
        given = self.workflow.global_resources if self.workflow.local_exec else {}
        asked = {"_cores": share.cores, "gpu": self.needs.gpus if train else self.needs.evaluation_gpus}
        for name, takes in asked.items():
            there = given[name].value if name in given else None
            if there and takes:
                found = min(found, max(1, there // takes))
        return found

    def _untrained(self, run):
        """Whether a run has to be trained, or looked at, since its samples may be others."""
        if self._is_wanted("train", run):
            return True
        older = self._is_older(_output("train", run), [self.reads.manifest_of(run.dataset)])
        return older or any(map(self.plan.misfits, self.plan.shard_manifests(self.reads.inputs_of(run))))

    def _unevaluated(self, run):
        """Whether an evaluation has to be made, or its run is trained before."""
        if self._is_wanted("evaluate", run) or (trained := _output("train", run)) in self._made_in:
            return True
        read = self.reads.evaluation_inputs_of(run)
        files = [trained, *self.reads.manifests_of(read), *of_task(run.config.task, "evaluate")]
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
        return lambda wildcards: of_task(runs(wildcards)[0].config.task, "evaluate")

    def run_manifest(self, wildcards):
        """The manifest table of the data set that a run reads."""
        run = self.plan.runs[wildcards.head, wildcards.key]
        self._forget(_output("train", run), "trained")
        return self.reads.manifest_of(run.dataset)
