"""Pretraining of the mini I3D, rgb and flow, and its measurement. Knows no task: no template, no label, no store.

One rendering teaches both networks: rgb from its pixels, flow from the DIS flow of its frames. Throw-away linear heads
stand on the pooled frame feature, the very one that extraction keeps.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.backbones.flow import Flow
from pipeline.backbones.i3d import I3D, STREAMS, I3DFrames, dequantised_flow, scaled_rgb
from pipeline.config import FlowFeature, I3DFeature, I3DFlow, Preprocess, Sampling, Weights
from pipeline.files import whole
from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.shapes import COLOURS, ROUND, SHAPES
from weights.recipe.handling import Handling, handling
from weights.recipe.improvise import ENOUGH, MOTIONS
from weights.recipe.probes import FAST, STILL, Scores, judge
from weights.recipe.training import Note, note, optimise

WIDTH, WINDOW, SIZE, FPS = 8, 16, 64, 12.0
# Pixels of a 64 x 64 frame: the fastest shaking reaches it.
BOUND = 8.0
FILES = {stream: f"mini-i3d-{stream}.safetensors" for stream in STREAMS}
# The second word of the seeds, which no other pretraining uses; the third tells training (0) from the probes' sets.
I3D_STREAM = 103
SCALES = {"rgb": scaled_rgb, "flow": dequantised_flow}
# The end point that cells are asked of, and its grid for such a window.
CELLS_AT, STEPS_OF_CELLS, CELLS = "Mixed_4f", 4, 4
STEPS, BATCH, RATE = 4000, 16, 3e-3
# Motions with a sign, which are also named as one of three: backwards, none, forwards.
SIGNED = ("velocity_x", "velocity_y", "rotation", "growth")


def flow_feature() -> FlowFeature:
    """The flow that the mini I3D was taught on."""
    return FlowFeature(
        backbone="flow",
        method="dis",
        bound=BOUND,
        sampling=Sampling(fps=FPS),
        preprocess=Preprocess(resize=(SIZE, SIZE)),
    )


def i3d_feature(rgb: Path | None = None, flow: Path | None = None) -> I3DFeature:
    """The mini I3D on one stream or both, as extraction runs it."""
    return I3DFeature(
        backbone="i3d",
        rgb=rgb and Weights(path=str(rgb)),
        flow=flow and I3DFlow(feature="flow", weights=Weights(path=str(flow))),
        window=WINDOW,
        sampling=Sampling(fps=FPS),
        preprocess=Preprocess(resize=(SIZE, SIZE)),
    )


# --- training ---------------------------------------------------------------------------------------------------------


def pretrain_i3d(
    folder: Path,
    seed: int,
    steps: int = STEPS,
    batch: int = BATCH,
    lr: float = RATE,
    streams: Sequence[str] = tuple(STREAMS),
) -> list[Note]:
    """Trains both networks on one thread, side by side.

    Both are taught the motion of the handled object: velocity, speed, rotation, growth, shaking, pulsing, rocking. rgb
    is also taught the shape and colour of that object, what is in view, and the background: with the weights below it
    learns these and no motion; with a quarter of them it learned motion and lost the looks.

    Args:
        folder: gets mini-i3d-rgb.safetensors and mini-i3d-flow.safetensors; written now and then, and at the end.
        seed: of weights and scenes.
        steps: optimiser steps.
        batch: windows a step.
        lr: peak learning rate.
        streams: "rgb", "flow" or both.

    Returns:
        A note on each, for the model card.
    """
    torch.manual_seed(seed)
    models = {name: I3D(STREAMS[name], WIDTH).to(memory_format=torch.channels_last_3d) for name in streams}
    if "rgb" in models:
        _begin_with_motion(models["rgb"].Conv3d_1a_7x7.conv3d)
    heads = nn.ModuleDict({name: Heads(model, name) for name, model in models.items()})

    def loss(step: int) -> Tensor:
        windows, pixels = _draw([seed, I3D_STREAM, 0, step], batch)
        total = torch.zeros(())
        for name, model in models.items():
            scaled = SCALES[name](pixels[name])
            pixels_BCTHY = scaled.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast("cpu", torch.bfloat16):
                cells_BCPGG, maps_BCTHY = _maps(model, pixels_BCTHY)
            window_BK = heads[name].window(maps_BCTHY.float().mean(dim=(2, 3, 4)))
            cell_BPGGK = heads[name].cell(cells_BCPGG.float().permute(0, 2, 3, 4, 1))
            total = total + _window_loss(window_BK, windows, name) + _cell_loss(cell_BPGGK, windows, name)
        return total

    def save() -> None:
        for name, model in models.items():
            save_i3d(model, folder / FILES[name])

    started = time.monotonic()
    optimise("mini-i3d", [*models.values(), heads], loss, steps, lr, weight_decay=0.02, save=save)
    return [note(f"mini-i3d-{name}", model, None, seed, steps, batch, lr, started) for name, model in models.items()]


class Heads(nn.Module):
    """What a stream is asked about its windows and about its cells, linearly; thrown away in the end."""

    def __init__(self, model: I3D, stream: str):
        super().__init__()
        self.window = nn.Linear(model.outputs, sum(_window_parts(stream)))
        self.cell = nn.Linear(model.get_submodule(CELLS_AT).outputs, sum(_cell_parts(stream)))


def _begin_with_motion(stem: nn.Conv3d) -> None:
    """Turns six of the eight filters of rgb's stem into detectors of motion, in place, and keeps four of them so.

    The four see an edge that moves by a pixel a frame to the right, down, left and up; a pair that is free to change
    begins as a second difference in time, of either sign. Where all were free, colours took them over in 2,400 steps,
    and motion stayed at chance in every layer.
    """
    _, colours, size, _, _ = stem.weight.shape
    t, y, x = torch.meshgrid(*[torch.arange(size) - size // 2.0] * 3, indexing="ij")
    lasting, flicker = torch.exp(-(t**2) / (2 * 1.5**2)), (t == 0).float() - 0.5 * (t.abs() == 1).float()
    bell = torch.exp(-(x**2 + y**2) / (2 * 1.3**2))
    edges = [(along - way * t, across) for way in (1, -1) for along, across in ((x, y), (y, x))]
    filters = [lasting * a * torch.exp(-(a**2 + b**2) / (2 * 1.3**2)) for a, b in edges]
    filters += [flicker * bell, -flicker * bell]
    with torch.no_grad():
        for index, filter_THW in enumerate(filters):
            tint = 1 + 0.5 * torch.randn(colours)
            begun = tint.view(-1, 1, 1, 1) * filter_THW
            stem.weight[index] = begun * stem.weight[-1].norm() / begun.norm()
    free = torch.ones(len(stem.weight), 1, 1, 1, 1)
    free[: len(edges)] = 0
    stem.weight.register_hook(lambda gradient: gradient * free)


def _maps(model: I3D, pixels_BCTHY: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of CELLS_AT and of the last layer."""
    x = cells = pixels_BCTHY
    for name, layer in model.named_children():
        x = layer(x)
        if name == CELLS_AT:
            cells = x
    return cells, x


