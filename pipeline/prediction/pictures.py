"""NegAlign on new pictures, from its finished run. Knows no store of pictures.

Shape suffixes: B pictures, T tokens, N patches, D width, E embedding width, H W pixels, C colours.
"""

from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.backbones import load, preprocessor
from pipeline.backbones.base import unit
from pipeline.config import ClipFeature
from pipeline.evaluation.ood import Scorer, combined, read_texts
from pipeline.extraction.device import Device, Fields, halving
from pipeline.heads.negalign.scores import Standard
from pipeline.prediction.answers import Answered, PredictionError, Question
from pipeline.runs import RESULT, Run
from pipeline.transfers import AHEAD
from pipeline.video import VideoError
from pipeline.video.pictures import read_picture


class Scored(NamedTuple):
    """A picture's scores: S_NegLabel, S_NegLabel*, P_align and the final one, its class, whether it has a background.

    With score.local max also its terms, evidence of the picture and of its best patch, and that patch's row and column
    from 0; otherwise None.
    """

    file: str
    plain: float
    star: float
    p_align: float
    final: float
    predicted: str
    cam_valid: bool
    evidence: float | None = None
    local: float | None = None
    patch: tuple[int, int] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the line: with score.local max its own terms in place of the published ones, which the record has."""
        if self.patch is not None:
            return ("file", "plain", "evidence", "local", "patch", "final", "predicted")
        return ("file", "plain", "star", "p_align", "final", "predicted", "cam_valid")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """One line."""
        return [tuple(_told(getattr(self, column)) for column in self.columns)]

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict()


Answer = Scored | VideoError | PredictionError
Begun = Callable[[], Iterator[tuple[str, Answer]]]


class Predictor:
    """Scores picture files as the finished run scored those of its data sets; CLIP runs once a picture.

    Numbers go through float16 where a store holds them so: a picture's scores are those of its row in the run.
    """

    def __init__(self, run: Run) -> None:
        """
        Raises:
            RunError: the run is not finished.
            PredictionError: another kind of head, a result of an older one, or features not of one pass of CLIP.
            DataError, ExtractionError: its texts cannot be used.
            BackboneError: its weights cannot be loaded.
        """
        if not hasattr(run.config, "ood"):
            raise PredictionError(
                f"{run.head} tells nothing in- from out-of-distribution; name a head of the kind negalign"
            )
        self.run, self.lam, self.standard = run, float(run.result["lambda"]), _standard(run)
        config, self.device = run.config, Device(run.params.compute)
        tokens = tokens_feature(run)
        self.batch = tokens.batch
        self.texts = read_texts(run)
        self.pixels, self.tower = preprocessor(tokens), load(tokens, self.device.device)
        # Its CLIP takes seconds to import: explaining, and predicting for other heads, need none.
        from pipeline.extraction.cams import Cams

        self.cams = Cams(run.params, config.features.cam, run.root)
        self.scorer = Scorer(config, run.head, self.texts, self.cams.blocks.last.grid, self.device.device)

    def score(self, path: Path) -> Scored:
        """Raises VideoError: the file cannot be read. PredictionError: what CLIP makes of it is not finite."""
        ((_, found),) = self.answers([str(path)])
        if isinstance(found, Exception):
            raise found
        return found

    def answers(self, files: Iterable[str]) -> Iterator[tuple[str, Answer]]:
        """Each file with its scores, or with what `score` raises, in order.

        CLIP sees as many pictures at once as in an extraction; on a GPU these are read while those before are computed
        with. Its last block and the scores are a picture's own, as there were no others: on a CPU a product of one row
        is rounded otherwise than one of many.
        """
        waiting: deque[Begun] = deque()
        left = iter(files)
        while batch := list(islice(left, self.batch)):
            waiting.append(self._begun(batch))
            if len(waiting) > AHEAD:
                yield from waiting.popleft()()
        for begun in waiting:
            yield from begun()

    def _begun(self, files: Sequence[str]) -> Begun:
        """What waits for the answers about a batch of files."""
        refused: dict[str, VideoError] = {}
        pixels = {}
        for file in files:
            try:
                pixels[file] = torch.from_numpy(self.pixels(read_picture(Path(file))[None]))
            except VideoError as error:
                refused[file] = error
        computed = self._scores(list(pixels), torch.stack([*pixels.values()])) if pixels else dict

        def answers() -> Iterator[tuple[str, Answer]]:
            found = refused | computed()
            return ((file, found[file]) for file in files)

        return answers

    def _scores(self, files: Sequence[str], pixels_B1CHW: Tensor) -> Callable[[], dict[str, Answer]]:
        """What waits for the scores of pictures. One of which they are not finite has that for its answer, alone."""
        try:
            computed = halving(self._computed, pixels_B1CHW)
        except ValueError as error:
            if len(files) == 1:
                refused: dict[str, Answer] = {files[0]: PredictionError(f"{files[0]}: {error}")}
                return lambda: refused
            alone = [self._scores([file], pixels_B1CHW[row : row + 1]) for row, file in enumerate(files)]
            return lambda: dict(ChainMap(*(of() for of in alone)))

        def scores() -> dict[str, Answer]:
            fields = computed()
            rows = [{name: field[row : row + 1] for name, field in fields.items()} for row in range(len(files))]
            return {file: self._scored(file, row) for file, row in zip(files, rows, strict=True)}

        return scores

    def _computed(self, pixels_B1CHW: Tensor) -> Callable[[], Fields]:
        tokens_BTD = self.tower(self.device.upload(pixels_B1CHW))["cam_tokens"]
        each = [self._of_tokens(tokens_BTD[row : row + 1]) for row in range(len(tokens_BTD))]
        fields = {name: torch.cat([of[name] for of in each]) for name in each[0]}
        return self.device.download(fields, {name: str(of.dtype).removeprefix("torch.") for name, of in fields.items()})

    def _of_tokens(self, tokens_1TD: Tensor) -> dict[str, Tensor]:
        last = self.cams.blocks.last
        image_1E = _stored(unit(last.embed(self.cams.blocks.before_last(tokens_1TD))))
        maps_1N, patches_1NE = map(_stored, self.cams.of(_stored(tokens_1TD)))
        return self.scorer.scores(image_1E, maps_1N, patches_1NE)

    def _scored(self, file: str, found: Fields) -> Scored:
        """A picture's record, of arrays of one row."""
        if self.standard is not None:
            found["star"] = self.standard.apply(torch.from_numpy(found["star"])).numpy()
        found["final"] = combined(self.run.config, found, self.lam)
        told = {name: value.item() for name, value in found.items()}
        scores = (told[name] for name in ("neglabel", "star", "p_align", "final"))
        place = divmod(told["patch"], self.scorer.grid[1]) if "patch" in told else None
        local = told.get("evidence"), told.get("local"), place
        return Scored(file, *scores, self.scorer.classes[told["predicted"]], told["cam_valid"], *local)

    def tokens(self, path: Path) -> Tensor:
        """(1, T, D) float32: what enters the block that the maps begin with. Raises VideoError."""
        pixels_1CHW = torch.from_numpy(self.pixels(read_picture(path)[None]))
        return self.tower(pixels_1CHW[None])["cam_tokens"]


