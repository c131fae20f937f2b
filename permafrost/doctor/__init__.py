"""Asks a machine whether it is ready for a project: weights, GPUs, memory, disk, decoders, folders. Changes nothing.

Each check yields findings, and each finding that is no `ok` has its remedy. What cannot be known yet, such as the size
of features of a data set without a manifest, is said.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from permafrost.doctor import asked, machine
from permafrost.doctor.findings import Finding
from pipeline.config import Params, load_params

__all__ = ["Finding", "examine"]


def examine(source: str | Path = "params.yaml") -> Iterator[Finding]:
    """Looks at a machine, and at what a params document asks of it; findings come as they are made.

    Args:
        source: a params file or a literal document, as `python -m pipeline --params` takes it. Where it is a file that
            is absent, only the machine is looked at.

    Yields:
        One finding at least of each of: programs, torch, GPUs, cores, memory, shared memory, decoders, folders; of
        params: weights, data sets, imported features, and the disk that features take.
    """
    params: Params | None = None
    literal = str(source).lstrip().startswith("{")
    if not literal and not os.path.exists(source):
        yield Finding("note", "params", f"no {source} here: only the machine is looked at", "name one with --params")
    else:
        try:
            params = load_params(source)
            said = f"{len(params.datasets)} data sets, {len(params.features)} features, {len(params.heads)} heads"
            yield Finding("ok", "params", said)
        except (ValueError, OSError) as error:
            yield Finding("bad", "params", str(error), "correct it; only the machine is looked at")
    yield from machine.look(params)
    if params:
        yield from asked.look(params)
