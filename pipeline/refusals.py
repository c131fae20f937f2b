"""How Snakemake tells what a person can correct: the sentence, without the lines of code that it came through.

Knows Snakemake and no module of this package.
"""

import logging
from collections.abc import Mapping
from typing import Any

from snakemake import rules
from snakemake.exceptions import InputFunctionException, WorkflowError
from snakemake.logging import logger

OURS = "pipeline."
RUN_NOTHING = ("shard", "trained", "evaluated")  # rules that hand on what a job has made
UNEXPECTED = [f"output files of rule {name} were not present when the DAG was created" for name in RUN_NOTHING]


class CannotPlan(InputFunctionException):
    """Params or data that no plan can be made of.

    Errors of ours carry their remedy, and have no traceback: Snakemake would print one of each error that leaves a
    Snakefile. Of any other it says, as ever, in which rule, for which wildcards and in which line it was raised.

    Args:
        error: what was raised, or a sentence.
        wildcards: of the job, where a function of a rule raised it; `where` says which rule.
    """

    def __init__(self, error: Any, wildcards: Mapping[str, Any] | None = None, **where: Any) -> None:
        of_ours = type(error).__module__.startswith(OURS)
        self.is_ours = of_ours or (isinstance(error, str) and not where)
        if self.is_ours:
            WorkflowError.__init__(self, str(error))
        else:
            super().__init__(error, wildcards=wildcards or {}, **where)

    @property
    def __traceback__(self) -> Any:
        return None if self.is_ours else super().__traceback__

    @__traceback__.setter
    def __traceback__(self, found: Any) -> None:
        self.with_traceback(found)


def plainly() -> None:
    """From now on Snakemake tells our errors plainly: it raises what has this name among its rules.

    And says nothing of each shard or run that a job has made with others: these are hundreds of lines, and one is a
    warning that it is there.
    """
    rules.InputFunctionException = CannotPlan
    if _tells not in logger.filters:
        logger.addFilter(_tells)


def _tells(record: logging.LogRecord) -> bool:
    return getattr(record, "rule_name", "") not in RUN_NOTHING and not any(of in str(record.msg) for of in UNEXPECTED)
