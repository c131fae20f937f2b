"""The commands of datasets: rendering those of the toy world, and the index of any."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.projects import FEATURES

from .base import CORES, ParamsOption, app, params_of, say


@app.command()
def toyworld(dataset: str, params: ParamsOption = "params.yaml") -> None:
    """Render a dataset of the toy world: real encoded videos or pictures, in the layout of the real dataset."""
    from pipeline.config import canonical_json
    from pipeline.plan import RENDERED
    from pipeline.toyworld import WRITERS

    chosen = params_of(params, datasets=dataset)
    if chosen.toyworld is None or (rendering := chosen.datasets[dataset].rendering) is None:
        raise typer.BadParameter(f"{dataset} is not made by toyworld")
    root = Path(chosen.datasets[dataset].root)
    (root / RENDERED).unlink(missing_ok=True)
    WRITERS[rendering](chosen.toyworld, root, say, workers=CORES.get())
    write_text(root / RENDERED, canonical_json(chosen.rendering(dataset)))


@app.command()
def manifest(
    dataset: str,
    imported: Annotated[
        list[str] | None,
        typer.Argument(
            help="Imported features (backbone: imported, npy) whose files are indexed too; by default all that a "
            "head reads."
        ),
    ] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Hash every file, even if its size and time are unchanged.")
    ] = False,
    params: ParamsOption = "params.yaml",
    root: Path = FEATURES,
) -> None:
    """Read every sample of a dataset once; write its index (digests, facts of the files) and a data-quality report."""
    from pipeline.datasets import build_manifest, quality_markdown, read_manifest, write_manifest
    from pipeline.plan import Plan, imported_stores

    chosen = params_of(params, datasets=dataset, features=imported or [])
    stores = imported_stores(chosen, imported or Plan(chosen).imported(dataset))
    path = root / dataset / "manifest.parquet"
    previous = read_manifest(path, unproved=True) if path.exists() else None
    workers = min(chosen.compute.threads, CORES.get() or chosen.compute.threads)
    frame, quality = build_manifest(chosen.datasets[dataset], previous, workers, say, imported=stores, afresh=afresh)
    write_manifest(frame, path)
    # An unchanged file is not written again, but the scheduler must see that it was looked at; what a link of DVC's
    # leads to is others' too.
    os.utime(path, follow_symlinks=False)
    write_json(path.with_name("quality.json"), quality)
    write_text(path.with_name("quality.md"), quality_markdown(quality))
