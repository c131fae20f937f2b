"""NegAlign against a plain implementation: images through the backbone, and scores, masks and λ sweeps from the cache.

    python -m benchmarks.negalign [--json FILE] [--rounds N] [--images N] [--cached N] [--threads N]

ViT-B/16 at its real size with random weights, 1,000 ID classes, 10,499 negative words in 100 groups, of which 45 % are
object and 45 % background words. Plain is benchmarks._negalign_plain, one image at a time. Each case is run with one
thread, then with two; before anything is timed, ours and plain must agree.

`image_path_speedup`: pixels to embedding, map of the best class and patch projections; ours is the trunk on a batch,
then the closed form and the last block, plain three forwards and a backward. The plain backward reaches all weights, as
those of a model that one loads do; `_cut` is beside a plain one that asks for the map's gradient only. `score_ms`:
S_NegLabel and S_NegLabel* (M1, M2) together, an image. `mask_ms`: one setting of the mask, from the map to P_align, an
image; `mask_together_ms`: one of several that are asked for at once. `local_ms`: the largest evidence of an image's 196
patches over all words; `local_share`: of what the image costs from its pixels, in percent. `sweep_s`: 21 λ over 5,794
ID and 10,000 OOD images with all four figures.

With one thread figures are processor seconds, which others on the machine disturb least; with two, the clock. Medians
of rounds in which the cases take turns; speed-ups are medians of the rounds' own ratios, the smallest of all numbers of
threads; times are those of one thread. `peak_mib` is what a first call needs above its inputs and models, on Linux.
Where others use the cores too, two threads wait for each other far longer than they compute: see `--threads 1`.
"""

import ctypes
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import _negalign_plain as plain
from benchmarks._harness import interleaved, main, ratio, table
from pipeline.backbones.base import seeded, unit
from pipeline.backbones.clip_cam import LastBlock
from pipeline.backbones.towers import Clip, build_clip
from pipeline.config import ClipFeature
from pipeline.evaluation.ood_metrics import lambda_sweep
from pipeline.heads.negalign.local import local_evidence
from pipeline.heads.negalign.masks import background_embedding, foreground, p_align
from pipeline.heads.negalign.scores import Variant, groups, neglabels, predict

SIDE, GRID, E = 224, (14, 14), 512
CLASSES, NEGATIVES, GROUPS, TOPK, K_NEG = 1000, 10_499, 100, 5, 5
OBJECT = BACKGROUND = int(0.45 * NEGATIVES)  # the published lists' share
SETTINGS = [(percentile, dilate) for percentile in (70, 80, 90) for dilate in (0, 1, 2)]
ID_IMAGES, OOD_IMAGES, LAMBDAS = 5_794, 10_000, [step / 10 for step in range(21)]
TOGETHER = f"ours, {len(SETTINGS)} settings at once"


class Case(NamedTuple):
    call: Callable[[], Any]
    images: int  # that one call treats


class Words(NamedTuple):
    """Unit vectors; object words come first, background words last."""

    classes_CE: Tensor
    negatives_ME: Tensor


