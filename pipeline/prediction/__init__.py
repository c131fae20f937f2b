"""Heads on new files, and a look at finished runs: pixels, backbones and evaluation in one place."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pipeline.lazily import passed_on
from pipeline.prediction.answers import Answer, PredictionError, Question
from pipeline.runs import Run

if TYPE_CHECKING:
    from pipeline.datasets.build import Finding
    from pipeline.prediction.pictures import Predictor, Scored
    from pipeline.prediction.segmentation import strips
    from pipeline.video import VideoError

__all__ = ["Answer", "PredictionError", "Predictor", "Scored", "absent", "predict", "strips"]

# A head's answers need no other task's code.
__getattr__ = passed_on(__name__, {".pictures": ["Predictor", "Scored"], ".segmentation": ["strips"]})

WITHOUT_MAP = "none"
OUT = Path("predictions")


def predict(
    run: Run,
    files: Sequence[Path],
    map: str | None = None,
    out: Path | None = None,
    transcripts: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
    found: "Mapping[str, Finding]" = MappingProxyType({}),
) -> "Iterator[Answer | PredictionError | VideoError]":
    """What a head's finished run says of files, as it would have said it of a sample of its data set.

    Args:
        run: a finished one; of its stores those of texts are read.
        files: videos, or pictures for a head of pictures.
        map: for a head that looks with a clinician: the file of the map of the only video, or "none", which may be left
            out where the head predicts the map.
        out: folder for label files and timelines of a head that segments, and for pictures of one that predicts maps;
            "predictions" if not given.
        transcripts: for a head that predicts among a transcript: the folder of those of the videos.
        progress: called with a line now and then.
        found: of videos that were looked at already, what was found; the others are looked at in this process.

    Yields:
        Of each file, in order, the answer or why there is none, as soon as there is one: files are asked about a few at
        a time.

    Raises:
        PredictionError: an option that the head has no use for or misses; a head that no file can be given to.
        RunError, DataError, BackboneError, ExtractionError: no finished run, or no weights; with the remedy.
    """
    head, task = run.head, run.task
    takes_map, predicts_map = "map" in task.options, getattr(run.config, "predicts_map", False)
    if (map is None and takes_map and not predicts_map) or (map is not None and not takes_map):
        wanted = f"give --map FILE, or --map {WITHOUT_MAP} for its answer without a clinician"
        raise PredictionError(f"{head} {f'looks where a map says: {wanted}' if map is None else 'takes no --map'}")
    if map not in (None, WITHOUT_MAP) and len(files) > 1:
        raise PredictionError(f"--map is of one video, got {len(files)}; name them one by one, or --map {WITHOUT_MAP}")
    if out is not None and ("out" not in task.options or (takes_map and not predicts_map)):
        raise PredictionError(f"{head} writes no file and takes no --out")
    scripted = "transcripts" in task.options and run.config.model.transcript
    if scripted != (transcripts is not None):
        raise PredictionError(
            f"{head} predicts among the segments of a transcript: give --transcripts FOLDER, which holds that of each "
            "video, <its name>.txt, a class a line in order"
            if scripted
            else f"{head} takes no --transcripts"
        )
    refused = {str(path): error for path in files if (error := absent(path)) is not None}
    there = list(dict.fromkeys(str(path) for path in files if str(path) not in refused))
    map_file = None if map in (None, WITHOUT_MAP) else Path(map)
    if map_file is not None and not map_file.exists():
        raise PredictionError(f"--map {map_file}: there is no such file; correct its name")
    question = Question(run, there, map_file, out or OUT, transcripts, progress, found)
    answers, waiting = dict(refused), deque(str(path) for path in files)
    for found in chain(task.code("predict")(question), [{}]):
        answers |= found
        while waiting and waiting[0] in answers:
            yield answers[waiting.popleft()]


def absent(path: Path) -> PredictionError | None:
    """Why there is nothing to be asked about under a name; None where there is."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # which no table, no store and no answer can hold
        return PredictionError(
            f"{path}: its name is not UTF-8 text; rename the file, or set LC_ALL=C.UTF-8 if the locale is another"
        )
    if path.is_dir():
        return PredictionError(f"{path}: is a folder; name the files in it")
    if not path.exists():
        return PredictionError(f"{path}: there is no such file; correct its name")
    return None
