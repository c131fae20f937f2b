"""What stage 2 may be asked for: heads, ablations and claims of them. Knows no head's code."""

from collections.abc import Collection, Mapping
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from .base import Fraction, Name, Positive, Seed, Share, Strict, Vocabulary
from .contents import Cams, Content, Given, Maps, Reads, Rows, Texts, Tokens, Vectors, refuse_unlike

Holdout = Annotated[float, Field(gt=0, lt=1, description="share of train carved out for early stopping")]

# The batch that a learning rate is given for, and the highest rate of Adam's: it moves each weight by about as much a
# step, whatever the gradient, and weights are below 1.
LR_BATCH = 256
HIGHEST_LR = 1.0
UNBOUNDED = -1  # the radius of a graph that joins every node to every other
GROUPS = 8  # of clip_align's norms: its widths are multiples of it
AUTOMATIC = -1.0  # the weight of null that follows from the data

MOST_ROWS = 10_000  # of an ablation's grid

# What a head's params hold that does not reach its weights: what decides an evaluation, and what decides no byte.
EVALUATED = frozenset({"eval_split", "bootstrap", "calibration_bins"})
UNKEYED = frozenset({"result", "max_trainable"})


class Input(NamedTuple):
    """What a head reads in one of its roles: a feature of a data set."""

    dataset: str
    feature: str


class Head(Strict):
    """What every head has: its task, its data set, the features that it reads of it by role, and its result file."""

    task: ClassVar[Literal["classification", "segmentation", "zeroshot", "ood", "alignment"]]
    code: ClassVar[str]  # the module or folder in pipeline/heads
    # Whether it learns from labels of frames, or of whole samples; None where it learns from none.
    framewise: ClassVar[bool | None] = None
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
    def wanted(self) -> dict[str, type[Content]]:
        """Role -> what its feature must give, as `Reads` marks it; a role that takes anything is absent."""
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
    dropout: Share
    token_dropout: Share

    @model_validator(mode="after")
    def _parts_fit(self) -> "GasmCastModel":
        for name in ("width", "bottleneck"):
            if getattr(self, name) % self.attention_heads:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which {self.attention_heads} attention_heads do not divide; "
                    f"expected a multiple of {self.attention_heads}"
                )
        if len(self.radii) < self.layers or min(self.radii) < UNBOUNDED:
            raise ValueError(
                f"radii are {list(self.radii)}, expected at least one for each of {self.layers} layers, each >= 0, or "
                f"{UNBOUNDED} for all"
            )
        return self


class GasmCastFeatures(Strict):
    semantic: Annotated[Name, Reads(Tokens)]
    motion: Annotated[Name, Reads(Tokens)]


class GasmCastHead(WarmedHead):
    """The gasm_cast head: what it reads, its model, its training, its result file."""

    task: ClassVar = "classification"
    code: ClassVar = "gasm_cast"
    features: GasmCastFeatures
    model: GasmCastModel
    mixup: Annotated[float, Field(ge=0, description="alpha of the Beta distribution; 0 is off")]
    holdout: Holdout
    calibration_bins: Positive
    max_trainable: Positive = 20_000_000

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        both = ("semantic", "motion")
        again = "choose their sampling so that both have the same steps"
        refuse_unlike(given, both, "steps", f"they are read step by step: {again}")
        refuse_unlike(given, both, "part", "cells and patches must lie on each other: give both the same crop")
        for role in both:
            width = given[role].content.width if role in given else None
            heads = self.model.attention_heads if self.model.fusion == "vanilla" else 1
            if width is not None and (width % 4 or width % heads):
                raise ValueError(
                    f"{given[role]} is {width} wide, expected a multiple of 4, of which sine and cosine of row and "
                    f"column are made, and of {heads} attention_heads; name another feature"
                )
        grids = [given[role].content.grid for role in both if role in given]
        if len(grids) == 2 and None not in grids:
            (rows, columns), (cell_rows, cell_columns) = grids
            ratio = rows // cell_rows
            if ratio < 1 or (rows, columns) != (ratio * cell_rows, ratio * cell_columns):
                raise ValueError(
                    f"{given['semantic']} has a grid of {rows} x {columns} and {given['motion']} one of {cell_rows} x "
                    f"{cell_columns}, expected the first to be a whole multiple of the second, the same in rows and "
                    "columns; extract both from one crop, or pool one"
                )


