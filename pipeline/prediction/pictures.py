"""NegAlign on new pictures, from its finished run. Knows no store of pictures.

Shape suffixes: B pictures, T tokens, N patches, D width, E embedding width, H W pixels, C colours.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.backbones import load, preprocessor
from pipeline.backbones.base import unit
from pipeline.config import ClipFeature
from pipeline.evaluation.ood import Scorer, combined, read_texts
from pipeline.extraction.device import Device
from pipeline.heads.negalign.scores import Standard
from pipeline.prediction.answers import Answered, PredictionError, Question
from pipeline.runs import RESULT, Run
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
        config, device = run.config, Device(run.params.compute).device
        tokens = tokens_feature(run)
        self.texts = read_texts(run)
        self.pixels, self.tower = preprocessor(tokens), load(tokens, device)
        # Its CLIP takes seconds to import: explaining, and predicting for other heads, need none.
        from pipeline.extraction.cams import Cams

        self.cams = Cams(run.params, config.features.cam, run.root)
        self.scorer = Scorer(config, run.head, self.texts, self.cams.blocks.last.grid, device)

    def score(self, path: Path) -> Scored:
        """Raises VideoError: the file cannot be read. PredictionError: what CLIP makes of it is not finite."""
        tokens_BTD = self.tokens(path)
        try:
            last = self.cams.blocks.last
            image_BE = _stored(unit(last.embed(self.cams.blocks.before_last(tokens_BTD))))
            maps_BN, patches_BNE = map(_stored, self.cams.of(_stored(tokens_BTD)))
            found = self.scorer.score(image_BE, maps_BN, patches_BNE)
        except ValueError as error:
            raise PredictionError(f"{path}: {error}") from error
        if self.standard is not None:
            found["star"] = self.standard.apply(torch.from_numpy(found["star"])).numpy()
        found["final"] = combined(self.run.config, found, self.lam)
        told = {name: value.item() for name, value in found.items()}
        scores = (told[name] for name in ("neglabel", "star", "p_align", "final"))
        place = divmod(told["patch"], self.scorer.grid[1]) if "patch" in told else None
        local = told.get("evidence"), told.get("local"), place
        return Scored(str(path), *scores, self.scorer.classes[told["predicted"]], told["cam_valid"], *local)

    def tokens(self, path: Path) -> Tensor:
        """(1, T, D) float32: what enters the block that the maps begin with. Raises VideoError."""
        pixels_1CHW = torch.from_numpy(self.pixels(read_picture(path)[None]))
        return self.tower(pixels_1CHW[None])["cam_tokens"]


def score(question: Question) -> Answered:
    """`prediction.predict` of NegAlign: of each file its scores, or why it has none."""
    predictor = Predictor(question.run)
    for file in question.files:
        try:
            yield {file: predictor.score(Path(file))}
        except (VideoError, PredictionError) as error:
            yield {file: error}


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
