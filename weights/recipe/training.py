"""What every pretraining shares: the optimiser and its schedule, and the note for the model card. Knows no network."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SAVE_EVERY = 250


@dataclass(frozen=True)
class Note:
    """What one training was: kept in pretraining.json beside the weights. `seconds` are wall time."""

    name: str
    parameters: int
    start: str
    seed: int
    steps: int
    batch: int
    lr: float
    seconds: float


def write_notes(weights: Path, notes: Sequence[Note]) -> None:
    """Puts trainings into pretraining.json, from which the card tells the recipe.

    Earlier trainings of the same backbones, and what was remarked on them, are of other weights and go.
    """
    path = weights / "pretraining.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"remarks": {}, "trainings": []}
    anew = {note.name for note in notes}
    content = {
        "remarks": {name: remark for name, remark in known["remarks"].items() if name not in anew},
        "trainings": [row for row in known["trainings"] if row["name"] not in anew] + [asdict(note) for note in notes],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def note(
    name: str,
    model: nn.Module,
    start: Path | None,
    seed: int,
    steps: int,
    batch: int,
    lr: float,
    began: float,
) -> Note:
    """What the card tells of a training that began at `began` of the monotonic clock."""
    return Note(
        name=name,
        start=start.parent.name if start else "random",
        parameters=sum(weight.numel() for weight in model.parameters()),
        seed=seed,
        steps=steps,
        batch=batch,
        lr=lr,
        seconds=time.monotonic() - began,
    )


def optimise(
    name: str,
    parts: list[nn.Module],
    loss: Callable[[int], Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    save: Callable[[], None],
) -> None:
    """AdamW with a warm-up of 3 % and a cosine to zero; a progress line every fifty steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weights = [weight for part in parts for weight in part.parameters()]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warm_up = max(1, round(0.03 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
    )
    for part in parts:
        part.train()
    started, recent = time.monotonic(), []
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(value.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(
                f"{name}: step {step + 1}/{steps}, loss {np.mean(recent):.3f}, {time.monotonic() - started:.0f} s",
                flush=True,
            )
            recent.clear()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save()
    torch.set_num_threads(threads)
