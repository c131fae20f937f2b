"""What all commands share: the program, its options, what a job was given, how errors are told. Knows no command."""

import errno
import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.memory import DISK, FILES, LACKS, first_line, is_out_of_memory

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.plan import Plan
    from pipeline.runs import Run

HELP = """Extract features once, train heads on them as often as you like.

The Snakemake workflow calls these commands. By hand you will mostly want predict, explain, info, verify and prune.
"""
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
# A pipe has no width of its own: in a log a table should not be folded at 80 columns.
# Files and classes are called as users please: "cam[red]1.webm" is a name, no markup.
console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)

OURS = ("pipeline.", "permafrost.")
LACKING = {
    **{number: lack[1] for number, lack in LACKS.items() if lack in (DISK, FILES)},
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get the right to it or name another place"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR), "name a file where one is wanted, and a folder where that is"),
    errno.EEXIST: "name a folder, or remove the file that is there",
    errno.ENAMETOOLONG: "name it shorter",
}
SECONDS_BETWEEN_LINES = 5.0
CORES: ContextVar[int | None] = ContextVar("CORES", default=None)  # that this command was given, where somebody said
ParamsOption = Annotated[str, typer.Option("--params", help="Parameters: a YAML file, or a literal JSON document.")]
ShardsOption = Annotated[
    str | None, typer.Option("--shards", "--shard", help="Only these shards: 3, or 3-66; by default all.")
]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        help="Instead of the head as params have it, runs of its ablations, one after the other in one process: an "
        "ablation's name, or a row's key. Repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a parameter of the head: model.fusion=concat. Repeatable.")
]


@app.callback(invoke_without_command=False)
def given(
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Cores that a job was given: what params say of processes is lowered to fit."),
    ] = None,
) -> None:
    CORES.set(cores)


def fitting(params: "Params", threads: int, processes: int = 1) -> "Params":
    """Params with as many decode processes or readers as the cores of this job leave.

    Args:
        threads: those that compute.
        processes: among which the cores are divided.
    """
    cores = CORES.get()
    if cores is None:
        return params
    from pipeline.resources import within

    fitting = within(params.compute, cores // processes, threads)
    if fitting != params.compute:
        wanted = params.compute.decode_workers
        say(f"--cores {cores}: {fitting.decode_workers} of the {wanted} of compute.decode_workers are started")
    return params.model_copy(update={"compute": fitting})


def say(line: str) -> None:
    """One line, at once, so that a log shows progress while the job runs."""
    print(line, flush=True)


def params_of(source: str, **parts: Any) -> "Params":
    """Params, or the parts of them that a command needs: `config.load_params`."""
    from pipeline.config import load_params

    return load_params(source, **parts)


def plan_of(source: str, **parts: Any) -> "Plan":
    """The plan of params, or of parts of them."""
    from pipeline.plan import Plan

    return Plan(params_of(source, **parts))


def learner(source: str, everywhere: bool = False, **parts: Any) -> "Plan":
    """`plan_of` what reads stores, fitted to this job. On several nodes each process is given cores of its own."""
    from pipeline.plan import Plan

    params = params_of(source, **parts)
    compute = params.compute
    return Plan(fitting(params, compute.threads, compute.devices if everywhere and compute.nodes == 1 else 1))


def run_of(params: str, head: str, changes: list[str] | None, everywhere: bool = False) -> "Run":
    """The run of a head, with the overrides applied; where it is trained everywhere, on all devices of this node."""
    from pipeline.config import assigned

    plan = learner(params, everywhere, heads=head)
    return plan.run(head, dict(assigned(change, "--set") for change in changes or ()))


class Lines:
    """Progress as a line every few seconds, and at the end."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            say(f"{self.name}: {done} of {total}")


def main(program: Callable[[], Any] | None = None) -> None:
    """Runs a command, of `app` or of another program; an error that the user can correct is one message."""
    for stream in (sys.stdout, sys.stderr):
        # A log or a pipe is UTF-8 whatever the locale; a terminal shows what it can. No name of a user's ends a verb.
        stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    # Another package's backbone or head may lie beside params.yaml: `python -m pipeline` finds it there by itself.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        (program or app)()
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        # Every error of ours carries its remedy and comes from one of our modules; where the machine lacks something it
        # is told here; anything else is a bug.
        message = str(error) if type(error).__module__.startswith(OURS) else _of_the_machine(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def _of_the_machine(error: Exception) -> str | None:
    """The message for lack of memory, disk space or permission; None for any other error."""
    if isinstance(error, OSError) and error.errno in LACKING:
        return f"{error.filename or 'a file'}: {os.strerror(error.errno)}; {LACKING[error.errno]}, and run again"
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)}); lower batch, batch_size, cache_memory_gb or a width in params"
    return None
