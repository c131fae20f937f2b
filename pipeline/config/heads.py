"""What stage 2 may be asked for: heads. Knows no head's code."""

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from pipeline.plugins import PluginError, load, named
from pipeline.tasks import TASKS

from .base import Name, Positive, Seed, Share, Strict
from .contents import FIXED, Content, Given, Reads

# Kind -> its model of params; where the heads lie. By name, since heads know this module.
KINDS: Mapping[str, str] = load("pipeline.heads:KINDS")
GROUP = "permafrost.heads"  # of entry points

Holdout = Annotated[float, Field(gt=0, lt=1, description="share of train carved out for early stopping")]

# The batch that a learning rate is given for, and the highest rate of Adam's: it moves each weight by about as much a
# step, whatever the gradient, and weights are below 1.
LR_BATCH = 256
HIGHEST_LR = 1.0
Rate = Annotated[float, Field(gt=0, le=HIGHEST_LR)]

# What a head's params hold that does not reach its weights: what decides an evaluation, and what decides no byte.
EVALUATED = frozenset({"eval_split", "bootstrap", "calibration_bins", "decode", "elsewhere"})
# The kind enters by its code. How a step is divided, and what of it is computed twice, changes rounding at most, and is
# in the run's record.
FREE = frozenset({"max_trainable", "accumulate", "gradient_checkpointing"})
UNKEYED = FREE | {"kind", "result"}


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
    # Whether it learns from labels of frames, or of whole samples; None where it learns from none.
    framewise: ClassVar[bool | None] = None
    unmarked: ClassVar[tuple[type[Content], ...]] = get_args(Content)  # what a role takes that `Reads` does not mark
    dataset: Name
    features: Any
    result: Name
    seed: Seed = 0

    @property
    def inputs(self) -> dict[str, Input]:
        """Role -> what is read in it."""
        read = self.features.model_dump(exclude_none=True)
        return {role: Input(self.dataset, feature) for role, feature in read.items()}

    @property
    def evaluation_inputs(self) -> dict[str, Input]:
        """`inputs`, and what an evaluation reads of other data sets, which no weight depends on."""
        return self.inputs

    @property
    def wanted(self) -> dict[str, type[Content]]:
        """Role -> what its feature must give, as `Reads` marks it; a role that is not marked is absent."""
        fields = type(self.features).model_fields.items() if isinstance(self.features, Strict) else ()
        return {role: mark.content for role, of in fields for mark in of.metadata if isinstance(mark, Reads)}

    def key_of(self, role: str) -> str:
        """The key in the head's sub-tree that names what is read in a role."""
        return f"features.{role}"

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        """Refuses what cannot fit each other, as far as it is known before extraction.

        Args:
            given: role -> what it is given, already of the type that it reads; a role whose feature does not say what
                it gives is absent.
            class_lists: names of the data set's lists of classes.

        Raises:
            ValueError: names the keys, what both sides have, and the remedy.
        """

    @classmethod
    def for_targets(cls, targets: Any) -> "type[Head]":
        """The model of a head of this kind that learns these: "label", "labels" or "target", as a data set has them."""
        return cls

    @property
    def trains(self) -> bool:
        """Whether it has weights to learn."""
        return TASKS[self.task].trains

    @property
    def implementation(self) -> str:
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

    framewise: ClassVar = False
    # Names that its lists of blocks, which gradient checkpointing computes again, have in the module that holds them.
    blocks_in: ClassVar[tuple[str, ...]] = ()
    lr: Rate
    batch_size: Annotated[Positive, Field(description="samples a step")]
    epochs: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Share = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: Annotated[
        Positive, Field(description="parts of a batch that are computed one after the other; gradients are the same")
    ] = 1
    gradient_checkpointing: Annotated[
        bool, Field(description="computes the blocks' activations again for the gradients, in place of keeping them")
    ] = False
    compile: Annotated[
        bool, Field(description="trains with torch.compile: other bits, so it is in the run's key where it is true")
    ] = False
    patience: Annotated[
        Positive, Field(description="epochs without a better holdout accuracy, or as good a one at a lower loss")
    ]
    train_split: str = "train"
    eval_split: str
    bootstrap: Positive = 1000
    max_trainable: Annotated[int, Field(gt=0, description="trainable parameters; a larger head is refused")] = (
        200_000_000
    )

    @property
    def part(self) -> int:
        """The most samples of a part of a batch; what is not learned from has batches of so many, too."""
        return -(-self.batch_size // self.accumulate)

    @property
    def undivided(self) -> str:
        """Why its batch cannot be computed in parts; empty where it can."""
        return "a compiled head computes its batch at once" if self.compile else ""

    @property
    def uncompiled(self) -> str:
        """Why it is not compiled; empty where it can be."""
        return ""

    @property
    def learned(self) -> dict[str, Any]:
        found = super().learned
        return found if self.compile else {name: value for name, value in found.items() if name != "compile"}

    @model_validator(mode="after")
    def _it_can_be_compiled(self) -> "TrainedHead":
        if self.compile and self.uncompiled:
            raise ValueError(f"compile is true, but {self.uncompiled}; leave it false")
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "compile and gradient_checkpointing are both true, and what is computed again is not compiled; set one "
                "of them to false"
            )
        return self

    @model_validator(mode="after")
    def _memory_can_be_saved(self) -> "TrainedHead":
        if self.accumulate > 1 and self.undivided:
            raise ValueError(f"accumulate is {self.accumulate}, but {self.undivided}; leave it at 1")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}, expected at most batch_size, which is {self.batch_size}: a part of "
                "a batch has at least one sample"
            )
        if self.gradient_checkpointing and not self.blocks_in:
            remedy = "lower batch_size" if self.undivided else "raise accumulate"
            raise ValueError(
                f"gradient_checkpointing is true, but {self.kind} has no list of blocks to compute again; leave it "
                f"false and {remedy}"
            )
        return self

    @model_validator(mode="after")
    def _evaluated_on_other_samples(self) -> "TrainedHead":
        if self.train_split == self.eval_split:
            raise ValueError(
                f"train_split and eval_split are both {self.train_split!r}; a split that was learned from says nothing"
            )
        return self