class FactBlock(Strict):
    """One block of FACT; what is null is taken from the block before: u from i, U from the one before it."""

    a_dim: Positive | None = None
    a_ffdim: Positive | None = None
    a_layers: Positive | None = None
    a_nhead: Positive | None = None
    f: Literal["m", "m2", "cnn"] | None = None
    f_dim: Positive | None = None
    f_layers: Positive | None = None
    f_ln: bool | None = None
    dropout: Share | None = None
    hid_dim: Positive | None = None
    s_layers: Positive | None = None


class TimeMask(Strict):
    """In training, `times` windows of each video are zeroed: under `longest` frames, at most `share` of the video."""

    longest: Positive
    share: Share
    times: Positive


class FactModel(Strict):
    """Constructor arguments of heads.fact.Fact that do not follow from the data (spec: docs of that class)."""

    blocks: Annotated[str, Field(pattern="^[iI][uU]*$")]
    Bi: FactBlock  # the blocks i and I
    Bu: FactBlock = FactBlock()  # u
    BU: FactBlock = FactBlock()  # U
    tokens: Positive
    frame_positions: bool = True
    transcript: bool = False
    channel_dropout: Share = 0.3
    time_mask: TimeMask | None = None

    @property
    def chain(self) -> list[tuple[str, FactBlock]]:
        """Each block of `blocks` with its name, what it leaves open filled in as heads.fact.blocks fills it."""
        own = {"i": self.Bi, "I": self.Bi, "u": self.Bu, "U": self.BU}
        found: list[tuple[str, FactBlock]] = []
        filled = FactBlock()
        for kind in self.blocks:
            before = self.Bi if kind == "u" else filled
            filled = before.model_copy(update=own[kind].model_dump(exclude_none=True))
            found.append((kind, filled))
        return found

    @model_validator(mode="after")
    def _blocks_fit(self) -> "FactModel":
        for kind, block in self.chain:
            of = f"of block {kind!r}"
            if missing := sorted(name for name, value in block if value is None and name != "s_layers"):
                raise ValueError(f"block {kind!r} lacks {', '.join(missing)}; set it in Bi")
            if block.f == "m2" and block.f_ln:
                raise ValueError(f"f {of} is m2 and f_ln is true; m2 has no LayerNorm: set f_ln: false, or f: m")
            if block.hid_dim % 2:
                raise ValueError(f"hid_dim {of} is {block.hid_dim}, expected an even number: sines and cosines")
            if block.a_dim % block.a_nhead:
                raise ValueError(f"a_dim {of} is {block.a_dim}, which a_nhead {block.a_nhead} does not divide")
            if block.a_dim > block.hid_dim:
                raise ValueError(f"a_dim {of} is {block.a_dim}, expected at most hid_dim, which is {block.hid_dim}")
            if self.transcript and block.a_dim % 2:
                raise ValueError(f"a_dim {of} is {block.a_dim}, expected an even number: a transcript has positions")
        for name in ("hid_dim", "a_dim"):
            if len(values := {getattr(block, name) for _, block in self.chain}) > 1:
                raise ValueError(f"{name} is {sorted(values)} in different blocks, expected one; set it in Bi alone")
        return self


class FactLoss(Strict):
    """Weights of FACT's losses and of its matching (spec: docs of heads.fact.LossSettings)."""

    match: Literal["o2o", "o2m", "seq"] = "o2o"
    pc: Annotated[float, Field(ge=0)] = 1.0
    a2fc: Annotated[float, Field(ge=0)] = 1.0
    sw: Annotated[float, Field(ge=0)] = 0.0
    bgw: Annotated[float, Field(ge=0)] = 1.0
    nullw: float = AUTOMATIC

    @model_validator(mode="after")
    def _null_weighs(self) -> "FactLoss":
        if self.nullw < 0 and self.nullw != AUTOMATIC:
            raise ValueError(f"nullw is {self.nullw:g}, expected 0 or more, or {AUTOMATIC:g}: from the data")
        return self


class FactFeatures(Strict):
    frames: Annotated[Name, Reads(Rows)]


