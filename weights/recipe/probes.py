"""Linear probes of the mini DINOv3 and R3D-18 on held-out scenes. Knows no task, no training and no store.

Every figure is beside that of the same architecture with random weights.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbones import load
from pipeline.backbones.r3d18 import build_r3d18
from pipeline.backbones.towers import build_dinov3
from pipeline.config import DinoV3Feature, Preprocess, R3D18Feature, Sampling, Weights
from pipeline.toyworld.shapes import ROUND
from weights.recipe import mini
from weights.recipe.improvise import MOTIONS, clip, picture

# The second word of the seeds of held-out scenes; the third tells probe training (0) from testing (1).
HELD_OUT_STREAM = 201
# What moves counts as moving beyond these, in the units of MOTIONS.
FAST, STILL = 0.4, 0.15


def dinov3_feature(weights: Path) -> DinoV3Feature:
    """The mini DINOv3 on single pictures."""
    size = (mini.DINOV3_SIZE, mini.DINOV3_SIZE)
    return DinoV3Feature(
        backbone="dinov3",
        weights=Weights(path=str(weights)),
        sampling=Sampling(frames=1),
        preprocess=Preprocess(resize=size),
    )


def r3d18_feature(weights: Path) -> R3D18Feature:
    """The mini R3D-18 on clips of its full length."""
    size, frames = (mini.R3D18_SIZE, mini.R3D18_SIZE), mini.R3D18_FRAMES
    return R3D18Feature(
        backbone="r3d18",
        weights=Weights(path=str(weights)),
        sampling=Sampling(frames=frames),
        preprocess=Preprocess(resize=size),
    )


def measure(weights: Path, random: Path, seed: int, pictures: int = 1200, clips: int = 400) -> dict[str, Any]:
    """Probes pretrained and random backbones on the same held-out scenes.

    Args:
        weights: folder that holds mini-dinov3/ and mini-r3d18.safetensors.
        random: folder for the same architectures with random weights, which this function writes.
        seed: of the held-out scenes; no task and no pretraining shares them.
        pictures: number of pictures that train the probes of DINOv3; half as many test them.
        clips: the same for R3D-18.

    Returns:
        {"dinov3" | "r3d18": {question: {"pretrained", "random", "chance"}}} with accuracies, or R^2 where chance is 0,
        and {"milliseconds": {...}} of one thread for eight pictures and for one clip.
    """
    write_random(random, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, Any] = {"dinov3": {}, "r3d18": {}}
        for name, folder in (("pretrained", weights), ("random", random)):
            for question, (score, chance) in probe_dinov3(folder / "mini-dinov3", seed, pictures).items():
                found["dinov3"].setdefault(question, {"chance": chance})[name] = score
            for question, (score, chance) in probe_r3d18(folder / "mini-r3d18.safetensors", seed, clips).items():
                found["r3d18"].setdefault(question, {"chance": chance})[name] = score
        found["milliseconds"] = _milliseconds(weights)
    finally:
        torch.set_num_threads(threads)
    return found


def write_random(folder: Path, seed: int) -> None:
    """Writes both architectures with freshly drawn weights, in the files that pretraining writes."""
    torch.manual_seed(seed)
    mini.save_dinov3(build_dinov3(**mini.DINOV3), folder / "mini-dinov3")
    mini.save_r3d18(build_r3d18(mini.R3D18_WIDTH), folder / "mini-r3d18.safetensors")


Scores = Mapping[str, tuple[float, float]]


def probe_dinov3(folder: Path, seed: int, pictures: int) -> Scores:
    """Question -> (accuracy of a linear probe, chance): background of the picture, the rest at a patch of an object."""
    backbone = load(dinov3_feature(folder))
    sets = []
    for part, count in ((0, pictures), (1, pictures // 2)):
        rngs = (np.random.default_rng([seed, HELD_OUT_STREAM, part, i]) for i in range(count))
        rows = [picture(rng, mini.DINOV3_SIZE, mini.DINOV3_CELLS) for rng in rngs]
        pixels = np.stack([row.pixels for row in rows])[:, None].transpose(0, 1, 4, 2, 3)
        tokens = _batched(
            lambda batch: backbone(torch.from_numpy(batch / np.float32(255)))["patch_tokens"], pixels, 32
        )[:, 0]
        # One patch an object: the one that it fills most, if it fills half of it.
        cover = np.stack([row.cover for row in rows]).reshape(count, -1)
        shape, colour = (
            np.stack([getattr(row, field) for row in rows]).reshape(count, -1) for field in ("shape", "colour")
        )
        best = cover.argmax(axis=1)
        taken = cover.max(axis=1) >= 0.5
        at = np.arange(count)[taken], best[taken]
        whole = tokens.mean(axis=1), np.array([row.background for row in rows])
        sets.append({"shape": (tokens[at], shape[at]), "colour": (tokens[at], colour[at]), "background": whole})
    for part in sets:
        tokens, shape = part["shape"]
        part["round or with corners"] = tokens, shape < len(ROUND)
    return {question: _classify(sets[0][question], sets[1][question]) for question in sets[0]}


def probe_r3d18(file: Path, seed: int, clips: int) -> Scores:
    """Question -> (accuracy or R^2 of a linear probe, chance) at the cells of objects."""
    backbone = load(r3d18_feature(file))
    sets = []
    for part, count in ((0, clips), (1, clips // 2)):
        rngs = (np.random.default_rng([seed, HELD_OUT_STREAM, 2 + part, i]) for i in range(count))
        size, frames = mini.R3D18_SIZE, mini.R3D18_FRAMES
        rows = [clip(rng, frames, size, mini.R3D18_STEPS, mini.R3D18_CELLS) for rng in rngs]
        pixels = np.stack([row.pixels for row in rows]).transpose(0, 1, 4, 2, 3)
        tokens = _batched(lambda batch: backbone(torch.from_numpy(batch))["clip_tokens"], pixels, 8)
        motion = np.stack([row.motion for row in rows]).reshape(-1, len(MOTIONS))
        shape, colour, cover = (
            np.stack([getattr(row, name) for row in rows]).ravel() for name in ("shape", "colour", "cover")
        )
        # Most of a cell is object; every third, since neighbours in time say nearly the same.
        taken = np.flatnonzero(cover >= 0.4)[::3]
        sets.append(
            _motion_questions(tokens.reshape(-1, tokens.shape[-1])[taken], motion[taken], shape[taken], colour[taken])
        )
    return {question: judge(question)(sets[0][question], sets[1][question]) for question in sets[0]}


Asked = tuple[np.ndarray, np.ndarray]


def _motion_questions(
    tokens: np.ndarray, motion: np.ndarray, shape: np.ndarray, colour: np.ndarray
) -> dict[str, Asked]:
    column = {name: motion[:, index] for index, name in enumerate(MOTIONS)}
    moving = column["speed"] > FAST
    quadrant = np.round(np.arctan2(column["velocity_y"], column["velocity_x"]) / (np.pi / 2)).astype(int) % 4
    shake = np.hypot(column["shake_x"], column["shake_y"])
    questions = {"direction (4)": (tokens[moving], quadrant[moving])}
    fast = np.maximum(np.maximum(shake, column["pulse"]), column["rock"])
    clear = (fast > FAST) | (fast < STILL)
    questions["busy on the spot or not"] = tokens[clear], fast[clear] > FAST
    either = np.maximum(shake, column["pulse"]) > FAST
    questions["shaking or pulsing"] = tokens[either], shake[either] > FAST
    turning = np.abs(column["rotation"]) > FAST
    questions["sense of rotation"] = tokens[turning], column["rotation"][turning] > 0
    growing = np.abs(column["growth"]) > FAST
    questions["growing or shrinking"] = tokens[growing], column["growth"][growing] > 0
    questions["velocity, R2"] = tokens, motion[:, :2]
    questions["colour (8)"] = tokens, colour
    questions["shape (12), not taught"] = tokens, shape
    questions["round or with corners, not taught"] = tokens, shape < len(ROUND)
    return questions


def judge(question: str) -> Callable[[Asked, Asked], tuple[float, float]]:
    return _regress if question.endswith("R2") else _classify


def _classify(train: Asked, test: Asked) -> tuple[float, float]:
    """(accuracy, accuracy of always naming the commonest class)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1)).fit(*train)
    _, counts = np.unique(test[1], return_counts=True)
    return float(probe.score(*test)), float(counts.max() / counts.sum())