def run(rounds: int, images: int, cached: int, threads: int) -> dict[str, Any]:
    """Everything with one thread, then with each number up to `threads`. AssertionError where ours and plain differ."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    words = Words(unit(torch.randn(CLASSES, E)), unit(torch.randn(NEGATIVES, E)))
    parts = {"image path": image_path(images, words), **from_the_cache(cached, words)}
    peaks = {part: first_calls(part, cases) for part, cases in parts.items()}
    by_threads = {}
    for number in range(1, threads + 1):
        torch.set_num_threads(number)
        by_threads[number] = {part: timed(cases, rounds) for part, cases in parts.items()}
        for part, result in by_threads[number].items():
            rows = [{"case": name, **row, "peak MiB": peaks[part][name]} for name, row in result.items()]
            table(f"{part}, {number} thread{'s' * (number > 1)}", rows)

    def ms(part: str, case: str = "ours") -> float:
        return by_threads[1][part][case]["ms"]

    def speedup(case: str) -> float:
        return min(result["image path"][case]["speedup"] for result in by_threads.values())

    return {
        "image_path_speedup": speedup("plain"),
        "image_path_speedup_cut": speedup("plain, cut"),
        "score_ms": ms("scores"),
        "mask_ms": ms("mask"),
        "mask_together_ms": ms("mask", TOGETHER) / len(SETTINGS),
        "local_ms": ms("local"),
        "local_share": 100 * ms("local") / ms("image path"),
        "sweep_s": ms("sweep") * (ID_IMAGES + OOD_IMAGES) / 1e3,
        "peak_mib": peaks,
        "threads": by_threads,
        "rounds": rounds,
        "images": images,
        "cached": cached,
    }


# --- the cases --------------------------------------------------------------------------------------------------------


def image_path(images: int, words: Words) -> dict[str, Case]:
    """From pixels to what the cache holds: (embeddings, maps, patches) of the images."""
    with seeded(0):
        model = build_clip().eval()
    feature = ClipFeature(
        backbone="clip",
        weights={"random": 0},  # the same
        output="cam_tokens",
        sampling={"frames": 1},
        preprocess={"resize": SIDE, "crop": (SIDE, SIDE)},
    )
    trunk, block = Clip(feature, torch.device("cpu")), LastBlock(model)
    pixels_BTCHW = torch.randint(0, 256, (images, 1, 3, SIDE, SIDE), dtype=torch.uint8)
    normalised_BCHW = (pixels_BTCHW[:, 0].float() - trunk.mean_C11) / trunk.std_C11

    def ours() -> plain.Answer:
        tokens_BTD = trunk(pixels_BTCHW)["cam_tokens"]
        image_BE = unit(block.embed(tokens_BTD))
        best_BE = words.classes_CE[predict(image_BE, words.classes_CE)]
        return plain.Answer(image_BE, block.cam(tokens_BTD, best_BE), block.patch_embed(tokens_BTD, post_norm=False))

    def loop(cut: bool) -> plain.Answer:
        answers = [plain.look(model, one_1CHW, words.classes_CE, cut) for one_1CHW in normalised_BCHW.split(1)]
        return plain.Answer(*map(torch.stack, zip(*answers, strict=True)))

    calls = {"ours": ours, "plain, cut": partial(loop, cut=True), "plain": partial(loop, cut=False)}
    return {name: Case(call, images) for name, call in calls.items()}


def from_the_cache(cached: int, words: Words) -> dict[str, dict[str, Case]]:
    """Scores (B, 2), P_align (B, settings) and the sweep; plain on the first few images only."""
    few = min(4, cached)
    images_BE = unit(torch.randn(cached, E) + words.classes_CE[torch.randint(CLASSES, (cached,))])
    map_BN, patches_BNE = torch.randn(cached, math.prod(GRID)), torch.randn(cached, math.prod(GRID), E).half()
    background_ME, predicted_B = words.negatives_ME[-BACKGROUND:], predict(images_BE, words.classes_CE)
    variants = [Variant(groups(NEGATIVES, GROUPS, 0)), Variant(groups(range(OBJECT), GROUPS, 0), TOPK)]

    def scores() -> list[Tensor]:
        return [neglabels(images_BE, words.classes_CE, words.negatives_ME, variants).T]

    def plain_scores() -> list[Tensor]:
        rows = [[plain.score(image_E, *words, *variant) for variant in variants] for image_E in images_BE[:few]]
        return [torch.tensor(rows)]

    def mask(settings: list[tuple[int, int]]) -> list[Tensor]:
        shown_BSN = torch.stack([foreground(map_BN, *setting, GRID) for setting in settings], dim=1)
        background_BSE, valid_BS = background_embedding(patches_BNE, shown_BSN)
        best_BS = predicted_B[:, None].expand(valid_BS.shape)
        flat = (background_BSE.flatten(0, 1), words.classes_CE, best_BS.flatten(), background_ME)
        return [p_align(*flat, K_NEG, valid_BS.flatten()).view(valid_BS.shape)]

    def plain_mask() -> list[Tensor]:
        shown_BN = foreground(map_BN[:few], *SETTINGS[0], GRID)
        rows = zip(patches_BNE[:few], shown_BN, words.classes_CE[predicted_B[:few]], strict=True)
        return [torch.stack([plain.p_align(*row, background_ME, K_NEG) for row in rows])[:, None]]

    some = min(16, cached)  # each of its patches meets every word

    def local() -> list[Tensor]:
        return [local_evidence(patches_BNE[:some], words.classes_CE, words.negatives_ME)[0]]

    def plain_local() -> list[Tensor]:
        return [torch.stack([plain.local(patches_NE, *words) for patches_NE in patches_BNE[:few]])]

    draws = torch.randn(4, OOD_IMAGES, dtype=torch.float64).numpy()
    sides = (draws[0, :ID_IMAGES], draws[1, :ID_IMAGES], draws[2] - 1, draws[3] - 1)
    return {
        "scores": {"ours": Case(scores, cached), "plain": Case(plain_scores, few)},
        "mask": {
            "ours": Case(partial(mask, SETTINGS[:1]), cached),
            TOGETHER: Case(partial(mask, SETTINGS), cached),
            "plain": Case(plain_mask, few),
        },
        "local": {"ours": Case(local, some), "plain": Case(plain_local, few)},
        "sweep": {"ours": Case(partial(lambda_sweep, *sides, LAMBDAS), ID_IMAGES + OOD_IMAGES)},
    }


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(cases: dict[str, Case], rounds: int) -> dict[str, dict[str, float]]:
    """Name -> milliseconds an image, and how much faster than it the first case is."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def metered(name: str) -> None:
        started = clock()
        cases[name].call()
        seconds[name].append((clock() - started) / cases[name].images)

    interleaved({name: partial(metered, name) for name in cases}, rounds, warmup=0)
    base = next(iter(seconds.values()))
    return {name: {"ms": 1e3 * median(times), "speedup": ratio(times, base)} for name, times in seconds.items()}


def first_calls(part: str, cases: dict[str, Case]) -> dict[str, float | None]:
    """Name -> how far the first call raises the process's memory, in MiB; None where the system does not tell.

    Raises:
        AssertionError: ours and plain differ by more than 1e-4 of the largest value.
    """
    results, peaks = {}, {}
    resets = Path("/proc/self/clear_refs")
    for name, case in cases.items():
        if not resets.exists():
            results[name], peaks[name] = case.call(), None
            continue
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back
        resets.write_text("5", encoding="utf-8")  # the peak starts anew at what is held now
        before = _status("VmRSS")
        results[name] = case.call()
        peaks[name] = (_status("VmHWM") - before) / 1024
    for name in results:
        for mine, theirs in zip(results["ours"], results[name], strict=True) if name.startswith("plain") else ():
            difference = float((mine[: len(theirs)] - theirs).abs().max() / theirs.abs().max())
            assert difference < 1e-4, f"{part}: ours and {name} differ by {difference}"
    return peaks


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main(run, {"rounds": 3, "images": 4}, rounds=1, images=2, cached=256, threads=2)
