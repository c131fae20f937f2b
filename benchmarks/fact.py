"""FACT against a plain implementation of the same network: inference and training step, one video and eight at once.

    python -m benchmarks.fact [--full] [--json FILE] [--rounds N] [--frames T] [--widths NAME,NAME] [--threads N]
    python -m benchmarks.fact --lengths 2000,6000,10000 [--json FILE] [--threads N]

2048-D features, 75 classes, blocks iuUU, 30 tokens, at the widths, layers and positions (none of frames) that
are published for HA-ViD and for Breakfast.
Ours is heads.fact; plain is benchmarks._fact_plain: a loop over videos, unfused convolutions, matching with (T, M, S)
arrays, Python loops over segments. Before anything is timed both get the same weights, and must agree on probabilities
and loss in double precision. A step is forward, loss, backward, clipping and Adam.

Figures are processor seconds, medians of rounds in which the cases take turns; speed-ups are medians of the rounds' own
ratios. bf16 is ours under autocast against plain in fp32; plain under autocast is given beside it. `batch8_speedup` is
the smaller one of inference and step: eight videos in a batch of ours, against eight times one of plain's, which knows
no batch; `_to_ours_alone` says how much of it is the batch.

What U costs depends on the segments that it finds: tens in a trained model, but one at each frame or two with random
weights, and then the GRU over them is most of a step. So the frame classifiers, and nothing else, are fitted to the
videos' labels (`settled`), and Adam's rate is too small to move them. `segments_found` are those of the two U blocks;
in a step dropout and blanked frames make more of them, by other draws in each implementation, about as many.

Decoding, one video of 10,000 frames and 75 classes: heads.fact.decoding against a loop over frames that takes all
classes of a frame at once.

With --lengths: memory and time at the data sets' own numbers of classes and of tokens, a process a row. Inference is
the second of two, a step the first one; the peak is of resident memory, interpreter and features included.
"""

import multiprocessing
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import _fact_plain as plain
from benchmarks._harness import interleaved, main, ratio, table
from pipeline.heads.fact.blocks import BlockSettings, blocks
from pipeline.heads.fact.decoding import decode
from pipeline.heads.fact.losses import LossSettings, fact_loss, targets_of
from pipeline.heads.fact.model import Fact
from pipeline.heads.fact.prediction import predict

FEATURES, BATCH, MWT, RATE = 2048, 8, 0.1, 1e-7
SEGMENTS, NOISE = 15, 0.1  # true segments of a video; what a frame has besides its class's vector, of size 1
WIDTHS = {
    "havid": dict(a_dim=256, a_ffdim=512, f="m", f_dim=256, f_ln=False, dropout=0.2),
    "breakfast": dict(a_dim=512, a_ffdim=512, f="m2", f_dim=512, f_ln=False, dropout=0.0),
}
OWN = {"havid": (75, 75), "breakfast": (48, 60)}  # classes and tokens
REGULAR = dict(cmr=0.3, time_mask=(30, 0.05, 5))
SETTINGS = LossSettings(
    pc=0.2, a2fc=1.0, sw=5.0, bgw=1.0, nullw=-1.0, match="o2o", avg_segments=float(SEGMENTS), background=(0,)
)


class Net(NamedTuple):
    """The widths' name, and the sizes."""

    name: str
    classes: int = 75
    tokens: int = 30

    def chain(self) -> list[BlockSettings]:
        """iuUU at the data set's widths."""
        entry = dict(hid_dim=512, a_nhead=8, a_layers=6, f_layers=10, s_layers=1, **WIDTHS[self.name])
        return blocks("iuUU", entry, {"a_layers": 1, "f_layers": 10})

    def ours(self, weights: dict[str, Tensor] | None = None, cmr: float = 0.0, time_mask: Any = None) -> Fact:
        sizes = dict(feature_dim=FEATURES, n_classes=self.classes, tokens=self.tokens, blocks=self.chain())
        model = Fact(**sizes, fpos=False, transcript=False, cmr=cmr, time_mask=time_mask)
        if weights is not None:
            model.load_state_dict(weights)
        return model

    def plain(self, weights: dict[str, Tensor], **regular: Any) -> plain.PlainFact:
        model = plain.PlainFact(FEATURES, self.classes, self.tokens, self.chain(), fpos=False, **regular)
        plain.load(model, weights)
        return model


