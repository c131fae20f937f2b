"""One table an ablation: a row a variant, mean and standard deviation over seeds. Reads results only."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Ablation

COLUMNS = ("top1", "top5", "ece", "top1_reversed", "top1_shuffled")


def ablation_table(ablation: Ablation, runs: Sequence[str | Path], out: Path) -> str:
    """Writes the table as JSON, CSV and Markdown.

    Args:
        ablation: its variants and seeds.
        runs: the folders of its runs, variants times seeds, in that order; each holds a result.json.
        out: path without a suffix.

    Returns:
        The table in Markdown. The standard deviation is the sample's (n - 1); null with a single seed.
    """
    results = [json.loads((Path(run) / "result.json").read_text()) for run in runs]
    rows = []
    for position, variant in enumerate(ablation.variants):
        first = position * len(ablation.seeds)
        group = results[first : first + len(ablation.seeds)]
        scores = pd.DataFrame(group, columns=list(COLUMNS)).astype(float)
        row: dict[str, Any] = {"variant": variant, "seeds": len(group)}
        for column in COLUMNS:
            row[column] = scores[column].mean()
            row[f"{column}_sd"] = scores[column].std() if len(group) > 1 else None
        rows.append(row)
    table = pd.DataFrame(rows)
    document = {
        "head": ablation.head,
        "seeds": list(ablation.seeds),
        "variants": {
            row["variant"]: {
                "changes": ablation.variants[row["variant"]],
                "mean": {column: row[column] for column in COLUMNS},
                "sd": {column: row[f"{column}_sd"] for column in COLUMNS},
                "runs": [str(run) for run in runs[i * len(ablation.seeds) : (i + 1) * len(ablation.seeds)]],
                "per_seed": [r["top1"] for r in results[i * len(ablation.seeds) : (i + 1) * len(ablation.seeds)]],
            }
            for i, row in enumerate(rows)
        },
    }
    markdown = _markdown(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out.with_suffix(".csv"), table.to_csv(index=False))
    _write(out.with_suffix(".md"), markdown)
    _write(out.with_suffix(".json"), json.dumps(document, indent=1, sort_keys=True) + "\n")
    return markdown


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    best = {column: max(row[column] for row in rows) for column in COLUMNS}
    best["ece"] = min(row["ece"] for row in rows)
    lines = ["| variant | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        cells = []
        for column in COLUMNS:
            spread = f" ± {row[f'{column}_sd']:.3f}" if row[f"{column}_sd"] is not None else ""
            cell = f"{row[column]:.3f}{spread}"
            # Accuracy on reversed or shuffled frames is evidence, not a contest: nothing there is best.
            contest = column in ("top1", "top5", "ece") and row[column] == best[column]
            cells.append(f"**{cell}**" if contest else cell)
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(path.suffix + ".partial")
    scratch.write_text(text)
    os.replace(scratch, path)