class WarmedHead(TrainedHead):
    """What the heads have in common whose rate is given per 256 samples of batch and warms up, then falls to zero."""

    lr: Annotated[Rate, Field(description="peak learning rate per 256 samples of batch")]
    warmup_epochs: Annotated[float, Field(ge=0)]
    label_smoothing: Share = 0.0

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


# The orders of a sample's steps that a classifier is evaluated with beside its own.
TOKEN_ORDERS = ("tokens_reversed", "tokens_shuffled")


class ClassifierHead(WarmedHead):
    """What a head has beside that which gives each sample one label. Its task's other heads add their own fields."""

    task: ClassVar = "classification"
    unmarked: ClassVar = FIXED
    elsewhere: Annotated[
        dict[Name, Name],
        Field(description="name -> another data set with the same classes, whose eval_split is evaluated too"),
    ] = Field(default_factory=dict)
    mixup: Annotated[float, Field(ge=0, description="alpha of the Beta distribution; 0 is off")] = 0.0
    holdout: Holdout = 0.1
    calibration_bins: Positive = 15

    @model_validator(mode="after")
    def _named_apart(self) -> "ClassifierHead":
        for name in self.elsewhere:
            if name in TOKEN_ORDERS:
                raise ValueError(
                    f"elsewhere.{name} is what an order of tokens is called; give the data set another name"
                )
        return self

    def refuse_misfits(self, key: str, datasets: Mapping[str, Any]) -> None:
        """Raises ValueError for another data set that is its own."""
        for name, dataset in self.elsewhere.items():
            if dataset == self.dataset:
                raise ValueError(
                    f"{key}elsewhere.{name} names {dataset!r}, the data set that is learned from; name another one, or "
                    "remove it"
                )

    @property
    def evaluation_inputs(self) -> dict[str, Input]:
        """`inputs`, and elsewhere.<name>.<role> of each other data set."""
        others = self.elsewhere.items()
        return self.inputs | {
            f"elsewhere.{name}.{role}": Input(dataset, read.feature)
            for name, dataset in others
            for role, read in self.inputs.items()
        }

    @property
    def evaluated(self) -> dict[str, Any]:
        found = super().evaluated
        return found if self.elsewhere else {name: of for name, of in found.items() if name != "elsewhere"}


def _of_its_kind(document: Any) -> Any:
    """A head's document as the model of its kind reads it."""
    if isinstance(document, Head):
        return document
    kinds = f"kind: {', kind: '.join(sorted(KINDS))}"
    if not isinstance(document, Mapping):
        raise ValueError(f"is {document!r}, expected a section that says which head it is, {kinds}")
    if "kind" not in document:
        raise ValueError(f"kind is missing: say which head it is, {kinds}")
    if not isinstance(document["kind"], str):
        raise ValueError(f"kind is {document['kind']!r}, expected a name: {kinds}")
    # JSON mode, so that YAML's lists become the tuples that strict mode would refuse as Python objects.
    model = head_model(document["kind"]).for_targets(document.get("targets"))
    return model.model_validate_json(json.dumps(document))


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