def _draw(seeds: Sequence[int], count: int) -> tuple[list[Handling], dict[str, Tensor]]:
    """Windows, and their streams as extraction has them: name -> (count, T, C, H, W) uint8."""
    windows, flows = [], []
    flow = Flow(flow_feature(), torch.device("cpu"))
    for index in range(count):
        window = handling(np.random.default_rng([*seeds, index]), WINDOW, SIZE, STEPS_OF_CELLS, CELLS)
        frames_TCHY = torch.from_numpy(window.pixels).permute(0, 3, 1, 2)
        windows.append(window)
        flows.append(flow.rows({"rgb": frames_TCHY})["flow"])
    pixels = torch.from_numpy(np.stack([window.pixels[:WINDOW] for window in windows])).permute(0, 1, 4, 2, 3)
    return windows, {"rgb": pixels, "flow": torch.stack(flows)}


def _window_parts(stream: str) -> list[int]:
    """Sizes of what is said of a window: motions, which of them there are, signs; for rgb looks, too."""
    motion = [len(MOTIONS), len(MOTIONS), 3 * len(SIGNED)]
    looks = [len(SHAPES), len(COLOURS), len(SHAPES) + len(COLOURS), len(BACKGROUNDS)]
    return motion + looks if stream == "rgb" else motion


