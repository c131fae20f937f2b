"""What stage 2 may be asked for: heads, ablations and claims of them. Knows no head's code."""

import json
from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from pipeline.plugins import PluginError, load, named
from pipeline.tasks import TASKS

from .base import Name, Positive, Seed, Share, Strict

# Kind -> its model of params; where the heads lie. By name, since heads know this module.
KINDS: Mapping[str, str] = load("pipeline.heads:KINDS")
GROUP = "permafrost.heads"  # of entry points

Holdout = Annotated[float, Field(gt=0, lt=1, description="share of train carved out for early stopping")]

# The batch that a learning rate is given for, and the highest rate of Adam's: it moves each weight by about as much a
# step, whatever the gradient, and weights are below 1.
LR_BATCH = 256
HIGHEST_LR = 1.0

MOST_ROWS = 10_000  # of an ablation's grid

# What a head's params hold that does not reach its weights: what decides an evaluation, and what decides no byte.
EVALUATED = frozenset({"eval_split", "bootstrap", "calibration_bins"})
UNKEYED = frozenset({"kind", "result", "max_trainable"})  # the kind enters by its code


class Input(NamedTuple):
    """What a head reads in one of its roles: a feature of a data set."""

    dataset: str
    feature: str


class Head(Strict):
    """What every head has: its task, its data set, the features that it reads of it by role, and its result file."""

    task: ClassVar[str]  # of pipeline.tasks
    code: ClassVar[str] = ""  # where its class lies, package.module:Name; of a class of one's own that is `kind`
    attention: ClassVar[str] = ""  # what `explain` shows of where it looks: (module, batch) -> {Look: (B, T, N)}
    kind: str
    dataset: Name
    features: Any
    result: Name
    seed: Seed

    @property
    def inputs(self) -> dict[str, Input]:
        """Role -> what is read in it."""
        read = self.features.model_dump(exclude_none=True)
        return {role: Input(self.dataset, feature) for role, feature in read.items()}

    @property
    def place(self) -> str:
        """Where its class lies: package.module:Name."""
        return type(self).code or named(self.kind, KINDS, GROUP)

    def refuse_misfits(self, key: str, datasets: Mapping[str, Any]) -> None:
        """Raises ValueError, with the key in it, where what params say of its data sets does not fit it.

        Args:
            key: in params, ending in a dot; empty of an override.
            datasets: by name.
        """

    @property
    def learned(self) -> dict[str, Any]:
        """The fields that decide a run: weights, or what is mined."""
        return self.model_dump(mode="json", exclude=EVALUATED | UNKEYED)

    @property
    def evaluated(self) -> dict[str, Any]:
        """The fields that decide one of its evaluations beside those."""
        return self.model_dump(mode="json", include=EVALUATED)


class TrainedHead(Head):
    """What every head that is trained has: how long, on what, and how it is judged."""

    lr: Annotated[float, Field(gt=0, le=HIGHEST_LR)]
    batch_size: Annotated[Positive, Field(description="samples a step")]
    epochs: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    ema_decay: Share
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    patience: Annotated[
        Positive, Field(description="epochs without a better holdout accuracy, or as good a one at a lower loss")
    ]
    train_split: str
    eval_split: str
    bootstrap: Positive
    max_trainable: Annotated[int, Field(gt=0, description="trainable parameters; a larger head is refused")] = (
        200_000_000
    )

    @model_validator(mode="after")
    def _evaluated_on_other_samples(self) -> "TrainedHead":
        if self.train_split == self.eval_split:
            raise ValueError(
                f"train_split and eval_split are both {self.train_split!r}; a split that was learned from says nothing"
            )
        return self


class WarmedHead(TrainedHead):
    """What the heads have in common whose rate is given per 256 samples of batch and warms up, then falls to zero."""

    lr: Annotated[float, Field(gt=0, le=HIGHEST_LR, description="peak learning rate per 256 samples of batch")]
    warmup_epochs: Annotated[float, Field(ge=0)]
    label_smoothing: Share

    @model_validator(mode="after")
    def _it_can_learn(self) -> "WarmedHead":
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs: the learning rate would never reach "
                "its peak; expected at most as many"
            )
        peak = self.lr * self.batch_size / LR_BATCH
        if peak > HIGHEST_LR:
            raise ValueError(
                f"lr {self.lr:g} per {LR_BATCH} samples is {peak:g} with batch_size {self.batch_size}, expected at "
                f"most {HIGHEST_LR:g}; lower lr or batch_size"
            )
        if peak * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay {self.weight_decay:g} times the learning rate {peak:g} takes all of a weight at once, "
                "expected a product below 1; lower weight_decay"
            )
        return self


