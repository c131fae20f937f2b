"""Searches the hyper-parameters of a head: Optuna proposes, each trial is an ordinary training, its holdout judges it.

Knows no evaluated split: nothing here evaluates. What trial n tries depends on the search's seed, on n, and on what the
trials before it came to, and a trial that is finished is its run, complete already. So a search that is killed goes on
where it was, and ends as if it had not been; no study is kept but the runs.
"""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Axis, ParamsError, Search, canonical_json
from pipeline.config.base import shown
from pipeline.config.variants import parted
from pipeline.digests import read_kept, write_json
from pipeline.plan import TRIALS, Plan
from pipeline.projects import SEARCHES
from pipeline.runs import HISTORY, Run, say

FINISHED, REFUSED, FAILED = "finished", "refused", "failed"
DIGITS = 4  # of a proposed number: as many as one wants to paste

Trial = dict[str, Any]


def search(plan: Plan, name: str, folder: Path = SEARCHES, progress: Callable[[str], None] = say) -> dict[str, Any]:
    """Brings a search to its end: trains the trials that no run holds yet.

    After each trial `folder`/<name>/trials.json names all that are finished, for `prune` and the table of runs.

    Args:
        plan: of params that declare the search.
        name: of the search.
        folder: of the searches' results.
        progress: called with one line an epoch and a trial.

    Returns:
        key, head, figure, sampler, seed, space; `trials`, each with number, state (finished; refused: values that do
        not fit each other; failed: a loss that is no number, a head that cannot be built), reason, params, value and
        holdout_loss of the best epoch, best_epoch, trainable, run; `best`, or None; `importance` of each parameter, or
        None where it cannot be told. Nothing of it depends on the moment, or on how often the search was killed.

    Raises:
        DataError, RunBusy, RunError: as `training.train`; none of one trial alone.
    """
    chosen, key = plan.params.searches[name], plan.search_key(name)
    trials: list[Trial] = []
    known = plan.tried(name, folder)
    for number in range(chosen.count):
        trials.append({"number": number, **_tried(plan, chosen, proposed(chosen, number, trials), progress)})
        # Those that are yet to be found again stay: if this is killed now, `prune` must not take their runs.
        later = known[number + 1 :] if number + 1 < chosen.count else []
        write_json(folder / name / TRIALS, {"key": key, "trials": [*trials, *later]})
        progress(f"searches.{name}: {_line(plan, chosen, trials)}")
    top = best(trials)
    return {
        "key": key,
        "head": chosen.head,
        "figure": plan.task(chosen.head).judged,
        "sampler": chosen.sampler,
        "seed": chosen.seed,
        "space": {name: axis.model_dump(mode="json", exclude_defaults=True) for name, axis in chosen.space.items()},
        "trials": trials,
        "best": None if top is None else {**top, "paste": paste(plan, chosen.head, top["params"])},
        "importance": importance(chosen, trials),
    }


