"""`python -m weights.recipe`: trains the mini backbones anew, from renderings, and writes their card."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from weights.recipe import BACKBONES, PretrainingError, pretrain


def main(
    out: Annotated[Path, typer.Option(help="Folder of the weights, pretraining.json and README.md.")] = Path("weights"),
    seed: Annotated[int, typer.Option(help="Of weights and scenes.")] = 2026,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(BACKBONES)}. Repeats.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, each recipe's own by default.")] = None,
) -> None:
    """Train the mini backbones again, from renderings, and measure them for their model card."""
    try:
        pretrain(out, seed, only or BACKBONES, steps)
    except PretrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
