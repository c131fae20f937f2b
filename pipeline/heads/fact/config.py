"""What a person may choose of fact and fact_clip. The defaults are those of the paper for Breakfast (configs/)."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Fraction, Name, Positive, Share, Strict, Vocabulary
from pipeline.config.contents import Content, Given, Reads, Rows, Texts
from pipeline.config.heads import Holdout, Input, Rate, TrainedHead

AUTOMATIC = -1.0  # the weight of null that follows from the data
HOLDOUT = "holdout"  # what is chosen on videos that were held out of training


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

    blocks: Annotated[str, Field(pattern="^[iI][uU]*$")] = "iuUU"
    # The blocks i and I.
    Bi: FactBlock = FactBlock(
        hid_dim=512, a_dim=512, a_ffdim=512, a_layers=6, a_nhead=8, f="m2", f_dim=512, f_layers=10, f_ln=False,
        dropout=0.0, s_layers=1,
    )  # fmt: skip
    Bu: FactBlock = FactBlock()  # u
    BU: FactBlock = FactBlock()  # U
    tokens: Positive = 60
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


class Decode(Strict):
    """The classes of a whole video at once (spec: docs of heads.fact.decoding.decode)."""

    switch: Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["holdout"],
        Field(description="what a change of class costs, in frames of a sure score"),
    ] = HOLDOUT


class FactFeatures(Strict):
    frames: Annotated[Name, Reads(Rows)]


class SegmentationHead(TrainedHead):
    """What the segmentation heads have in common beside that."""

    task: ClassVar = "segmentation"
    framewise: ClassVar = True
    code: ClassVar = "pipeline.heads.fact.model:Fact"
    blocks_in: ClassVar = ("blocks",)
    features: FactFeatures
    model: FactModel = FactModel()
    lr: Rate = 1e-4
    batch_size: Positive = 4
    epochs: Positive = 150
    patience: Positive = 150
    loss: FactLoss = FactLoss()
    mwt: Fraction = 0.1
    decode: Annotated[Decode | None, Field(description="null decides each frame by itself, as published")] = None
    holdout: Holdout = 0.1
    decay_epoch: Annotated[int, Field(gt=0, description="from this epoch on, a tenth of the learning rate")] = 80
    weight_decay: Annotated[float, Field(ge=0, le=1, description="of each weight, added to its gradient")] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    ema_decay: Share = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    sample_rate: Annotated[int, Field(gt=0, description="one row in so many is read")] = 1
    tolerance: Annotated[int, Field(ge=0, description="frames by which labels and features may differ in length")] = 5
    with_background: Annotated[bool, Field(description="Edit and F1 count background segments, too")] = True

    @property
    def uncompiled(self) -> str:
        return "videos differ in length, and torch would compile FACT anew for each"

    @property
    def undivided(self) -> str:
        # Each video is matched alone, and every term is a mean over videos. What is drawn may not be by video.
        if self.model.time_mask is not None:
            return "FACT draws the windows of model.time_mask for the whole batch (time_mask: null draws none)"
        if any(block.dropout for _, block in self.model.chain):
            return (
                "FACT draws the dropout of its blocks for the whole batch (dropout: 0 in model.Bi, Bu, BU draws none)"
            )
        return ""


class FactHead(SegmentationHead):
    """The fact head: action segmentation with every class known."""


class Alignment(Strict):
    """What is aligned with text, and how (spec: docs of heads.fact.FactClip)."""

    target: Literal["both", "action_token", "frame", "logit"] = "both"
    hidden: Positive = 512
    dropout: Share = 0.1
    temperature: Annotated[float, Field(gt=0)] = 0.07
    w_fact: Annotated[float, Field(ge=0)] = 0.5
    w_con: Annotated[float, Field(ge=0)] = 0.5
    scoring: Literal["cosine", "classifier"] = "cosine"


class FactClipHead(SegmentationHead):
    """The fact_clip head: some classes are held out of training and recognised by their names.

    A class's text in the vocabulary is its name with spaces for underscores.
    """

    task: ClassVar = "zeroshot"
    code: ClassVar = "pipeline.heads.fact.clip:FactClip"

    vocabulary: Vocabulary
    alignment: Alignment = Alignment()
    unseen: Annotated[str, Field(description="a list of the data set's class_lists: the classes held out of training")]
    stand_ins: Annotated[
        float, Field(gt=0, lt=1, description="share of the seen classes held out to choose gamma on")
    ] = 0.15

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
