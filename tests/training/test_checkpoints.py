"""What a training left, whole or damaged: the same command ends with the bytes of one that nothing interrupted."""

import io
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.digests import read_json
from tests.later import Later, train
from tests.training.learnable import EPOCHS, Made

checkpoints = Later("pipeline.training.checkpoints")

CURVE = "dvclive/plots/metrics/holdout_accuracy.tsv"


class Killed(Exception):
    """Stands for whatever ends a training between two checkpoints."""


@pytest.fixture(scope="module")
def killed(made, tmp_path_factory) -> Path:
    """A training that ended in its fourth epoch, with the checkpoints of the second and the third."""
    folder = tmp_path_factory.mktemp("killed") / "run"

    def kill(line: str) -> None:
        if line.startswith("epoch   4"):
            raise Killed

    with pytest.raises(Killed):
        train(made.run(folder, epochs=EPOCHS), progress=kill)
    return folder


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """One bit, in the middle: of a checkpoint that torch loads without a word."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def removed(path: Path) -> None:
    path.unlink()


def again(made: Made, folder: Path, whole: Path, **changes) -> list[str]:
    """Trains on to the end, which is that of `whole`. Returns what was said."""
    lines: list[str] = []
    record = train(made.run(folder, epochs=EPOCHS, **changes), progress=lines.append)
    for name in ("weights.safetensors", "history.csv", CURVE):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    expected = read_json(whole / "run.json", "")
    assert {**record, "timings": None} == {**expected, "timings": None}
    assert read_json(folder / "run.json", "") == record
    return lines


def copied(folder: Path, tmp_path: Path, *damages: tuple[Callable[[Path], None], str]) -> Path:
    shutil.copytree(folder, tmp_path / "run")
    for damage, name in damages:
        damage(tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.mark.parametrize("damage", [torn, flipped, emptied])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_gives_the_same_bytes(made, run, killed, tmp_path, damage):
    folder = copied(killed, tmp_path, (damage, "last.ckpt"))
    lines = again(made, folder, run)
    assert lines[0] == (
        f"{folder}/last.ckpt is damaged: removed, and the training goes on from the checkpoint before it"
    )
    assert f"resumed after epoch 2 of {EPOCHS}" in lines


def test_killed_between_two_renames_the_checkpoint_before_is_the_last_and_nothing_is_damaged(
    made, run, killed, tmp_path
):
    lines = again(made, copied(killed, tmp_path, (removed, "last.ckpt")), run)
    assert f"resumed after epoch 2 of {EPOCHS}" in lines and not any("damaged" in line for line in lines)


def test_a_whole_checkpoint_needs_none_before_it(made, run, killed, tmp_path):
    lines = again(made, copied(killed, tmp_path, (torn, "previous.ckpt")), run)
    assert f"resumed after epoch 3 of {EPOCHS}" in lines and not any("damaged" in line for line in lines)


def test_two_damaged_checkpoints_are_said_in_one_line_and_the_training_starts_again(made, run, killed, tmp_path):
    folder = copied(killed, tmp_path, (torn, "last.ckpt"), (flipped, "previous.ckpt"))
    lines = again(made, folder, run)
    assert lines[0] == (
        f"{folder}/last.ckpt is damaged, {folder}/previous.ckpt is damaged: removed, and the training starts again"
    )
    assert not any("resumed" in line for line in lines)


def test_checkpoints_of_other_params_are_not_gone_on_from(made, run, killed, tmp_path):
    folder = tmp_path / "run"
    train(made.run(folder, epochs=2, label_smoothing=0.0), progress=lambda line: None)
    lines = again(made, folder, run)
    assert "what is there was learned from other samples or params: made again" in lines[0]
    assert "last.ckpt is of other samples or params" in lines[1] and lines[1].endswith("the training starts again")
    assert not any("resumed" in line for line in lines)


def altered(path: Path) -> None:
    """A digit of a figure: the JSON is whole, and says something else."""
    path.write_text(re.sub(r'("holdout_accuracy": 0\.)\d', r"\g<1>9", path.read_text(encoding="utf-8")), "utf-8")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (torn, "state.json"),
        (emptied, "state.json"),
        (altered, "state.json"),
        (lambda path: path.write_text("[]", "utf-8"), "state.json"),
        (torn, "weights.safetensors"),
        (flipped, "weights.safetensors"),
        (removed, "weights.safetensors"),
    ],
)
def test_what_is_damaged_of_a_complete_run_is_said_and_made_again_from_its_checkpoint(
    made, run, tmp_path, damage, name
):
    folder = copied(run, tmp_path, (damage, name), (removed, "run.json"), (removed, "history.csv"))
    lines = again(made, folder, run)
    assert lines[0].startswith(f"{folder}/{name} is ") and "damaged" in lines[0] and lines[0].endswith("made again")
    assert not any(line.startswith("epoch") for line in lines)


def test_weights_that_are_damaged_with_the_checkpoint_are_learned_again_from_the_one_before(made, run, tmp_path):
    folder = copied(run, tmp_path, (flipped, "weights.safetensors"), (flipped, "last.ckpt"))
    lines = again(made, folder, run)
    assert [line[:9] for line in lines if line.startswith("epoch")] == [f"epoch   {EPOCHS}"]


def test_killed_after_its_last_checkpoint_a_training_loses_nothing_of_its_logs(made, run, tmp_path):
    folder = copied(run, tmp_path, *((removed, name) for name in ("state.json", "run.json", "weights.safetensors")))
    shutil.rmtree(folder / "dvclive")
    assert not any(line.startswith("epoch") for line in again(made, folder, run))


def saved(state: dict) -> bytes:
    """A checkpoint's content, to compare."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def test_no_flip_and_no_truncation_of_a_checkpoint_is_loaded_as_something_else(killed, tmp_path):
    content, drawn = (killed / "last.ckpt").read_bytes(), random.Random(7)
    state = torch.load(killed / "last.ckpt", weights_only=True)
    identity = state["callbacks"]["Journal"]["identity"]
    known = saved(state)
    # The directory of the zip file lies at its end: half of the places are there.
    places = [drawn.randrange(len(content)) for _ in range(20)]
    places += [len(content) - 1 - drawn.randrange(12_000) for _ in range(20)]
    damaged = [content[:place] for place in places[::5]]
    for place in places:
        damaged.append(bytearray(content))
        damaged[-1][place] ^= 1 << drawn.randrange(8)
    noticed = 0
    for now in damaged:
        (tmp_path / "last.ckpt").write_bytes(now)
        if checkpoints.resumable(
            tmp_path, identity, lambda line: None
        ):  # a date, or what fills up to a multiple of 64 bytes
            assert saved(torch.load(tmp_path / "last.ckpt", weights_only=True)) == known
        else:
            noticed += 1
    assert noticed > len(damaged) // 2