def best(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the highest figure; of equal ones, the lowest holdout loss; of equal ones, the first.

    >>> best([{"state": "finished", "value": 0.5, "holdout_loss": loss} for loss in (0.9, 0.7, None)])["holdout_loss"]
    0.7
    """
    known = [trial for trial in trials if trial["state"] == FINISHED]
    worth = lambda of: (of["value"], -math.inf if of["holdout_loss"] is None else -of["holdout_loss"])  # noqa: E731
    return max(known, key=worth, default=None)


def paste(plan: Plan, head: str, params: Mapping[str, Any]) -> str:
    """YAML to lay over a params file: the values of a trial where they belong, of the head and of features."""
    own, varied = parted(params, plan.params.features)
    document: dict[str, Any] = {}
    for section, changes in (("heads", {head: own}), ("features", varied)):
        for name, of in changes.items():
            for dotted, value in of.items():
                *path, last = (section, name, *dotted.split("."))
                node = document
                for part in path:
                    node = node.setdefault(part, {})
                node[last] = value
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True)


def _tried(plan: Plan, chosen: Search, params: Mapping[str, Any], progress: Callable[[str], None]) -> Trial:
    """What a training with these values comes to."""
    from pipeline.training import train
    from pipeline.training.callbacks import TrainingDiverged
    from pipeline.training.registry import HeadError

    empty = {"value": None, "holdout_loss": None, "best_epoch": None, "trainable": None}
    try:
        run = plan.run(chosen.head, dict(params))
        if not run.config.trains:
            raise ParamsError("trains nothing with these values")
    except ParamsError as error:
        return {"state": REFUSED, "reason": str(error), "params": dict(params), "run": None, **empty}
    # One device, as a baseline: the trials of a search are one job.
    alone = run.params.compute.model_copy(update={"devices": 1, "nodes": 1, "strategy": "auto"})
    run = replace(run, params=run.params.model_copy(update={"compute": alone}))
    told = {"params": dict(params), "run": run.folder.as_posix()}
    try:
        record = train(run, progress)
    except (TrainingDiverged, HeadError) as error:
        return {"state": FAILED, "reason": str(error), **told, **empty}
    return {
        "state": FINISHED,
        "reason": None,
        **told,
        "value": record["holdout_accuracy"],
        "holdout_loss": _loss(run, record),
        "best_epoch": record["best_epoch"],
        "trainable": record["trainable"],
    }


def _loss(run: Run, record: Mapping[str, Any]) -> float | None:
    """Of the best epoch, on the holdout; None where it is no number."""
    history = read_kept(run.folder / HISTORY, record[HISTORY], f"delete {run.folder} and search again")
    rows = list(csv.DictReader(io.StringIO(history.decode())))
    text = rows[record["best_epoch"] - 1]["holdout_loss"]
    loss = float(text) if text else math.nan
    return loss if math.isfinite(loss) else None


def _line(plan: Plan, chosen: Search, trials: Sequence[Trial]) -> str:
    trial, top = trials[-1], best(trials)
    said = " ".join(f"{name}={shown(value)}" for name, value in trial["params"].items())
    judged = plan.task(chosen.head).judged
    came = f"holdout {judged} {trial['value']:.3f}" if trial["state"] == FINISHED else trial["reason"]
    so_far = "" if top is None else f"; best: {top['value']:.3f}, trial {top['number']}"
    return f"trial {trial['number']}, {len(trials)} of {chosen.count}: {said}: {came}{so_far}"


# --- what Optuna is asked ---------------------------------------------------------------------------------------------


def proposed(chosen: Search, number: int, before: Sequence[Trial]) -> dict[str, Any]:
    """The values of a trial, by dotted key.

    Args:
        chosen: the search.
        number: of the trial, from 0.
        before: the trials 0 to number - 1.
    """
    if chosen.sampler == "grid":
        return chosen.grid[number]
    optuna = _optuna()
    # A sampler's own stream would go on from the trial before, which a resumed search has not drawn.
    seed = int.from_bytes(hashlib.sha256(f"{chosen.seed}:{number}".encode()).digest()[:4], "big")
    sampler = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[chosen.sampler](seed=seed)
    asked = _study(optuna, chosen, before, sampler).ask(fixed_distributions=_distributions(optuna, chosen))
    return {name: _value(axis, asked.params[name]) for name, axis in sorted(chosen.space.items())}


def importance(chosen: Search, trials: Sequence[Trial]) -> dict[str, float] | None:
    """The share of each parameter in the variance of the figure over the space, the largest first.

    Returns:
        None where fewer than two trials are finished, or all came to the same.

    Source: Hutter, Hoos & Leyton-Brown, ICML 2014 (fANOVA), as Optuna estimates it.
    """
    if len({trial["value"] for trial in trials if trial["state"] == FINISHED}) < 2:
        return None
    optuna = _optuna()
    study = _study(optuna, chosen, trials, optuna.samplers.RandomSampler(seed=0))
    judge = optuna.importance.FanovaImportanceEvaluator(seed=chosen.seed % 2**32)
    found = optuna.importance.get_param_importances(study, evaluator=judge)
    return {name: float(f"{share:.{DIGITS}g}") for name, share in found.items()}


def _optuna() -> Any:
    """Imported where it is asked: no plan and no page needs it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, chosen: Search, trials: Sequence[Trial], sampler: Any) -> Any:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    axes = _distributions(optuna, chosen)
    # Pruned without a figure is the worst there is, which keeps proposals away from what cannot be trained.
    states = {FINISHED: optuna.trial.TrialState.COMPLETE}
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.get(trial["state"], optuna.trial.TrialState.PRUNED),
                value=trial["value"],
                params={name: _told(chosen.space[name], value) for name, value in trial["params"].items()},
                distributions=axes,
            )
        )
    return study


def _distributions(optuna: Any, chosen: Search) -> dict[str, Any]:
    """By key in an order that is no file's: each draws from one stream."""
    of, found = optuna.distributions, {}
    for name, axis in sorted(chosen.space.items()):
        if axis.choices is not None:
            found[name] = of.CategoricalDistribution(range(len(axis.choices)))  # of choices by number: any value is one
        elif axis.whole:
            found[name] = of.IntDistribution(axis.low, axis.high, log=axis.log, step=axis.step or 1)
        else:
            found[name] = of.FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return found


def _value(axis: Axis, drawn: Any) -> Any:
    """What a trial is trained with, for what was drawn: of a continuous range so many digits as one wants to paste."""
    if axis.choices is not None:
        return axis.choices[drawn]
    if axis.whole:
        return int(drawn)
    digits = 12 if axis.step else DIGITS
    return min(max(float(f"{drawn:.{digits}g}"), float(axis.low)), float(axis.high))


def _told(axis: Axis, value: Any) -> Any:
    """The inverse of `_value`."""
    if axis.choices is None:
        return value
    return [canonical_json(choice) for choice in axis.choices].index(canonical_json(value))  # 1 is not true