def score(question: Question) -> Answered:
    """`prediction.predict` of NegAlign: of each file its scores, or why it has none."""
    for file, answer in Predictor(question.run).answers(question.files):
        yield {file: answer}


def _told(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return "" if cell is None else f"{cell[0]},{cell[1]}" if isinstance(cell, tuple) else str(cell)


def _standard(run: Run) -> Standard | None:
    """Of S_NegLabel*, None where M3 is off."""
    if not run.config.score.zscore:
        return None
    if "standard" not in run.result:
        raise PredictionError(
            f"{run.folder}: its {RESULT} does not hold the mean and deviation of its z-scores; "
            f"evaluate the head again: `python -m pipeline evaluate {run.head}`"
        )
    return Standard(**run.result["standard"])


def _stored(values: Tensor) -> Tensor:
    return values.half().float()


def tokens_feature(run: Run) -> ClipFeature:
    """The feature of the tokens from which both of a picture's features follow.

    Raises:
        PredictionError: the head's image embedding and its maps are not of one CLIP and one view of the picture.
    """
    names, features = run.config.features, run.params.features
    image, cam = (features[name] for name in (names.image, names.cam))
    if not isinstance(image, ClipFeature) or cam.backbone != "clip_cam":
        raise PredictionError(
            f"heads.{run.head}.features are of the backbones {image.backbone} and {cam.backbone}, expected clip and "
            "clip_cam: only of these can single pictures be scored"
        )
    tokens = features[cam.source]
    for what in ("weights", "preprocess", "precision"):
        if getattr(image, what) != getattr(tokens, what):
            raise PredictionError(
                f"{names.image} and {cam.source} differ in {what}: CLIP runs once a picture, so let them be equal"
            )
    return tokens