class SegmentationHead(TrainedHead):
    """What the segmentation heads have in common beside that."""

    task: ClassVar = "segmentation"
    code: ClassVar = "fact"
    framewise: ClassVar = True
    features: FactFeatures
    model: FactModel
    loss: FactLoss = FactLoss()
    mwt: Fraction
    holdout: Holdout
    decay_epoch: Annotated[int, Field(gt=0, description="from this epoch on, a tenth of the learning rate")]
    weight_decay: Annotated[float, Field(ge=0, le=1, description="of each weight, added to its gradient")] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    ema_decay: Share = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    sample_rate: Annotated[int, Field(gt=0, description="one row in so many is read")] = 1
    tolerance: Annotated[int, Field(ge=0, description="frames by which labels and features may differ in length")] = 5
    with_background: Annotated[bool, Field(description="Edit and F1 count background segments, too")] = True


class FactHead(SegmentationHead):
    """The fact head: action segmentation with every class known."""


class Alignment(Strict):
    """What is aligned with text, and how (spec: docs of heads.fact.FactClip)."""

    target: Literal["action_token", "frame", "logit"]
    hidden: Positive
    dropout: Share
    temperature: Annotated[float, Field(gt=0)]
    w_fact: Annotated[float, Field(ge=0)]
    w_con: Annotated[float, Field(ge=0)]
    scoring: Literal["cosine", "classifier"]


class FactClipHead(SegmentationHead):
    """The fact_clip head: some classes are held out of training and recognised by their names.

    A class's text in the vocabulary is its name with spaces for underscores.
    """

    task: ClassVar = "zeroshot"

    vocabulary: Vocabulary
    alignment: Alignment
    unseen: Annotated[str, Field(description="a list of the data set's class_lists: the classes held out of training")]
    stand_ins: Annotated[float, Field(gt=0, lt=1, description="share of the seen classes held out to choose gamma on")]

    @model_validator(mode="after")
    def _without_transcript(self) -> "FactClipHead":
        if self.model.transcript:
            raise ValueError(
                "model.transcript is true, but a transcript names the classes, those held out among them, that this "
                "head is to recognise; set it to false, or ask the fact head"
            )
        return self

    @property
    def inputs(self) -> dict[str, Input]:
        """The frames, and in the role "text" the vocabulary."""
        return {**super().inputs, "text": Input(self.vocabulary.dataset, self.vocabulary.feature)}

    @property
    def wanted(self) -> dict[str, type[Content]]:
        return {**super().wanted, "text": Texts}

    def key_of(self, role: str) -> str:
        return "vocabulary.feature" if role == "text" else super().key_of(role)

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        if self.unseen not in class_lists:
            raise ValueError(
                f"unseen names the list {self.unseen!r}; the class_lists of {self.dataset} are "
                f"{sorted(class_lists) or 'none'}: name one of these, or add it there"
            )


class ClipAlignFeatures(Strict):
    """The token grid of a clip, and the clinician's attention on that very grid."""

    tokens: Annotated[Name, Reads(Tokens)]
    maps: Annotated[Name, Reads(Maps)]


class ClipAlignModel(Strict):
    """Arguments of heads.clip_align.ClipAlign that do not follow from the data (spec: docs of that class)."""

    encoder: Literal["3dcnn", "2dcnn", "cnn_lstm"]
    map_guided: bool
    map_guided_type: Literal["spatiotemporal", "channel", "weighted_pool", "summary_gate"]
    sigmoid_gate: Annotated[
        bool, Field(description="of spatiotemporal: a gate learned from the map, not the map itself")
    ]
    classifier_source: Literal["video", "attn", "fusion"]
    map_dropout: Share
    width: Annotated[Positive, Field(multiple_of=GROUPS)]
    feature_dim: Positive
    embed_dim: Annotated[int, Field(ge=2, lt=2**31, description="normalised, so that of one number nothing is left")]
    map_width: Annotated[Positive, Field(multiple_of=GROUPS)]
    dropout: Share


class ClipAlignLoss(Strict):
    """Weights of the terms beside the classification, 0 being off, and of the classes."""

    clip_weight: Annotated[float, Field(ge=0)]
    lambda_token: Annotated[float, Field(ge=0)]
    class_weights: Annotated[bool, Field(description="each class by the inverse of its share of train")] = False


