"""Lets `snakemake --resources gpu=2 TARGET` parse: Snakemake's --resources swallows a target that follows it.
Logger plugins are imported before the arguments are parsed; as a logger this one does nothing."""

import sys
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase


def targets_last(argv: list[str]) -> list[str]:
    """argv with the targets that follow `--resources NAME=INT ...` moved behind a `--`; else argv itself."""
    end = argv.index("--") if "--" in argv else len(argv)
    kept, targets, inside = [], [], False
    for token in argv[:end]:
        inside = token in ("--resources", "--res") or (inside and not token.startswith("-"))
        (targets if inside and "=" not in token and not token.startswith("-") else kept).append(token)
    return [*kept, "--", *targets, *argv[end + 1 :]] if targets else argv


class LogHandler(LogHandlerBase):
    emit = lambda self, record: None  # noqa: E731
    writes_to_stream = writes_to_file = has_filter = has_formatter = needs_rulegraph = False


if "snakemake" in Path(sys.argv[0]).parts[-2:]:
    sys.argv[1:] = targets_last(sys.argv[1:])