def _regress(train: Asked, test: Asked) -> tuple[float, float]:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return float(make_pipeline(StandardScaler(), Ridge(10.0)).fit(*train).score(*test)), 0.0


def _batched(function: Callable[[np.ndarray], torch.Tensor], pixels: np.ndarray, size: int) -> np.ndarray:
    chunks = (np.ascontiguousarray(pixels[i : i + size]) for i in range(0, len(pixels), size))
    return np.concatenate([function(chunk).numpy() for chunk in chunks])


def _milliseconds(weights: Path) -> dict[str, float]:
    """Processor time of one thread, the median of nine batches, for eight pictures and for a clip."""
    dinov3, r3d18 = (
        load(dinov3_feature(weights / "mini-dinov3")),
        load(r3d18_feature(weights / "mini-r3d18.safetensors")),
    )
    pictures = torch.rand(16, 1, 3, mini.DINOV3_SIZE, mini.DINOV3_SIZE)
    clips = torch.randint(0, 256, (4, mini.R3D18_FRAMES, 3, mini.R3D18_SIZE, mini.R3D18_SIZE), dtype=torch.uint8)

    def median(work: Callable[[], Any]) -> float:
        spent = []
        for _ in range(10):
            started = time.process_time()
            work()
            spent.append(time.process_time() - started)
        return 1000 * float(np.median(spent[1:]))

    return {"8 pictures": median(lambda: dinov3(pictures)) / 2, "1 clip": median(lambda: r3d18(clips)) / 4}
