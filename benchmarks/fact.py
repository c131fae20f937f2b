"""FACT against a plain implementation of the same network: inference and training step, one video and eight at once.

    python -m benchmarks.fact [--json FILE] [--rounds N] [--frames T] [--threads N]

2048-D features, 75 classes, blocks iuUU, 30 tokens, at the widths that are published for HA-ViD and for Breakfast.
Ours is heads.fact; plain is benchmarks._fact_plain: a loop over videos, unfused convolutions, matching with (T, M, S)
arrays, Python loops over segments. Before anything is timed both get the same weights, and must agree on probabilities
and loss in double precision. A step is forward, loss, backward, clipping and Adam.

Figures are processor seconds, medians of rounds in which the cases take turns; speed-ups are medians of the rounds' own
ratios. bf16 is ours under autocast against plain in fp32; plain under autocast is given beside it. `batch8_speedup` is
the smaller one of inference and step: eight videos in a batch of ours, against eight times one of plain's, which knows
no batch; `_to_ours_alone` says how much of it is the batch. What U costs depends on the segments that it finds, and
random weights find one at each frame or two of noise: so the videos are runs of one random vector each plus a tenth of
noise, as neighbouring windows are alike. `segments_found` are those of the two U blocks, still more than trained ones.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import _fact_plain as plain
from benchmarks._harness import interleaved, main, ratio, table
from pipeline.heads.fact import BlockSettings, Fact, predict
from pipeline.heads.fact.blocks import blocks
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of

FEATURES, CLASSES, TOKENS, BATCH, MWT = 2048, 75, 30, 8, 0.1
SEGMENTS, NOISE = 15, 0.1  # true segments of a video
WIDTHS = {
    "havid": dict(a_dim=256, a_ffdim=512, f="m", f_dim=256, f_ln=False, dropout=0.2),
    "breakfast": dict(a_dim=512, a_ffdim=512, f="m2", f_dim=512, f_ln=False, dropout=0.0),
}
REGULAR = dict(cmr=0.3, time_mask=(30, 0.05, 5))
SETTINGS = LossSettings(
    pc=0.2, a2fc=1.0, sw=5.0, bgw=1.0, nullw=-1.0, match="o2o", avg_segments=float(SEGMENTS), background=(0,)
)


class Data(NamedTuple):
    """Videos of equal length, the last axis of frames their features; mask all True."""

    frames_BTD: Tensor
    labels_BT: Tensor
    mask_BT: Tensor

    def first(self) -> "Data":
        return Data(*(part[:1] for part in self))


def videos(frames: int) -> Data:
    """Runs of random classes, each with its vector plus noise."""
    centre_CD = torch.randn(CLASSES, FEATURES)
    starts = torch.rand(BATCH, frames).topk(SEGMENTS - 1, dim=1).indices
    run_BT = torch.zeros(BATCH, frames, dtype=torch.int64).scatter_(1, starts, 1).cumsum(1)
    labels_BT = torch.randint(CLASSES, (BATCH, SEGMENTS)).gather(1, run_BT)
    frames_BTD = NOISE * torch.randn(BATCH, frames, FEATURES) + centre_CD[labels_BT]
    return Data(frames_BTD, labels_BT, torch.ones_like(labels_BT, dtype=torch.bool))


def chain(name: str) -> list[BlockSettings]:
    """iuUU at a data set's widths."""
    entry = dict(hid_dim=512, a_nhead=8, a_layers=6, f_layers=10, s_layers=1, **WIDTHS[name])
    return blocks("iuUU", entry, {"a_layers": 1, "f_layers": 5})


def ours_of(name: str, cmr: float = 0.0, time_mask: tuple[int, float, int] | None = None) -> Fact:
    sizes = dict(feature_dim=FEATURES, n_classes=CLASSES, tokens=TOKENS, blocks=chain(name))
    return Fact(**sizes, fpos=True, transcript=False, cmr=cmr, time_mask=time_mask)


def pair(name: str, weights: dict[str, Tensor], **regular: Any) -> tuple[Fact, plain.PlainFact]:
    """Ours and plain, with these weights."""
    ours = ours_of(name, **regular)
    ours.load_state_dict(weights)
    other = plain.PlainFact(FEATURES, CLASSES, TOKENS, chain(name), **regular)
    plain.load(other, weights)
    return ours, other


# --- the cases --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def infer(model: nn.Module, data: Data, bf16: bool = False) -> Tensor:
    """(B, T, C) probabilities; plain takes one video."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if isinstance(model, Fact):
            return predict(model(data.frames_BTD, data.mask_BT)[-1], data.mask_BT, MWT)
        return plain.predict(model(data.frames_BTD[0])[-1], MWT)[None]


def loss_of(model: nn.Module, data: Data, bf16: bool = False) -> Tensor:
    """The loss; plain takes one video."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if isinstance(model, Fact):
            outputs = model(data.frames_BTD, data.mask_BT)
            targets = targets_of(outputs[-1], data.labels_BT, data.mask_BT, SETTINGS, n_segments=SEGMENTS)
            return fact_loss(outputs, targets, SETTINGS)["loss"]
        return plain.loss_of(model(data.frames_BTD[0]), data.labels_BT[0], SETTINGS)