class ClassifierHead(WarmedHead):
    """What a head has beside that which gives each sample one label. Its task's other heads add their own fields."""

    task: ClassVar = "classification"
    mixup: Annotated[float, Field(ge=0, description="alpha of the Beta distribution; 0 is off")] = 0.0
    holdout: Holdout
    calibration_bins: Positive


def _of_its_kind(document: Any) -> Any:
    """A head's document as the model of its kind reads it."""
    if isinstance(document, Head):
        return document
    if not isinstance(document, Mapping) or not isinstance(document.get("kind"), str):
        raise ValueError(f"kind is missing: say which head it is, kind: {', kind: '.join(sorted(KINDS))}")
    # JSON mode, so that YAML's lists become the tuples that strict mode would refuse as Python objects.
    return head_model(document["kind"]).model_validate_json(json.dumps(document))


def head_model(kind: str) -> type[Head]:
    """The model of params of a kind of head: its own, or of a class of somebody else's its `Config`.

    Raises:
        PluginError: no such kind, or a class that is no head.
    """
    place = named(kind, KINDS, GROUP)
    found = load(place)
    model = found if kind in KINDS else getattr(found, "Config", None)
    if not (isinstance(model, type) and issubclass(model, Head)):
        raise PluginError(
            f"{place} is no head: it needs a class Config in it, which inherits from pipeline.config.heads.Head or a "
            "class below that"
        )
    if (task := getattr(model, "task", None)) not in TASKS:
        raise PluginError(f"{place}.Config has the task {task!r}, expected one of {', '.join(TASKS)}")
    return model


AnyHead = Annotated[SerializeAsAny[Head], BeforeValidator(_of_its_kind)]


class Ablation(Strict):
    """Overrides of one head, by name or as a grid; each is trained with every seed and becomes a table row."""

    head: Name
    seeds: Annotated[list[Seed], Field(min_length=1)]
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _a_row(self) -> "Ablation":
        if twice := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds has {twice[0]} twice, and the same training twice says nothing; remove one")
        changed = {*self.grid, *(key for overrides in self.variants.values() for key in overrides)}
        if "seed" in changed:
            raise ValueError(
                "seed is changed by a variant or the grid, but every row is trained with `seeds`; put it there"
            )
        if "result" in changed:
            raise ValueError("result is changed by a variant or the grid, but a row has no file of its own; remove it")
        if (points := prod(map(len, self.grid.values()))) > MOST_ROWS:
            raise ValueError(f"the grid has {points:,} combinations, expected at most {MOST_ROWS:,}")
        if not self.rows:
            raise ValueError("an ablation needs variants, a grid or both")
        if self.grid and len(self.rows) < len(self.variants) + points:
            raise ValueError(
                "two points of the grid have one name; let the values of each key differ as they are written"
            )
        return self

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Name -> overrides: the variants, then every combination of the grid's values, the last key turning fastest.

        What overrides nothing is on top, as the row that the others are read against.

        >>> list(Ablation(head="fact", seeds=[0], variants={"blocks_i": {"model.blocks": "i"}, "reference": {}}).rows)
        ['reference', 'blocks_i']

        >>> Ablation(head="fact", seeds=[0], grid={"model.tokens": [8, 16], "lr": [0.1]}).rows
        {'tokens=8 lr=0.1': {'model.tokens': 8, 'lr': 0.1}, 'tokens=16 lr=0.1': {'model.tokens': 16, 'lr': 0.1}}
        """
        points = [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]
        ends = {key: key.rpartition(".")[2] for key in self.grid}
        short = len(set(ends.values())) == len(ends)
        named = {
            " ".join(f"{ends[key] if short else key}={value}" for key, value in point.items()): point
            for point in points
            if point
        }
        return dict(sorted({**self.variants, **named}.items(), key=lambda row: bool(row[1])))


class Figure(Strict):
    """A figure of the results of one variant of an ablation, a value a seed; dots lead into the result."""

    ablation: Name
    variant: Name
    figure: str


class Claim(Strict):
    """Something that is said of ablations, and checked: that one figure exceeds `times` another, or a number, by `by`.

    It holds if the mean over seeds of (of - times * over) is above `by`.
    """

    says: str
    of: Figure
    over: Figure | float
    times: Annotated[float, Field(gt=0)] = 1.0
    by: float = 0.0
    why: Annotated[str | None, Field(description="shown where it does not hold: what is known of the reason")] = None

    @property
    def figures(self) -> list[Figure]:
        """What it reads."""
        return [side for side in (self.of, self.over) if isinstance(side, Figure)]
