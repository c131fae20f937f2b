"""The installed command `permafrost`: features of your own files, and the other verbs of `python -m pipeline`.

The workflow's `extract` is not among them: its rules call it by its module. Holds no logic of its own.
"""

import copy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import cli as workflow
from pipeline.files import write_text

HELP = """Extract once, train forever: frozen features of videos and pictures, and heads that learn from them.

`permafrost extract` is for files of your own, and needs no params file; the workflow's verb of that name, for a feature
of a params file, is `python -m pipeline extract`. In Python: `import permafrost` (docs/using-the-stores.md).
"""
BY_HAND = ("predict", "explain", "info", "verify", "prune")
STEPS = "Steps of the Snakemake workflow, as `python -m pipeline`"
LISTED = 20
HEADS = ("torch", "onnx", "aoti")  # formats of a head's file; others are of stores

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
_EXPORTS = "npy, npz: a file an array or a sample; webdataset: tars; datasets: Parquet for Hugging Face's datasets."
_FORMATS = f"store: zarr or HDF5 with checksums and provenance; {_EXPORTS}"


def _version(asked: bool) -> None:
    if asked:
        import permafrost

        typer.echo(f"permafrost {permafrost.__version__}")
        raise typer.Exit()


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _backbones(asked: bool) -> None:
    if not asked:
        return
    from pipeline.features_only import offered

    table = Table(title="--backbone, what it gives by default, and its --weights")
    for column in ("backbone", "gives", "weights"):
        table.add_column(column, overflow="fold")
    for row in offered():
        table.add_row(*map(Text, row))
    workflow.console.print(table)
    workflow.say(
        "Others: my_package.module:MyBackbone (docs/adding-a-backbone.md). --set changes any field of the feature."
    )
    raise typer.Exit()


@app.command(rich_help_panel="Your own files")
def extract(
    paths: Annotated[list[Path], typer.Argument(help="Videos, pictures, or folders of them.", show_default=False)],
    backbone: Annotated[str, typer.Option(help="See --list-backbones; or my_package.module:MyBackbone.")],
    out: Annotated[Path, typer.Option(help="Folder for the features; may be used again for more files.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="A file or folder, OWNER/NAME@REVISION of a hub, random:SEED, or mini (shipped, for trying)."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of each video; by default as --list-backbones says.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Rows a second, of backbones that give a row a frame.")] = None,
    form: Annotated[str, typer.Option("--format", help=_FORMATS)] = "store",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of the feature: pool=2, precision=bf16. Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="Of a CPU; they decide the last bits.")] = 1,
    decode_workers: Annotated[int, typer.Option(help="Processes that decode; 0 decodes in this one.")] = 1,
    list_backbones: Annotated[
        bool, typer.Option("--list-backbones", callback=_backbones, is_eager=True, help="List them and exit.")
    ] = False,
) -> None:
    """Extract features of your own files: no params file, no labels. A killed extraction resumes where it was.

    Files that cannot be read are listed with their reasons at the end, and the others have their features; the exit
    code is 1 only where none has. For a feature of a params file: `python -m pipeline extract DATASET FEATURE`.
    """
    from pipeline.config import assigned, parse_params
    from pipeline.features_only import choose, extract_files

    compute = parse_params(
        {"compute": {"device": device, "extract_threads": threads, "decode_workers": decode_workers}}, "the options"
    ).compute
    choice = choose(backbone, weights, frames, fps, dict(assigned(change, "--set") for change in changes or ()))
    _warn(choice.warnings)
    found = extract_files(paths, choice, out, form, compute, workflow.say)
    done = len(found.ids) - len(found.failed)
    workflow.say(f"{found.folder}: {done} of {len(found.ids)} files have features")
    for sample, reason in list(found.failed.items())[:LISTED]:
        print(f"  failed: {sample}: {reason}", file=sys.stderr)
    if len(found.failed) > LISTED:
        print(f"  and {len(found.failed) - LISTED} more", file=sys.stderr)
    raise typer.Exit(0 if done else 1)


