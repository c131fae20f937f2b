"""What a person may choose of a probe. All of it has a default: `kind: probe`, its data set, features and result do."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.base import Name, Positive, PositiveFloat, Seed, Share
from pipeline.config.contents import Content, Given, Maps, Rows, Tokens, Vectors
from pipeline.config.heads import Head, Holdout, Input, Rate, WarmedHead

READ = Tokens | Vectors | Rows | Maps
LEARNED = ("label", "labels", "target")
# What a batch has beside the streams.
TAKEN = frozenset({"label", "target", "row", "times"})

# How each is trained by those who published it, with the house's AdamW and cosine. A linear layer over normalised
# features bears a high rate (He et al., CVPR 2022, train it with LARS at 0.1); the attentive probe's is V-JEPA 2's
# (Assran et al., 2025: AdamW, 20 epochs, the best of 1e-3, 3e-4 and 1e-4 and of 0.8 to 0.01 of decay).
TRAINED: Mapping[str, Mapping[str, Any]] = {
    "linear": {"lr": 1e-2, "weight_decay": 0.0, "epochs": 100, "warmup_epochs": 10, "batch_size": 256},
    "attentive": {"lr": 1e-3, "weight_decay": 0.1, "epochs": 20, "warmup_epochs": 2, "batch_size": 32},
}
# The fields that decide nothing of the others: no edit of them moves a key.
OF_TRAINING = frozenset(
    {"lr", "weight_decay", "epochs", "warmup_epochs", "clip_norm", "label_smoothing", "ema_decay", "patience"}
)
OWN: Mapping[str, frozenset[str]] = {
    "linear": OF_TRAINING,
    "attentive": OF_TRAINING | {"blocks", "attention_heads"},
    "knn": frozenset({"k", "temperature"}),
}


def _by_role(features: Any) -> Any:
    """One name, or a list of names, as role -> feature: each is read in the role of its name."""
    if isinstance(features, str):
        features = [features]
    if isinstance(features, list) and all(isinstance(name, str) for name in features):
        if twice := [name for name in features if features.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is named twice; name each feature once")
        return {name: name for name in features}
    return features


class ProbeHead(WarmedHead):
    """A probe of one label a sample. `features` is a name, a list of names, or role -> name.

    `linear`: pooled features, normalised by a batch norm without parameters, and a linear layer. `attentive`: V-JEPA's
    pooler of `blocks` over tokens; 1 is the light one, a cross-attention alone. `knn`: DINO's weighted votes of the `k`
    nearest neighbours by cosine; it trains nothing.
    """

    task: ClassVar = "probe"
    code: ClassVar = "pipeline.heads.probe.model:Probe"
    blocks_in: ClassVar = ("blocks",)
    features: Annotated[dict[Name, Name], BeforeValidator(_by_role), Field(min_length=1)]
    targets: Literal["label"] = "label"
    probe: Literal["linear", "attentive", "knn"] = "linear"
    blocks: Positive = 4
    attention_heads: Positive = 16
    k: Positive = 20
    temperature: PositiveFloat = 0.07
    seed: Seed = 0
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    epochs: Positive
    warmup_epochs: Annotated[float, Field(ge=0)]
    batch_size: Positive
    clip_norm: PositiveFloat = 1.0
    label_smoothing: Share = 0.0
    ema_decay: Share = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    patience: Positive = 20
    holdout: Holdout = 0.1
    train_split: str = "train"
    bootstrap: Positive = 1000
    calibration_bins: Positive = 15

    @model_validator(mode="before")
    @classmethod
    def _as_its_kind_is_trained(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        if (targets := document.get("targets", "label")) not in LEARNED:
            raise ValueError(f"targets is {targets!r}, expected one of {', '.join(LEARNED)}")
        defaults = TRAINED["attentive" if document.get("probe") == "attentive" else "linear"]
        known = {name: value for name, value in defaults.items() if name not in document}
        if "warmup_epochs" in known and isinstance(epochs := document.get("epochs"), int):
            known["warmup_epochs"] = min(known["warmup_epochs"], epochs / 10)  # of short trainings a tenth, too
        return {**document, **known}

    @model_validator(mode="after")
    def _roles_are_free(self) -> "ProbeHead":
        if wrong := sorted(TAKEN & self.features.keys()):
            raise ValueError(f"features: a batch holds something else as {wrong[0]!r}; call the role something else")
        return self

    @classmethod
    def for_targets(cls, targets: Any) -> type["ProbeHead"]:
        """The model of a probe that learns these: several labels a sample, or numbers, are tasks of their own."""
        return LabelsProbeHead if targets == "labels" else TargetProbeHead if targets == "target" else ProbeHead

    @property
    def trains(self) -> bool:
        return self.probe != "knn"

    @property
    def uncompiled(self) -> str:
        return "a probe is a layer or a few, of which compiling makes nothing faster"

    @property
    def undivided(self) -> str:
        return "a linear probe's batch norm takes its statistics of the whole batch" if self.probe == "linear" else ""

    @model_validator(mode="after")
    def _it_has_blocks(self) -> "ProbeHead":
        if self.gradient_checkpointing and (self.probe != "attentive" or self.blocks == 1):
            raise ValueError(
                "gradient_checkpointing is true, but only an attentive probe of 2 blocks or more has any to compute "
                "again; leave it false"
            )
        return self

    @property
    def inputs(self) -> dict[str, Input]:
        return {role: Input(self.dataset, feature) for role, feature in self.features.items()}

    @property
    def wanted(self) -> dict[str, type[Content]]:
        return dict.fromkeys(self.features, READ)

    @property
    def learned(self) -> dict[str, Any]:
        others = frozenset().union(*OWN.values()) - OWN[self.probe]
        return {name: value for name, value in super().learned.items() if name not in others}

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        if self.probe != "attentive":
            return
        for found in given.values():
            if isinstance(found.content, Maps):
                raise ValueError(f"{found} gives maps, whose cells say little alone; probe: linear reads a map whole")
        widths = [found.content.width for found in given.values()]
        if None not in widths and widths and (width := max(widths)) % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads}, which does not divide the width {width} of the widest "
                "feature; choose a divisor"
            )


class LabelsProbeHead(ProbeHead):
    """A probe of any number of labels a sample."""

    task: ClassVar = "multilabel"
    targets: Literal["labels"]


class TargetProbeHead(ProbeHead):
    """A probe of numbers: one, or several, a sample."""

    task: ClassVar = "regression"
    targets: Literal["target"]


def linear_of(head: Head, role: str) -> ProbeHead:
    """The linear probe that a classifier's result is compared with, of one of its inputs: what it learns from, and what
    is evaluated, as the classifier has it. One with a split of its own for early stopping has no share of it held out.
    """
    same = ("dataset", "seed", "train_split", "eval_split", "holdout", "bootstrap", "calibration_bins")
    targets, feature = getattr(head, "targets", "label"), head.inputs[role].feature
    document = {name: getattr(head, name) for name in same if hasattr(head, name)}
    document |= {"kind": "probe", "targets": targets}
    document |= {"features": {f"of_{feature}" if feature in TAKEN else feature: feature}, "result": head.result}
    return ProbeHead.for_targets(targets).model_validate(document)
