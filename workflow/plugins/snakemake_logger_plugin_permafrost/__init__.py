"""Lets `snakemake --resources gpu=2 TARGET` parse: options of several values swallow a target that follows them.
And says in one line what is wrong with --configfile and --config, of which Snakemake would show a traceback, or not
even the file's name. Logger plugins are imported before the arguments are parsed; as a logger this one does nothing."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from snakemake_interface_executor_plugins.utils import base64_prefix
from snakemake_interface_logger_plugins.base import LogHandlerBase


def _is_pair(token: str) -> bool:
    # Jobs on a cluster get theirs encoded, which hides the = of most.
    return "=" in token or token.startswith(base64_prefix)


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


CONFIG_FILES, CONFIG = (next(names for names in VALUES if name in names) for name in ("--configfile", "--config"))


def values_of(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """The values of an option, wherever and however often it is given: the last time counts, as for argparse."""
    found: list[str] = []
    taking = False
    for token in argv[: argv.index("--")] if "--" in argv else argv:
        name, equals, value = token.partition("=")
        if token.startswith("-"):
            taking = name in names and not equals
            found = ([value] if equals else []) if name in names else found
        elif taking:
            found.append(token)
    return found


def complaint(argv: Sequence[str]) -> str | None:
    """What is wrong with the params files and entries of a command line; None where Snakemake can read them.

    What Snakemake reads, it may read: this may be anybody's workflow. What it cannot is read again for a better reason.
    """
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile

    try:
        parse_config(entries := values_of(argv, CONFIG))
    except ValueError as error:
        return (
            f"--config {' '.join(entries)}: {error} Of nested params write the first name alone before the =, as in "
            '--config "heads={fact: {lr: 1e-3}}"'
        )
    for path in values_of(argv, CONFIG_FILES):
        try:
            load_configfile(path)
        except Exception as error:  # a folder, bytes that are no text, a thousand brackets: each another kind
            from pipeline.config import ParamsError
            from pipeline.config.documents import read_documents

            try:
                read_documents([path])
            except ParamsError as reason:
                return str(reason)
            return f"{path} cannot be read by Snakemake: {error}"
    return None


class LogHandler(LogHandlerBase):
    emit = lambda self, record: None  # noqa: E731
    writes_to_stream = writes_to_file = has_filter = has_formatter = needs_rulegraph = False


if "snakemake" in Path(sys.argv[0]).parts[-2:]:
    sys.argv[1:] = targets_last(sys.argv[1:])
    if said := complaint(sys.argv[1:]):
        sys.exit(f"error: {said}")