class Data(NamedTuple):
    """Videos of equal length, the last axis of frames their features; mask all True."""

    frames_BTD: Tensor
    labels_BT: Tensor
    mask_BT: Tensor

    def first(self) -> "Data":
        return Data(*(part[:1] for part in self))


def videos(frames: int, classes: int, number: int) -> Data:
    """Runs of random classes, each with its vector plus noise."""
    centre_CD = torch.randn(classes, FEATURES)
    starts = torch.rand(number, frames).topk(SEGMENTS - 1, dim=1).indices
    run_BT = torch.zeros(number, frames, dtype=torch.int64).scatter_(1, starts, 1).cumsum(1)
    labels_BT = torch.randint(classes, (number, SEGMENTS)).gather(1, run_BT)
    frames_BTD = torch.randn(number, frames, FEATURES).mul_(NOISE).add_(centre_CD[labels_BT])
    return Data(frames_BTD, labels_BT, torch.ones_like(labels_BT, dtype=torch.bool))


@torch.no_grad()
def settled(net: Net, data: Data) -> dict[str, Tensor]:
    """Random weights, but for each block's frame classifier, which is fitted to the labels by ridge regression."""
    model = net.ours().eval()
    hot_NC = 5 * nn.functional.one_hot(data.labels_BT.flatten(), net.classes).float()

    def fit(leave: nn.Linear, given: tuple[Tensor]) -> None:
        x_NE = nn.functional.pad(given[0].flatten(0, 1), (0, 1), value=1.0)
        gram_EE = x_NE.t() @ x_NE
        gram_EE.diagonal().add_(0.01 * gram_EE.diagonal().mean())
        weight_EC = torch.linalg.solve(gram_EE, x_NE.t() @ hot_NC)
        leave.weight[-net.classes :], leave.bias[-net.classes :] = weight_EC[:-1].t(), weight_EC[-1]

    # One forward: each block is fitted just before it answers, and the next one reads the answer.
    hooks = [block.frames.leave.register_forward_pre_hook(fit) for block in model.blocks]
    model(data.frames_BTD)
    for hook in hooks:
        hook.remove()
    return model.state_dict()


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


@torch.no_grad()
def found(model: nn.Module, data: Data) -> list[int]:
    """How many segments the U blocks find."""
    if isinstance(model, Fact):
        outputs = model(data.frames_BTD, data.mask_BT)
        return [out.segment_mask_BS.shape[1] for out in outputs if out.segment_mask_BS is not None]
    return [len(answer.runs) for answer in model(data.frames_BTD[0]) if answer.runs]


def agree(net: Net, weights: dict[str, Tensor], data: Data) -> dict[str, float]:
    """Largest differences between ours and plain in double precision.

    Raises:
        AssertionError: they are not the same network.
    """
    models = net.ours(weights).double(), net.plain(weights).double()
    exact = Data(data.frames_BTD.double(), data.labels_BT, data.mask_BT)
    ours, other = (infer(model.eval(), exact) for model in models)
    with torch.inference_mode():
        totals = [float(loss_of(model, exact)) for model in models]
        assert found(models[0], exact) == found(models[1], exact), "the models find different segments"
    difference = float((ours - other).abs().max())
    assert difference < 1e-5 and abs(totals[0] / totals[1] - 1) < 1e-5, f"{net.name}: {difference}, losses {totals}"
    return {"probabilities": difference, "loss": abs(totals[0] / totals[1] - 1)}


def cases_of(net: Net, weights: dict[str, Tensor], data: Data) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """All that is timed, by name, each model with its own copy of the weights; and how many segments U finds."""
    one, cases, segments = data.first(), {}, {}
    for label, make in (("ours", net.ours), ("plain", net.plain)):
        still, moving = make(weights).eval(), make(weights, **REGULAR).train()
        segments |= {f"{label} inference": found(still, one), f"{label} step": found(moving, one)}
        optimiser = torch.optim.Adam(moving.parameters(), RATE)
        for case, call in {"inference": partial(infer, still), "step": partial(step, moving, optimiser)}.items():
            cases[f"{label} {case} fp32"] = partial(call, one)
            cases[f"{label} {case} bf16"] = partial(call, one, bf16=True)
            if label == "ours":
                cases[f"ours {case} of {BATCH}"] = partial(call, data)
    return cases, segments


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
    net = Net(name)
    data = videos(frames, net.classes, BATCH)
    weights = settled(net, data)
    agreement = agree(net, weights, data.first())
    cases, segments = cases_of(net, weights, data)
    seconds = timed(cases, rounds)

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
        "segments_found": segments,
        "processor_seconds": {case: median(values) for case, values in seconds.items()},
    }


