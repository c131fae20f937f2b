"""Which cores, memory and GPUs a job takes. Knows Snakemake."""

import sys

from pipeline.plan import Plan
from pipeline.resources import Share, idle_gpus, most, of_evaluation, of_extraction, of_training


class Needs:
    """What the jobs of a plan take of a machine.

    Args:
        plan: of the params.
        workflow: Snakemake's.
    """

    def __init__(self, plan: Plan, workflow) -> None:
        self.plan, self.workflow = plan, workflow
        self._said: set[str] = set()
        self._waiting: dict[str, set] = {}

    def cores_to_extract(self, *features):
        """A function of the cores of an extraction or a derivation of features: those named, or the wildcard's."""

        def cores(wildcards):
            names = features or (wildcards.feature,)
            share = of_extraction(self.plan.params, *names)
            gpus = self.extraction_gpus(*names)
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
            share = self.to_train(runs(wildcards))
            self.say_idle("a training", wildcards, share, self.gpus, "threads")
            return share.cores

        return cores

    def memory_to_train(self, runs):
        """A function of their MB."""
        return lambda wildcards, attempt: attempt * self.to_train(runs(wildcards)).mem_mb

    @staticmethod
    def to_train(runs):
        """The share of a job that trains runs one after the other."""
        return most(of_training(run.params, run.config) for run in runs)

    def cores_of(self, runs):
        """A function of the cores of what asks the stores of runs in one process; `runs` may take wildcards."""
        return lambda wildcards: self._to_evaluate(runs, wildcards).cores

    def memory_of(self, runs):
        """A function of its MB."""
        return lambda wildcards, attempt: attempt * self._to_evaluate(runs, wildcards).mem_mb

    def _to_evaluate(self, runs, wildcards):
        found = runs(wildcards) if callable(runs) else runs
        return most(of_evaluation(run.params, run.config) for run in found)

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

    def feature_gpus(self, wildcards):
        return self.extraction_gpus(wildcards.feature)

    @property
    def gpus(self) -> int:
        """How many of the scheduler's `gpu` units a training takes, on all of its nodes."""
        compute = self.plan.params.compute
        return 0 if compute.device == "cpu" else compute.devices * compute.nodes

    @property
    def launcher(self) -> str:
        """What stands before a training's command, ending in a space: nothing on one node, Slurm's srun on several."""
        compute = self.plan.params.compute
        cores = compute.threads + compute.decode_workers
        tasks = f"--nodes={compute.nodes} --ntasks-per-node={compute.devices} --cpus-per-task={cores}"
        return f"srun --kill-on-bad-exit=1 {tasks} " if compute.nodes > 1 else ""

    @property
    def evaluation_gpus(self) -> int:
        """How many an evaluation takes: one, whatever the training took."""
        return min(1, self.gpus)

    def extraction_gpus(self, *features: str) -> int:
        """How many of the scheduler's `gpu` units an extraction takes: one, if a network runs at all."""
        chosen = [self.plan.params.features[name] for name in features]
        runs = any(feature.sources or feature.compares for feature in chosen)
        return int(runs and self.plan.params.compute.device != "cpu")
