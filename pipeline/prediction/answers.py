"""What is said of a file: one answer, or one error. Knows no head and opens no file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.datasets.build import Finding
from pipeline.runs import Run


class PredictionError(ValueError):
    """A file that has no answer, or a head that cannot be asked; the message gives the remedy."""


class Answer(Protocol):
    """What a head says of one file.

    Attributes:
        columns: of a table.
        rows: of that table, a few a file.
        record: the same, and more, for JSON.
    """

    columns: tuple[str, ...]

    @property
    def rows(self) -> list[tuple[str, ...]]: ...

    @property
    def record(self) -> dict[str, Any]: ...


Answers = dict[str, Answer | Exception]  # file, as it was named -> what is said of it, or why nothing is


Answered = Iterator[Answers]  # a few files at a time


@dataclass(frozen=True)
class Question:
    """What a head is asked.

    Attributes:
        run: a finished one; of its stores those of texts alone are read.
        files: each once, all of them there.
        map: the clinician's map of the one file; None is the answer without one.
        out: folder for what is written.
        transcripts: folder with the transcript of each file, named like it; of a head that predicts among a transcript.
        progress: called with a line now and then.
        found: of files that were looked at already, what was found.
    """

    run: Run
    files: Sequence[str]
    map: Path | None
    out: Path
    transcripts: Path | None
    progress: Callable[[str], None]
    found: Mapping[str, Finding] = field(default_factory=dict)