class Clinicians(Strict):
    """Whose maps are learned from and whose are evaluated with; without them, everybody's."""

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    evaluated: Annotated[tuple[str, ...], Field(min_length=1)]


class ClipAlignHead(WarmedHead):
    """The clip_align head: a diagnosis from a video and a clinician's attention, both in one space."""

    task: ClassVar = "alignment"
    code: ClassVar = "clip_align"
    features: ClipAlignFeatures
    model: ClipAlignModel
    loss: ClipAlignLoss
    compat: Annotated[Literal["published"] | None, Field(description="published: the original formulas")] = None
    max_trainable: Positive = 20_000_000
    holdout_split: Annotated[str, Field(description="for early stopping: other patients than those of train")]
    clinicians: Clinicians | None = None
    fraction: Annotated[float, Field(gt=0, le=1, description="share of the patients of train that is learned from")] = (
        1.0
    )

    @model_validator(mode="after")
    def _three_sets(self) -> "ClipAlignHead":
        if len({self.train_split, self.holdout_split, self.eval_split}) < 3:
            raise ValueError(
                f"train_split, holdout_split and eval_split are {self.train_split!r}, {self.holdout_split!r} and "
                f"{self.eval_split!r}; name three splits"
            )
        return self

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        if len(given) == 2 and given["maps"].content.source not in given["tokens"].alike:
            raise ValueError(
                f"{given['maps']} lies on the grid of {given['maps'].content.source}, but {given['tokens']} is read; "
                "let the source of the maps be what the head reads as tokens"
            )


TEXT_ROLES = ("classes", "words", "words.plain", "words.object", "words.background")


class NegAlignFeatures(Strict):
    """Of every picture: the image's embedding, and the class-activation map with the patches' embeddings.

    `masks`, of the pictures in distribution: how much of each patch the object covers, for the pointing game alone.
    """

    image: Annotated[Name, Reads(Vectors)]
    cam: Annotated[Name, Reads(Cams)]
    masks: Annotated[Name | None, Reads(Maps)] = None


class WordRoles(Strict):
    """The text features that tell object words from background words, and where the cut is (spec: docs of `roles`)."""

    plain: Name
    object: Name
    background: Name
    mode: Literal["tau", "percentile"]
    value: Annotated[float, Field(ge=0, description="tau, or the percent of words at either end")]

    @model_validator(mode="after")
    def _ends_do_not_meet(self) -> "WordRoles":
        if self.mode == "percentile" and self.value > 50:
            raise ValueError(f"value is {self.value:g} percent of the words at either end, expected at most 50")
        return self


class NegativeWords(Strict):
    """NegMine: word lists, and which of their words are far from every ID class (spec: docs of `mine`)."""

    dataset: Name
    feature: Name
    quantile: Fraction
    top_p: Annotated[float, Field(gt=0, le=1)]
    roles: WordRoles


class NegScore(Strict):
    """S_NegLabel and its three independent switches: all off is NegLabel's own score."""

    groups: Positive
    scale: Annotated[float, Field(gt=0, description="CLIP's logit scale")] = 100.0
    topk: Annotated[Positive | None, Field(description="M1: the largest negatives of a group; null is all")] = None
    role_aware: Annotated[bool, Field(description="M2: object words alone are negatives")] = False
    ambiguous: Annotated[bool, Field(description="with M2: ambiguous words, too")] = False
    zscore: Annotated[bool, Field(description="M3: standardised by ID validation pictures")] = False


class Background(Strict):
    """What of a picture is background, and how many background words explain it."""

    percentile: Annotated[float, Field(ge=0, le=100)] = 80.0
    dilate: Annotated[int, Field(ge=0)] = 1
    k_neg: Positive = 5