def decoding(rounds: int, frames: int = 10_000, classes: int = 75, switch: float = 1.0) -> dict[str, Any]:
    """Milliseconds of decoding a video, both ways, which give the same classes."""
    rng = np.random.default_rng(0)
    # Segments of a hundred frames, with noise: the best class of a frame by itself is often another.
    truth_T = rng.integers(classes, size=frames // 100).repeat(100)
    scores_TC = rng.random((frames, classes)) * 0.5
    scores_TC[np.arange(frames), truth_T] += 0.4
    cases = {"ours": partial(decode, scores_TC, switch), "plain": partial(plain.decode, scores_TC, switch)}
    if not np.array_equal(*(call() for call in cases.values())):
        raise RuntimeError("decoded otherwise than by the plain loop")
    seconds = timed(cases, rounds)
    rows = [{"case": name, "processor ms": 1000 * median(values)} for name, values in seconds.items()]
    table(f"Decoding: T = {frames}, {classes} classes, medians of {rounds} rounds", rows)
    return {**{row["case"]: row["processor ms"] for row in rows}, "speedup": ratio(seconds["plain"], seconds["ours"])}


# --- the sizes --------------------------------------------------------------------------------------------------------


def peak_mib() -> int:
    """The most resident memory since the process began, or since it was last forgotten."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def size(name: str, label: str, frames: int, threads: int) -> dict[str, Any]:
    """Inference and a training step on one long video: seconds and peaks. For a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = Net(name, *OWN[name])
    data = videos(frames, net.classes, 1)
    weights = settled(net, data)
    model = getattr(net, label)(weights, **REGULAR).eval()
    row = {"net": name, "frames": frames, "model": label, "segments": found(model, data)}
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    row["at rest, MiB"] = peak_mib()

    def metered(case: str, call: Callable[[], Any]) -> None:
        wall, busy = time.perf_counter(), time.process_time()
        call()
        row[f"{case}, s"], row[f"{case}, processor s"] = time.perf_counter() - wall, time.process_time() - busy
        row[f"{case}, MiB"] = peak_mib()

    infer(model, data)
    metered("inference", partial(infer, model, data))
    model.train()
    metered("step", partial(step, model, torch.optim.Adam(model.parameters(), RATE), data))
    return row


def sizes(lengths: Sequence[int], threads: int) -> dict[str, Any]:
    """Both data sets at each length, ours and plain."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for frames in lengths:
            for name in WIDTHS:
                rows += [pool.apply(size, (name, label, frames, threads)) for label in ("ours", "plain")]
    table(f"{FEATURES}-D, iuUU, {threads} thread(s), fp32", rows)
    return {"sizes": rows, "threads": threads}


def run(rounds: int, frames: int, threads: int, lengths: str, widths: str) -> dict[str, Any]:
    """The widths of these data sets, one after the other."""
    if lengths:
        return sizes([int(length) for length in lengths.split(",")], threads)
    torch.set_num_threads(threads)
    chosen = widths.split(",")
    if unknown := [name for name in chosen if name not in WIDTHS]:
        raise SystemExit(f"--widths {widths}: there is no {unknown[0]!r}; there are {', '.join(WIDTHS)}")
    results = {name: compare(name, frames, rounds) for name in chosen}
    for name, result in results.items():
        rows = [{"case": case, "processor s": value} for case, value in result["processor_seconds"].items()]
        table(f"{name}: T = {frames}, medians of {rounds} rounds", rows)
        table(f"{name}: segments found", [{key: str(value) for key, value in result["segments_found"].items()}])
    names = [key for key, value in results[chosen[0]].items() if isinstance(value, float)]
    table("Speed-ups", [{"speed-up": key, **{name: result[key] for name, result in results.items()}} for key in names])
    return {**results, "decoding": decoding(5 * rounds), "frames": frames, "rounds": rounds, "threads": threads}


if __name__ == "__main__":
    full = {"rounds": 5, "frames": 2000, "widths": ",".join(WIDTHS)}
    main(run, full, rounds=1, frames=100, threads=1, lengths="", widths="havid")
