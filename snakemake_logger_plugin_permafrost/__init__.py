"""Lets `snakemake --resources gpu=2 TARGET` parse: options of several values swallow a target that follows them.
Logger plugins are imported before the arguments are parsed; as a logger this one does nothing."""

import sys
from collections.abc import Callable
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase


def _is_pair(token: str) -> bool:
    return "=" in token


def _is_params_file(token: str) -> bool:
    return token.endswith((".yaml", ".yml"))


# Which values an option takes, by its names. Options whose values are rules or targets themselves, as --forcerun, are
# not here: nothing tells the two apart.
VALUES: dict[tuple[str, ...], Callable[[str], bool]] = {
    ("--resources", "--res"): _is_pair,
    ("--default-resources", "--default-res"): _is_pair,
    ("--set-resources",): _is_pair,
    ("--set-threads",): _is_pair,
    ("--set-scatter",): _is_pair,
    ("--set-resource-scopes",): _is_pair,
    ("--config", "-C"): _is_pair,
    # The first is one whatever it is called.
    ("--configfile", "--configfiles"): _is_params_file,
    ("--software-deployment-method", "--deployment-method", "--deployment", "--sdm"): {
        "apptainer",
        "conda",
        "env-modules",
    }.__contains__,
    ("--rerun-triggers",): {"code", "input", "mtime", "params", "software-env"}.__contains__,
    ("--quiet", "-q"): {"all", "host", "progress", "reason", "rules"}.__contains__,
}
TAKES = {name: takes for names, takes in VALUES.items() for name in names}


def targets_last(argv: list[str]) -> list[str]:
    """argv with the targets that follow an option of several values moved behind a `--`; else argv itself."""
    end = argv.index("--") if "--" in argv else len(argv)
    kept, targets = [], []
    takes: Callable[[str], bool] | None = None
    first_is_a_value = False
    for token in argv[:end]:
        if token.startswith("-"):
            takes, first_is_a_value = TAKES.get(token), token.startswith("--configfile")
            kept.append(token)
        elif takes is None or first_is_a_value or takes(token):
            kept.append(token)
            first_is_a_value = False
        else:
            targets.append(token)
    return [*kept, "--", *targets, *argv[end + 1 :]] if targets else argv


class LogHandler(LogHandlerBase):
    emit = lambda self, record: None  # noqa: E731
    writes_to_stream = writes_to_file = has_filter = has_formatter = needs_rulegraph = False


if "snakemake" in Path(sys.argv[0]).parts[-2:]:
    sys.argv[1:] = targets_last(sys.argv[1:])
