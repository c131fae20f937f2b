"""What a person may choose of clip_align. The defaults are those of configs/clinic.yaml, in single precision."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Name, Positive, Share, Strict
from pipeline.config.contents import Given, Maps, Reads, Tokens
from pipeline.config.heads import Rate, WarmedHead

GROUPS = 8  # of the norms: widths are multiples of it


class ClipAlignFeatures(Strict):
    """The token grid of a clip, and the clinician's attention on that very grid."""

    tokens: Annotated[Name, Reads(Tokens)]
    maps: Annotated[Name, Reads(Maps)]


class ClipAlignModel(Strict):
    """Arguments of heads.clip_align.ClipAlign that do not follow from the data (spec: docs of that class)."""

    encoder: Literal["3dcnn", "2dcnn", "cnn_lstm"] = "3dcnn"
    map_guided: bool = True
    map_guided_type: Literal["predicted", "spatiotemporal", "channel", "weighted_pool", "summary_gate"] = "predicted"
    sigmoid_gate: Annotated[
        bool, Field(description="of spatiotemporal: a gate learned from the map, not the map itself")
    ] = False
    classifier_source: Literal["video", "attn", "fusion"] = "video"
    map_dropout: Annotated[Share, Field(description="share of clips trained under the mean map; not of predicted")] = (
        0.0
    )
    map_teach: Annotated[
        float, Field(ge=0, le=1, description="of predicted: share of clips that are pooled by their map in training")
    ] = 0.5
    width: Annotated[Positive, Field(multiple_of=GROUPS)] = 128
    feature_dim: Positive = 512
    embed_dim: Annotated[
        int, Field(ge=2, lt=2**31, description="normalised, so that of one number nothing is left")
    ] = 256
    map_width: Annotated[Positive, Field(multiple_of=GROUPS)] = 32
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _what_goes_with_a_predicted_map(self) -> "ClipAlignModel":
        if self.map_guided and self.map_guided_type == "predicted":
            but = "but map_guided_type is predicted"
            if self.classifier_source != "video":
                raise ValueError(
                    f"classifier_source is {self.classifier_source}, {but}, which needs no map in use, and "
                    f"{self.classifier_source} reads one; set it to video, or name another map_guided_type"
                )
            if self.map_dropout:
                raise ValueError(
                    f"map_dropout is {self.map_dropout:g}, {but}: no mean map stands in there, and map_teach says how "
                    "many clips are pooled by their map; set map_dropout to 0"
                )
            if self.sigmoid_gate:
                raise ValueError(f"sigmoid_gate is true, {but}, which has no gate; set it to false")
        return self


class ClipAlignLoss(Strict):
    """Weights of the terms beside the classification, 0 being off, and of the classes."""

    clip_weight: Annotated[float, Field(ge=0)] = 0.0
    lambda_token: Annotated[float, Field(ge=0)] = 0.0
    lambda_map: Annotated[float, Field(ge=0, description="of predicted: of the clinician's map from it")] = 1.0
    class_weights: Annotated[bool, Field(description="each class by the inverse of its share of train")] = False


class Clinicians(Strict):
    """Whose maps are learned from and whose are evaluated with; without them, everybody's."""

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    evaluated: Annotated[tuple[str, ...], Field(min_length=1)]


class ClipAlignHead(WarmedHead):
    """The clip_align head: a diagnosis from a video and a clinician's attention, both in one space."""

    task: ClassVar = "alignment"
    code: ClassVar = "pipeline.heads.clip_align.model:ClipAlign"
    features: ClipAlignFeatures
    model: ClipAlignModel = ClipAlignModel()
    loss: ClipAlignLoss = ClipAlignLoss()
    lr: Rate = 8e-3
    batch_size: Positive = 32
    epochs: Positive = 40
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Share = 0.05
    ema_decay: Share = 0.98
    patience: Positive = 15
    compat: Annotated[Literal["published"] | None, Field(description="published: the original formulas")] = None
    max_trainable: Positive = 20_000_000
    holdout_split: Annotated[str, Field(description="for early stopping: other patients than those of train")] = "val"
    clinicians: Clinicians | None = None
    fraction: Annotated[float, Field(gt=0, le=1, description="share of the patients of train that is learned from")] = (
        1.0
    )

    @property
    def predicts_map(self) -> bool:
        """Whether it predicts where a clinician would look, so that it needs no map in use."""
        return self.model.map_guided and self.model.map_guided_type == "predicted"

    @model_validator(mode="after")
    def _three_sets(self) -> "ClipAlignHead":
        if len({self.train_split, self.holdout_split, self.eval_split}) < 3:
            raise ValueError(
                f"train_split, holdout_split and eval_split are {self.train_split!r}, {self.holdout_split!r} and "
                f"{self.eval_split!r}; name three splits"
            )
        return self

    @model_validator(mode="after")
    def _the_predicted_map_is_learned(self) -> "ClipAlignHead":
        if not self.predicts_map:
            return self
        if self.compat is not None:
            raise ValueError(
                f"compat is {self.compat}, but map_guided_type is predicted, which was not published; name another "
                "map_guided_type"
            )
        if self.model.map_teach == 1 and not self.loss.lambda_map:
            raise ValueError(
                "map_teach is 1 and loss.lambda_map 0: the predicted map, which pools in use, would be learned from "
                "nothing; lower map_teach, or raise lambda_map"
            )
        return self

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        if len(given) == 2 and given["maps"].content.source not in given["tokens"].alike:
            raise ValueError(
                f"{given['maps']} lies on the grid of {given['maps'].content.source}, but {given['tokens']} is read; "
                "let the source of the maps be what the head reads as tokens"
            )
