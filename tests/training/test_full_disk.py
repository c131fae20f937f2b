"""A disk that is full while a head is trained, evaluated and reported: one line, and the same command goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, files
from pipeline.evaluation import evaluate
from pipeline.reports import files as pictures
from pipeline.reports import publish
from pipeline.reports.files import beside
from tests.evaluations import evaluation_of
from tests.later import train
from tests.training.learnable import EPOCHS

WHOLE, OPEN = files.whole, open


@pytest.fixture
def full(tmp_path, monkeypatch) -> Callable:
    """Makes the disk full for one file, from the n-th time on that it is written: the kernel's own error."""
    (tmp_path / "full").symlink_to("/dev/full")  # who fails may remove what it wrote: the link

    def fill(name: str, since: int = 1) -> None:
        times = []

        def place(path: Path) -> Path | None:
            times.extend([path] if Path(path).name == name else [])
            return tmp_path / "full" if Path(path).name == name and len(times) >= since else None

        @contextmanager
        def whole(path: Path, durable: bool = False) -> Iterator[Path]:
            with WHOLE(path, durable) as scratch:
                yield place(path) or scratch

        from pipeline.training import checkpoints

        for module in (files, checkpoints, pictures):
            monkeypatch.setattr(module, "whole", whole)

        def opened(path: Any, mode: str = "r", **how: Any) -> Any:
            return OPEN((mode == "a" and place(path)) or path, mode, **how)

        monkeypatch.setattr("dvclive.plots.metric.open", opened, raising=False)

    return fill


def refused(verb: Callable[[], object], monkeypatch, capsys) -> str:
    """The one line that the command line ends with."""
    monkeypatch.setattr(cli.base, "app", verb)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main()
    monkeypatch.undo()
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("epoch", "resumed"))][-1]


def test_training_on_a_full_disk_is_one_line_and_loses_no_epoch(made, run, full, tmp_path, monkeypatch, capsys):
    folder, lines = tmp_path / "run", []
    begin = made.run(folder, epochs=EPOCHS)
    tried = {
        "last.ckpt": 3,
        "holdout_loss.tsv": 4,
        "history.csv": 2,
        "weights.safetensors": 1,
        "state.json": 1,
        "run.json": 1,
    }
    for name, since in tried.items():
        full(name, since)
        said = refused(lambda: train(begin, progress=lines.append), monkeypatch, capsys)
        where = folder / ("dvclive" if name.endswith("tsv") else name)
        assert said == f"error: {where}: No space left on device; free some space, and run again"
    train(begin, progress=lines.append)
    # No epoch that has its checkpoint is computed again.
    assert [line[:9] for line in lines if line.startswith("epoch")] == [
        f"epoch   {epoch}" for epoch in (1, 2, 3, 3, 4, 5, 6)
    ]
    for name in ("weights.safetensors", "history.csv", "dvclive/plots/metrics/holdout_loss.tsv"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture(scope="module")
def evaluated(made, run) -> Path:
    """The folder of the run's evaluation."""
    evaluate(made.run(run, epochs=EPOCHS), progress=lambda line: None)
    return evaluation_of(run)


@pytest.mark.parametrize("name", ["predictions.parquet", "result.json"])
def test_evaluating_on_a_full_disk_is_one_line_and_the_earlier_result_stays(
    made, run, evaluated, full, monkeypatch, capsys, name
):
    before = (evaluated / name).read_bytes()
    full(name)
    begin = made.run(run, epochs=EPOCHS)
    said = refused(lambda: evaluate(begin, progress=lambda line: None), monkeypatch, capsys)
    assert said == f"error: {evaluated / name}: No space left on device; free some space, and run again"
    assert (evaluated / name).read_bytes() == before
    evaluate(begin, progress=lambda line: None)


@pytest.mark.parametrize("name", ["training.png", "confusion.png", "x.json"])
def test_reporting_on_a_full_disk_is_one_line_and_a_half_picture_is_nowhere(
    evaluated, full, tmp_path, monkeypatch, capsys, name
):
    out = tmp_path / "results" / "x.json"
    place = out if name == "x.json" else beside(out, name)
    full(name)
    said = refused(lambda: publish(evaluated, out), monkeypatch, capsys)
    assert said == f"error: {place}: No space left on device; free some space, and run again"
    assert not place.exists() and not list(out.parent.rglob(".*"))
    publish(evaluated, out)
    assert out.exists() and place.exists()