def step(model: nn.Module, optimiser: torch.optim.Optimizer, data: Data, bf16: bool = False) -> None:
    optimiser.zero_grad()
    loss_of(model, data, bf16).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimiser.step()


def agree(name: str, weights: dict[str, Tensor], data: Data) -> dict[str, Any]:
    """Largest differences between ours and plain in double precision, and how many segments U finds.

    Raises:
        AssertionError: they are not the same network.
    """
    models = [model.double() for model in pair(name, weights)]
    exact = Data(data.frames_BTD.double(), data.labels_BT, data.mask_BT)
    ours, other = (infer(model.eval(), exact) for model in models)
    with torch.inference_mode():
        totals = [float(loss_of(model, exact)) for model in models]
        found = [len(answer.runs) for answer in models[1](exact.frames_BTD[0]) if answer.runs]
    difference = float((ours - other).abs().max())
    assert difference < 1e-5 and abs(totals[0] / totals[1] - 1) < 1e-5, f"{name}: {difference}, losses {totals}"
    return {"probabilities": difference, "loss": abs(totals[0] / totals[1] - 1), "segments_found": found}


def cases_of(name: str, weights: dict[str, Tensor], data: Data) -> dict[str, Callable[[], Any]]:
    """All that is timed, by name; each model trains on its own copy of the weights."""
    one, cases = data.first(), {}
    for label, position in (("ours", 0), ("plain", 1)):
        still = pair(name, weights)[position].eval()
        moving = pair(name, weights, **REGULAR)[position].train()
        optimiser = torch.optim.Adam(moving.parameters(), 1e-4)
        for case, call in {"inference": partial(infer, still), "step": partial(step, moving, optimiser)}.items():
            cases[f"{label} {case} fp32"] = partial(call, one)
            cases[f"{label} {case} bf16"] = partial(call, one, bf16=True)
            if label == "ours":
                cases[f"ours {case} of {BATCH}"] = partial(call, data)
    return cases


# --- the comparison ---------------------------------------------------------------------------------------------------


def timed(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each round: where a machine is shared, they say more than the clock on the wall."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}

    def metered(name: str) -> None:
        started = time.process_time()
        cases[name]()
        seconds[name].append(time.process_time() - started)

    interleaved({name: partial(metered, name) for name in cases}, rounds)
    return {name: values[-rounds:] for name, values in seconds.items()}  # without the warm-up


def compare(name: str, frames: int, rounds: int) -> dict[str, Any]:
    """The speed-ups at the widths of a data set."""
    torch.manual_seed(0)
    data = videos(frames)
    weights = ours_of(name).state_dict()
    agreement = agree(name, weights, data.first())
    seconds = timed(cases_of(name, weights, data), rounds)

    def faster(case: str, than: Sequence[float]) -> float:
        return ratio(than, seconds[case])

    base = {case: seconds[f"plain {case} fp32"] for case in ("inference", "step")}
    result = {
        **{f"{case}_speedup_fp32": faster(f"ours {case} fp32", base[case]) for case in base},
        **{f"{case}_speedup_bf16": faster(f"ours {case} bf16", base[case]) for case in base},
        **{f"plain_{case}_speedup_bf16": faster(f"plain {case} bf16", base[case]) for case in base},
    }
    for case in base:
        alone = {"speedup": base[case], "to_ours_alone": seconds[f"ours {case} fp32"]}
        for key, values in alone.items():
            result[f"batch8_{case}_{key}"] = faster(f"ours {case} of {BATCH}", [BATCH * value for value in values])
    result["batch8_speedup"] = min(result["batch8_inference_speedup"], result["batch8_step_speedup"])
    return {
        **result,
        "agreement": agreement,
        "processor_seconds": {case: median(values) for case, values in seconds.items()},
    }


def run(rounds: int, frames: int, threads: int) -> dict[str, Any]:
    """Both data sets' widths, one after the other."""
    torch.set_num_threads(threads)
    results = {name: compare(name, frames, rounds) for name in WIDTHS}
    for name, result in results.items():
        rows = [{"case": case, "processor s": value} for case, value in result["processor_seconds"].items()]
        table(f"{name}: T = {frames}, medians of {rounds} rounds", rows)
    names = [key for key, value in results["havid"].items() if isinstance(value, float)]
    table("Speed-ups", [{"speed-up": key, **{name: result[key] for name, result in results.items()}} for key in names])
    return {**results, "frames": frames, "rounds": rounds, "threads": threads}


if __name__ == "__main__":
    main(run, rounds=5, frames=2000, threads=1)
