"""What a training of Something-Something-V2's head needs of a GPU, and in how many parts a batch fits which card.

Measured at the real size on tensors that have shapes and no values: bytes that a forward keeps, as
`torch.autograd.graph.saved_tensors_hooks` sees them (each storage once, parameters left out), and the most bytes that
live at once in a forward and its backward, of 2 and of 4 samples: what a sample adds, and what is there without any.
Attention keeps and makes what a GPU's fused kernels do. Weights, their average and Adam's two moments are counted.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._harness import ROOT, page_table
from benchmarks._training import Learning, batch_of, changed, peak_bytes, run_of, saved_bytes, shapes_only, with_compute
from pipeline.config import load_params
from pipeline.runs import Run

PAGE = ROOT / "docs/real-data.md"
START, END = "<!-- python -m benchmarks.memory --write -->\n", "<!-- end -->\n"
SHAPES = {"dinov3_patches": ("patch_tokens", (8, 196, 768)), "r3d18_clips": ("clip_tokens", (8, 49, 512))}
CARDS = (24, 40, 80)
USABLE = 0.85  # of a card: the rest is CUDA's own, cuBLAS's and cuDNN's, and what lies between blocks
FEW, MORE = 2, 4  # samples


class Need(NamedTuple):
    """Bytes: kept by a forward a sample; the peak of a step, a sample and without any; of weights and optimiser."""

    saved: float
    each: float
    always: float
    state: int

    def of(self, samples: int) -> float:
        """Of a part of so many samples."""
        return self.state + self.always + samples * self.each

    def parts(self, batch: int, room: float) -> int | None:
        """The fewest parts, a power of two, in which a batch fits; None where no sample does."""
        accumulate = 1
        while self.of(-(-batch // accumulate)) > room:
            if accumulate >= batch:
                return None
            accumulate *= 2
        return accumulate


def measured(run: Run, gradient_checkpointing: bool) -> Need:
    """What a step of a head needs."""
    batches = [batch_of(run, size, "cpu") for size in (FEW, MORE)]
    with shapes_only() as shapes:
        learning = Learning.of(changed(run, gradient_checkpointing=gradient_checkpointing, accumulate=1), "cpu")
        few, more = map(shapes, batches)
        saved = saved_bytes(learning, more) / MORE
        low, high = peak_bytes(learning, few), peak_bytes(learning, more)
        size = sum(of.numel() * of.element_size() for of in learning.step.parameters())
    each = (high - low) / (MORE - FEW)
    return Need(saved, each, max(low - FEW * each, 0.0), 4 * size)  # weights, average, two moments


def needs(folder: Path) -> tuple[Any, dict[bool, Need]]:
    """The head's params, and its needs without and with gradient checkpointing."""
    params = with_compute(load_params(ROOT / "configs/ssv2.yaml"), device="cpu", threads=1)
    run = run_of(params, "gasm_cast", SHAPES, 174, MORE, folder)
    return run.config, {switch: measured(run, switch) for switch in (False, True)}


def lines(config: Any, found: dict[bool, Need]) -> Iterator[str]:
    """The table, line by line."""
    yield "| card | `accumulate` | samples a part | GiB | with `gradient_checkpointing: true` | samples a part | GiB |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for card in CARDS:
        cells = []
        for need in found.values():
            parts = need.parts(config.batch_size, USABLE * card * 2**30)
            samples = -(-config.batch_size // parts)
            cells.append(f"`{parts}` | {samples} | {need.of(samples) / 2**30:.1f}")
        yield f"| {card} GB | {' | '.join(cells)} |"
    yield ""
    plain, again = found[False], found[True]
    yield (
        f"A batch of {config.batch_size} in {config.precision}. A forward keeps {plain.saved / 2**20:.0f} MiB a sample "
        f"for its backward, {again.saved / 2**20:.0f} with"
    )
    yield (
        f"gradient checkpointing; a step has at most {plain.each / 2**20:.0f} and {again.each / 2**20:.0f} MiB a "
        f"sample at once. Beside that stand {plain.state / 2**30:.2f} GiB of weights,"
    )
    yield f"average and moments, and {plain.always / 2**30:.2f} GiB of gradients and what is one of a batch."


def measured_lines() -> Iterator[str]:
    """The table of the head as it is."""
    with tempfile.TemporaryDirectory() as folder:
        yield from lines(*needs(Path(folder)))


if __name__ == "__main__":
    page_table(PAGE, START, END, measured_lines())
