"""What stage 2 may be asked for: heads and ablations. Knows no head's code."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Fraction, Name, Positive, Strict


class GasmCastModel(Strict):
    """Constructor arguments of heads.gasm_cast.GasmCast that do not follow from the data (spec: docs of that class)."""

    fusion: Literal["cast", "vanilla", "concat", "semantic", "motion", "probe"]
    layers: Positive
    width: Positive
    attention_heads: Positive
    bottleneck: Positive
    window: Literal["cell", "full"]
    graph: Literal["full", "spatial", "none"]
    radii: tuple[int, ...]
    semantic_neighbours: Annotated[int, Field(ge=0)]
    motion_neighbours: Annotated[int, Field(ge=0)]
    dropout: Fraction
    token_dropout: Fraction


class GasmCastFeatures(Strict):
    semantic: Name
    motion: Name


class GasmCastHead(Strict):
    """The gasm_cast head: what it reads, its model, its training, its result file."""

    dataset: Name
    features: GasmCastFeatures
    result: Name
    seed: int
    model: GasmCastModel
    lr: Annotated[float, Field(gt=0, description="peak learning rate per 256 samples of batch")]
    batch_size: Positive
    epochs: Positive
    warmup_epochs: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    label_smoothing: Fraction
    mixup: Annotated[float, Field(ge=0, description="alpha of the Beta distribution; 0 is off")]
    ema_decay: Fraction
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    patience: Annotated[int, Field(gt=0, description="epochs without a better early-stopping accuracy")]
    holdout: Annotated[float, Field(gt=0, lt=1, description="share of train carved out for early stopping")]
    train_split: str
    eval_split: str
    bootstrap: Positive
    calibration_bins: Positive


class Heads(Strict):
    gasm_cast: GasmCastHead | None = None

    def items(self) -> list[tuple[str, Any]]:
        """(name, head) of the heads that are declared."""
        return [(name, getattr(self, name)) for name in type(self).model_fields if getattr(self, name) is not None]


class Ablation(Strict):
    """A named list of overrides of one head; every variant is trained with every seed and becomes a table row."""

    head: Name
    seeds: Annotated[list[int], Field(min_length=1)]
    variants: dict[Name, dict[str, Any]]
