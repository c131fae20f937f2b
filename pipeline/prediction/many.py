"""A head's answers about many files as one table. Killed, the same call goes on where it was, and ends with the same
bytes. Knows no head.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets.build import Finding, Job, examine_all
from pipeline.digests import sha256
from pipeline.features_only.files import named_files
from pipeline.files import lock, write_text
from pipeline.prediction import absent, predict
from pipeline.prediction.answers import PredictionError
from pipeline.prediction.files import at_once
from pipeline.runs import Run
from pipeline.tables import write_frame

TABLES = (".parquet", ".csv", ".jsonl")
LISTS = (".txt", ".lst")


class Told(NamedTuple):
    """A finished table: how many files it has, how many of them without an answer, how many were there already."""

    files: int
    failed: int
    resumed: int


def listed(paths: Sequence[Path], say: Callable[[str], None] = lambda line: None) -> list[str]:
    """The files that are meant, each once, in order: those named, videos and pictures below folders, and the lines of a
    list (.txt, .lst), whose paths begin at the list's folder.

    Raises:
        PredictionError: a list that cannot be read or is empty. FilesError: a folder without a video or picture.
    """
    found: dict[str, None] = {}
    for path in paths:
        if path.is_dir():
            found |= dict.fromkeys(place for _, place in named_files([path], say))
        elif path.suffix in LISTS and path.exists():
            found |= dict.fromkeys(_lines(path))
        else:
            found[str(path)] = None
    return list(found)


def _lines(path: Path) -> Iterator[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise PredictionError(f"{path}: is no list in UTF-8 ({error.reason}); save it as UTF-8") from None
    if not any(lines):
        raise PredictionError(f"{path}: names no file; write a path a line")
    yield from (os.path.normpath(path.parent / line) for line in lines if line)


def predict_table(
    run: Run,
    files: Sequence[str],
    table: Path,
    map: str | None = None,
    transcripts: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> Told:
    """Writes a row a file: what `predict` says of it, or why it has no answer, in a column `error`.

    What is answered lies in `<table>.part` until all is; another run, other files, or files that have changed meanwhile
    begin it anew. Label files, timelines and pictures of heads that write them lie in a folder of the table's name.

    Args:
        run: a finished one.
        files: each once.
        table: .parquet or .csv, in which what is nested is JSON, or .jsonl.
        map, transcripts, progress: as of `predict`.
        done: called with how many files are answered, of how many.

    Raises:
        PredictionError: another ending, two files whose label files would have one name, a table that another process
            writes; and as `predict` raises.
    """
    if table.suffix not in TABLES:
        raise PredictionError(f"--out {table}: a table ends with {', '.join(TABLES)}")
    folder = table.with_suffix("") if "out" in run.task.options else None
    if folder is not None:
        names = Counter(Path(file).stem for file in files)
        if twice := [name for name, count in names.items() if count > 1]:
            raise PredictionError(
                f"{len(twice)} names are those of several files, the first is {twice[0]!r}, and what is written of "
                f"each would be {folder / twice[0]}; rename them, or ask about them apart"
            )
    refused = {file: str(why) for file in files if (why := absent(Path(file))) is not None}
    asked = [file for file in files if file not in refused]
    journal = table.with_name(f"{table.name}.part")
    try:
        held = lock(journal)
    except BlockingIOError:
        raise PredictionError(f"{table}: another process writes it; wait for it, or name another --out") from None
    try:
        told = _told_before(journal, _identity(run, asked, map, transcripts), len(asked), at_once(run))
        resumed, left = len(told), asked[len(told) :]
        found = _looked_at(run, left)
        answers = predict(run, [Path(file) for file in left], map, folder, transcripts, progress, found) if left else ()
        with journal.open("a", encoding="utf-8") as lines:
            for file, answer in zip(left, answers, strict=True):
                told[file] = {"error": str(answer)} if isinstance(answer, Exception) else answer.record
                print(json.dumps((file, told[file])), file=lines, flush=True)
                done(len(refused) + len(told), len(files))
        rows = [{"file": file, "error": refused.get(file), **told.get(file, {})} for file in files]
        _write(table, rows)
        journal.unlink()
    finally:
        os.close(held)
    return Told(len(rows), sum(row["error"] is not None for row in rows), resumed)


def _looked_at(run: Run, files: Sequence[str]) -> dict[str, Finding]:
    """What is found of videos, each in a process that it may end: that is its reason then, and the others go on."""
    if not files or run.params.datasets[run.dataset].kind != "video":
        return {}
    chunks = examine_all([Job(file, None, None) for file in files], max(run.params.compute.decode_workers, 1))
    return dict(zip(files, chain.from_iterable(chunks), strict=True))


def _identity(run: Run, files: Sequence[str], map: str | None, transcripts: Path | None) -> str:
    """Of all that decides the answers: the run, and the files by their names, sizes and times."""
    looks = [(file, of.st_size, of.st_mtime_ns) for file in files for of in [os.stat(file)]]
    told = [str(run.folder), run.record.get("weights"), run.evaluation, map, str(transcripts), looks]
    return sha256(json.dumps(told).encode())


def _told_before(journal: Path, identity: str, files: int, step: int) -> dict[str, dict[str, Any]]:
    """What is answered already, in order, which is all that the journal then holds: nothing of another run or of other
    files, no line that was cut, and of files that were computed together, which decides last bits, all or none.
    """
    with journal.open("r+b") as stream:
        lines = [line for line in stream.read().splitlines(keepends=True) if line.endswith(b"\n")]
        if not lines or json.loads(lines[0]) != identity:
            stream.seek(0)
            stream.truncate()
            stream.write(json.dumps(identity).encode() + b"\n")
            return {}
        answered = len(lines) - 1
        kept = lines[: 1 + (answered if answered == files else answered // step * step)]
        stream.truncate(sum(map(len, kept)))
    return dict(map(json.loads, kept[1:]))


def _write(table: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    if table.suffix == ".jsonl":
        write_text(table, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        return
    columns = dict.fromkeys(name for row in rows for name in row)
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in columns}, dtype=object)
    if table.suffix == ".parquet":
        write_frame(frame, table)
        return
    nested = frame.map(lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value)
    write_text(table, nested.to_csv(index=False, lineterminator="\n"))
