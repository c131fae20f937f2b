"""The command line: the commands that the rules call, one for each step. Holds no logic of its own.

Imports happen inside the commands: `--help` should not pay for reading params, nor a plan for a deep-learning library.
"""

from .base import Overrides, ParamsOption, app, console, main, run_of, say
from .datasets import manifest, toyworld
from .features import derive, extract, info, plan, verify
from .heads import baselines, evaluate, explain, mine, predict, sanity, sweep, train
from .results import ablation, claims, page, prune, report, runs, search

__all__ = [
    "Overrides",
    "ParamsOption",
    "ablation",
    "app",
    "baselines",
    "claims",
    "console",
    "derive",
    "evaluate",
    "explain",
    "extract",
    "info",
    "main",
    "manifest",
    "mine",
    "page",
    "plan",
    "predict",
    "prune",
    "report",
    "run_of",
    "runs",
    "sanity",
    "say",
    "search",
    "sweep",
    "toyworld",
    "train",
    "verify",
]
