"""Where the evaluations of a run lie, and made-up ones, as an evaluation leaves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.digests import file_digest, write_json
from pipeline.tables import write_frame


def evaluation_of(run: Path) -> Path:
    """The folder of a run's only evaluation."""
    (result,) = run.glob("*/result.json")
    return result.parent


def leave(
    folder: Path, result: Mapping[str, Any], predictions: pd.DataFrame | None = None, history: Any = None
) -> Path:
    """A result with the digests of the files that lie in its folder; of a trained head its run's losses too."""
    folder.mkdir(parents=True, exist_ok=True)
    if predictions is not None:
        write_frame(predictions, folder / "predictions.parquet")
    there = {path.name: file_digest(path) for path in folder.iterdir() if path.suffix in (".parquet", ".npz")}
    told = {**result, "provenance": {**result.get("provenance", {}), "files": there}}
    write_json(folder / "result.json", told, ordered=True)
    if history is not None:
        pd.DataFrame(history).to_csv(folder.parent / "history.csv", index=False)
        write_json(folder.parent / "run.json", {"history.csv": file_digest(folder.parent / "history.csv")})
    return folder