def _window_loss(said_BK: Tensor, windows: list[Handling], stream: str) -> Tensor:
    motion, moves, signs, *looks = said_BK.split(_window_parts(stream), dim=1)
    true_motion = _stack(windows, "motion")
    signed = true_motion[:, [list(MOTIONS).index(name) for name in SIGNED]]
    sign = (signed > FAST).long() - (signed < -FAST).long() + 1
    total = (
        F.smooth_l1_loss(motion, true_motion, reduction="none", beta=0.5).sum(dim=1).mean()
        + 5 * F.binary_cross_entropy_with_logits(moves, (true_motion.abs() > FAST).float())
        + 4 * F.cross_entropy(signs.unflatten(1, (3, len(SIGNED))), sign)
    )
    if not looks:
        return total
    shape, colour, present, background = looks
    return (
        total
        + 3 * F.cross_entropy(shape, _stack(windows, "shape"))
        + F.cross_entropy(colour, _stack(windows, "colour"))
        + 2 * F.binary_cross_entropy_with_logits(present, _stack(windows, "present"))
        + F.cross_entropy(background, _stack(windows, "background"))
    )


def _cell_parts(stream: str) -> list[int]:
    """Sizes of what is said of a cell: motions, which of them there are, share of object; for rgb looks, too."""
    motion = [len(MOTIONS), len(MOTIONS), 1]
    return [*motion, len(SHAPES), len(COLOURS)] if stream == "rgb" else motion


def _cell_loss(said_BPGGK: Tensor, windows: list[Handling], stream: str) -> Tensor:
    motion, moves, cover, *looks = said_BPGGK.flatten(0, 3).split(_cell_parts(stream), dim=1)
    true_motion, true_cover = _stack(windows, "cell_motion").flatten(0, 3), _stack(windows, "cover").flatten()
    known = true_cover >= ENOUGH
    total = (
        F.smooth_l1_loss(motion[known], true_motion[known], reduction="none", beta=0.5).sum(dim=1).mean()
        + 5 * F.binary_cross_entropy_with_logits(moves[known], (true_motion[known].abs() > FAST).float())
        + F.binary_cross_entropy_with_logits(cover[:, 0], true_cover)
    )
    if not looks:
        return total
    shape, colour = looks
    return (
        total
        + 3 * F.cross_entropy(shape, _stack(windows, "cell_shape").flatten())
        + F.cross_entropy(colour, _stack(windows, "cell_colour").flatten())
    )


def _stack(windows: list[Handling], field: str) -> Tensor:
    return torch.from_numpy(np.array([getattr(window, field) for window in windows]))