class Weighing(Strict):
    """λ in S = S_NegLabel* + λ P_align: one of `values`, chosen on validation pictures; or `fixed`."""

    values: Annotated[tuple[float, ...], Field(min_length=1)]
    choose: Literal["validation", "adaptive", "fixed"] = "validation"
    fixed: float | None = None
    validation: Annotated[float, Field(gt=0, lt=1, description="share of each OOD set that is for choosing")] = 0.25

    @model_validator(mode="after")
    def _fixed_where_fixed(self) -> "Weighing":
        if (self.choose == "fixed") != (self.fixed is not None):
            raise ValueError(f"choose {self.choose} {'needs' if self.choose == 'fixed' else 'takes no'} fixed")
        if len(shown := [f"{value:g}" for value in self.values]) > len(set(shown)):
            twice = next(value for value in shown if shown.count(value) > 1)
            raise ValueError(
                f"values has {twice} twice, to six digits; results are told apart by these: let them differ"
            )
        return self


class NegAlignHead(Head):
    """The negalign head: scores pictures, trains nothing. Its data set is in distribution; `ood` names those that are
    not."""

    task: ClassVar = "ood"
    code: ClassVar = "negalign"
    features: NegAlignFeatures
    classes: Vocabulary
    ood: Annotated[dict[Name, Name], Field(min_length=1, description="name -> data set of pictures")]
    words: NegativeWords
    score: NegScore
    background: Background = Background()
    lam: Weighing
    # ID pictures for choosing and for M3; null carves them out of eval_split, as of the OOD sets.
    reference_split: str | None
    eval_split: str
    bootstrap: Positive

    @model_validator(mode="after")
    def _chosen_on_other_pictures(self) -> "NegAlignHead":
        if self.reference_split == self.eval_split:
            raise ValueError(
                f"reference_split and eval_split are both {self.eval_split!r}; set reference_split: null, which carves "
                "a part of eval_split out for choosing"
            )
        for name, whose in (("id", "the pictures in distribution are"), ("mean", "the mean over sets is")):
            if name in self.ood:
                raise ValueError(f"ood.{name} is what {whose} called; give the set another name")
        return self

    @property
    def inputs(self) -> dict[str, Input]:
        """image and cam of the ID pictures; ood.<name>.image and .cam; classes; words, and words.plain, .object and
        .background of the texts that tell their roles."""
        words, found = self.words, dict(super().inputs)
        for name, dataset in self.ood.items():
            found |= {f"ood.{name}.{role}": Input(dataset, getattr(self.features, role)) for role in ("image", "cam")}
        found["classes"] = Input(self.classes.dataset, self.classes.feature)
        found["words"] = Input(words.dataset, words.feature)
        for role in ("plain", "object", "background"):
            found[f"words.{role}"] = Input(words.dataset, getattr(words.roles, role))
        return found

    @property
    def wanted(self) -> dict[str, type[Content]]:
        found = super().wanted
        found |= {f"ood.{name}.{role}": found[role] for name in self.ood for role in ("image", "cam")}
        return found | dict.fromkeys(TEXT_ROLES, Texts)

    def key_of(self, role: str) -> str:
        kind = role.rpartition(".")[2]
        if role in ("classes", "words"):
            return f"{role}.feature"
        return f"words.roles.{kind}" if role.startswith("words.") else f"features.{kind}"

    def fits(self, given: Mapping[str, Given], class_lists: Collection[str]) -> None:
        if (image := given.get("image")) and (image.content.space is None or image.content.steps):
            raise ValueError(
                f"{image} gives {image.content}, expected one embedding a picture in a space of texts; name a feature "
                "of backbone clip with output image_embed and one frame"
            )
        compared = ("image", "cam", *TEXT_ROLES)
        refuse_unlike(given, compared, "width", "pictures and texts are compared: embed them with one checkpoint")
        refuse_unlike(given, compared, "space", "pictures and texts are compared: embed them with one checkpoint")
        for what in ("grid", "part"):
            refuse_unlike(given, ("cam", "masks"), what, "masks lie on the maps: derive them from these, with scale 1")
        if (masks := given.get("masks")) and masks.content.channels not in (None, 1):
            raise ValueError(f"{masks} has {masks.content.channels} channels, expected 1: how much an object covers")


class Heads(Strict):
    gasm_cast: GasmCastHead | None = None
    fact: FactHead | None = None
    fact_clip: FactClipHead | None = None
    clip_align: ClipAlignHead | None = None
    negalign: NegAlignHead | None = None

    def items(self) -> list[tuple[str, Any]]:
        """(name, head) of the heads that are declared."""
        return [(name, getattr(self, name)) for name in type(self).model_fields if getattr(self, name) is not None]


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