@app.command(rich_help_panel="What a project has made")
def export(
    what: Annotated[
        str,
        typer.Argument(
            help="A store's folder, with its key or without: features/DATASET/FEATURE. Or the name of a head.",
            show_default=False,
        ),
    ],
    form: Annotated[str, typer.Option("--format", help=f"{_EXPORTS} Of a head torch, onnx or aoti.")],
    out: Annotated[Path, typer.Option(help="Folder for the files; of a head the file.")],
    license: Annotated[str, typer.Option(help="URL of the features' licence, for the Croissant file.")] = "",
    url: Annotated[str, typer.Option(help="Where the features are published, for the Croissant file.")] = "",
    params: workflow.ParamsOption = "params.yaml",
    changes: workflow.Overrides = None,
) -> None:
    """Write a feature's store as files that other tools read, with labels, splits, provenance and a Croissant file.

    Failed samples are listed in failures.json. A killed export goes on where it was.

    Or write the finished run of a head as one file that other machines run, proved against its predictions: torch
    (torch.export), onnx, or aoti (compiled by AOTInductor).
    """
    if form in HEADS:
        from pipeline.deployment import export_head

        made = export_head(workflow.run_of(params, what, changes), form, out, workflow.say)
        apart = max(made.from_head, made.from_predictions)
        workflow.say(f"{made.path}: of {made.samples} samples it answers as the run did, to {apart:.1g}")
        return
    from permafrost.stores import find
    from pipeline.exports import export_store

    found = export_store(find(Path(what).expanduser()), form, out, license, url, workflow.say)
    workflow.say(f"{found.folder}: {found.samples} samples, {len(found.failed)} failed")


@app.command(rich_help_panel="A project of your own")
def init(
    place: Annotated[Path, typer.Argument(help="A folder of videos and pictures, or a table with a row for each.")],
    name: Annotated[str, typer.Option(help="Of the data set; its result is called after it.")],
    out: Annotated[Path, typer.Option(help="The params file to write.")],
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="NAME=WEIGHTS, as `permafrost extract --weights` takes them. Repeatable. By default shipped mini "
            "ones, which are for trying only.",
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="The kind of head that learns from the features.")] = "probe",
    allow_links: Annotated[
        bool, typer.Option("--allow-links", help="Take files that links out of the folder lead to.")
    ] = False,
) -> None:
    """Look at a folder or table of your own and write the params file that learns from it, with the command to run."""
    from permafrost.start import StartError, start

    if out.exists():
        raise StartError(f"{out} is there; remove it, or name another --out")
    given = None if backbones is None else dict(assigned_text(of) for of in backbones)
    found = start(place, name, out, given, head, allow_links)
    write_text(out, found.text)
    for line in found.said:
        workflow.say(line)
    _warn(found.warnings)
    workflow.say(f"{out} is written; now run\n  {found.command}")


def assigned_text(entry: str) -> tuple[str, str]:
    """NAME=WEIGHTS, parted."""
    name, mark, weights = entry.partition("=")
    if not mark or not name or not weights:
        raise typer.BadParameter(f"{entry!r} is no NAME=WEIGHTS, such as dinov3=weights/dinov3-vitb16")
    return name, weights


@app.command(rich_help_panel="A project of your own")
def new(folder: Annotated[Path, typer.Argument(help="Made if it is not there; what lies in it stays.")]) -> None:
    """Make a project outside the checkout: a Snakefile that uses the installed workflow, params, mini weights."""
    from pipeline.projects import new_project

    for path in new_project(folder):
        workflow.say(f"{folder / path}")
    workflow.say(
        f"cd {folder}, then `snakemake --cores 4 -- results/ssv2_top1.json` on the toy world, or `permafrost init`"
    )


@app.command(rich_help_panel="A project of your own")
def doctor(params: workflow.ParamsOption = "params.yaml") -> None:
    """Ask this machine whether it is ready for a project: weights, GPUs, memory, disk, decoders, folders."""
    from permafrost.doctor import examine

    states = {"ok": "green", "note": "yellow", "bad": "bold red"}
    bad = 0
    for found in examine(params):
        bad += found.state == "bad"
        line = Text.assemble((f"{found.state:<5}", states[found.state]), f"{found.what}: {found.said}")
        workflow.console.print(line, soft_wrap=True)
        if found.remedy:
            workflow.console.print(Text(f"     -> {found.remedy}"), soft_wrap=True)
    workflow.say("ready" if not bad else f"{bad} thing{'s' * (bad > 1)} to mend")
    raise typer.Exit(1 if bad else 0)


def _warn(lines: Iterable[str]) -> None:
    errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
    for line in lines:
        errors.print(f"WARNING: {line}", style="bold red", soft_wrap=True)


def _also(command: typer.models.CommandInfo) -> typer.models.CommandInfo:
    """A verb of `python -m pipeline` as one of this command."""
    found = copy.copy(command)
    name = found.callback.__name__
    found.rich_help_panel = "What a project has made" if name in BY_HAND else STEPS
    return found


app.registered_commands += sorted(
    (_also(command) for command in workflow.app.registered_commands if command.callback.__name__ != "extract"),
    key=lambda command: command.rich_help_panel == STEPS,
)


def main() -> None:
    """Runs a command; an error that the user can correct is one message without a traceback."""
    workflow.main(app)