def save_i3d(model: nn.Module, file: Path) -> None:
    """Writes the state dict in float16 under the public key names, by rename."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    with whole(file) as scratch:
        save_file({name: value.half().contiguous() for name, value in state.items()}, scratch)


# --- measurement ------------------------------------------------------------------------------------------------------


def measure_i3d(weights: Path, seed: int = 9, windows: int = 800) -> dict[str, Any]:
    """Linear probes on the frame features of held-out windows, beside the same architecture with random weights.

    Args:
        weights: folder that holds mini-i3d-rgb.safetensors and mini-i3d-flow.safetensors.
        seed: of the held-out windows, and of the random weights.
        windows: number of windows that train the probes; half as many test them.

    Returns:
        {"i3d_rgb" | "i3d_flow": {question: {"pretrained", "random", "chance"}}} with accuracies, or R^2 where chance is
        0, and {"milliseconds": {"1 rgb row", "1 flow row", "flow of 1 frame"}} of one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sets = [_draw([seed, I3D_STREAM, 1 + part], count) for part, count in ((0, windows), (1, windows // 2))]
        found: dict[str, Any] = {f"i3d_{name}": {} for name in STREAMS}
        with tempfile.TemporaryDirectory() as random:
            write_random(Path(random), seed)
            for kind, folder in (("pretrained", weights), ("random", Path(random))):
                for name in STREAMS:
                    for question, (score, chance) in _probe(folder / FILES[name], name, sets).items():
                        found[f"i3d_{name}"].setdefault(question, {"chance": chance})[kind] = score
        found["milliseconds"] = _milliseconds(weights)
    finally:
        torch.set_num_threads(threads)
    return found


def write_random(folder: Path, seed: int) -> None:
    """Writes both architectures with freshly drawn weights, in the files that pretraining writes."""
    torch.manual_seed(seed)
    for name, channels in STREAMS.items():
        save_i3d(I3D(channels, WIDTH), folder / FILES[name])


def _probe(file: Path, stream: str, sets: Sequence[tuple[list[Handling], dict[str, Tensor]]]) -> Scores:
    """Question -> (accuracy or R^2 of a linear probe, chance)."""
    backbone = I3DFrames(i3d_feature(**{stream: file}), torch.device("cpu"))
    train, test = (
        _questions(np.concatenate([backbone.rows({stream: window})["frames"] for window in streams[stream]]), windows)
        for windows, streams in sets
    )
    return {question: judge(question)(train[question], test[question]) for question in train}


def _questions(rows: np.ndarray, windows: list[Handling]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Question -> rows and answers of the windows that it can be asked of."""
    motion = np.stack([window.motion for window in windows])
    column = dict(zip(MOTIONS, motion.T, strict=True))
    shape, colour, background = (
        np.array([getattr(window, field) for window in windows]) for field in ("shape", "colour", "background")
    )
    quadrant = np.round(np.arctan2(column["velocity_y"], column["velocity_x"]) / (np.pi / 2)).astype(int) % 4
    shake = np.hypot(column["shake_x"], column["shake_y"])
    busy = np.stack([shake, column["pulse"], column["rock"]])
    clear = (busy.max(axis=0) > FAST) | (busy.max(axis=0) < STILL)

    def among(taken: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[taken], answer[taken]

    return {
        "direction (4)": among(column["speed"] > FAST, quadrant),
        "velocity, R2": (rows, motion[:, :2]),
        "sense of rotation": among(np.abs(column["rotation"]) > FAST, column["rotation"] > 0),
        "growing or shrinking": among(np.abs(column["growth"]) > FAST, column["growth"] > 0),
        "busy on the spot or not": among(clear, busy.max(axis=0) > FAST),
        "shaking, pulsing or rocking (3)": among(busy.max(axis=0) > FAST, busy.argmax(axis=0)),
        "shape (12)": (rows, shape),
        "round or with corners": (rows, shape < len(ROUND)),
        "colour (8)": (rows, colour),
        "background (8)": (rows, background),
    }


def _milliseconds(weights: Path) -> dict[str, float]:
    """Processor time of one thread: the median of nine batches of sixteen rows, for one row."""
    streams = {
        name: torch.randint(0, 256, (WINDOW + 15, channels, SIZE, SIZE), dtype=torch.uint8)
        for name, channels in STREAMS.items()
    }
    work: dict[str, Any] = {
        f"1 {name} row": partial(
            I3DFrames(i3d_feature(**{name: weights / FILES[name]}), torch.device("cpu")).rows, {name: streams[name]}
        )
        for name in STREAMS
    }
    work["flow of 1 frame"] = partial(Flow(flow_feature(), torch.device("cpu")).rows, {"rgb": streams["rgb"][:17]})
    return {name: _median_milliseconds(rows) / 16 for name, rows in work.items()}


def _median_milliseconds(work: Callable[[], Any]) -> float:
    spent = []
    for _ in range(10):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return 1000 * float(np.median(spent[1:]))
