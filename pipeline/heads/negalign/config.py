"""What a person may choose of negalign."""

import os
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Fraction, Name, Positive, Strict, Vocabulary
from pipeline.config.contents import Cams, Content, Given, Maps, Reads, Texts, Vectors, refuse_unlike
from pipeline.config.heads import Head, Input

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
    mode: Literal["tau", "percentile"] = "percentile"
    value: Annotated[float, Field(ge=0, description="tau, or the percent of words at either end")] = 45.0

    @model_validator(mode="after")
    def _ends_do_not_meet(self) -> "WordRoles":
        if self.mode == "percentile" and self.value > 50:
            raise ValueError(f"value is {self.value:g} percent of the words at either end, expected at most 50")
        return self


class NegativeWords(Strict):
    """NegMine: word lists, and which of their words are far from every ID class (spec: docs of `mine`)."""

    dataset: Name
    feature: Name
    quantile: Fraction = 0.95
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.15
    roles: WordRoles


class NegScore(Strict):
    """What λ weighs, and S_NegLabel with its three independent switches: all off is NegLabel's own score.

    `local` max: S = e(image) + λ times the largest e of a patch, in logits, with e = logsumexp over the ID classes less
    logsumexp over all words; the switches do not touch it. p_align: S = S_NegLabel* + λ P_align, the published one.
    none: S = S_NegLabel*.
    """

    local: Literal["max", "p_align", "none"] = "max"

    groups: Positive = 100
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


# Where there are no OOD pictures to choose λ of `score.local: max` on.
UNVALIDATED = 0.3
VALUES = (
    *(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.5, 3.0, 10.0),
)


class Weighing(Strict):
    """λ, the weight of the local term: one of `values`, chosen on validation pictures; or `fixed`.

    `guard`: of the values only those count that take at most this many points of AUROC from λ = 0 on every one of the
    OOD sets' validation pictures; null lets all count.
    """

    values: Annotated[tuple[float, ...], Field(min_length=1)] = VALUES
    choose: Literal["validation", "adaptive", "fixed"] = "validation"
    fixed: Annotated[float | None, Field(description="null, with score.local max: 0.3")] = None
    guard: Annotated[float | None, Field(ge=0, description="with choose validation: points of AUROC")] = 0.05
    validation: Annotated[float, Field(gt=0, lt=1, description="share of each OOD set that is for choosing")] = 0.25

    @model_validator(mode="after")
    def _fixed_where_fixed(self) -> "Weighing":
        if self.choose != "fixed" and self.fixed is not None:
            raise ValueError(f"choose {self.choose} takes no fixed")
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
    code: ClassVar = "pipeline.heads.negalign.scores:neglabels"
    features: NegAlignFeatures
    classes: Vocabulary
    ood: Annotated[dict[Name, Name], Field(min_length=1, description="name -> data set of pictures")]
    words: NegativeWords
    score: NegScore = NegScore()
    background: Background = Background()
    lam: Weighing = Weighing()
    # ID pictures for choosing and for M3; null carves them out of eval_split, as of the OOD sets.
    reference_split: str | None
    eval_split: str
    bootstrap: Positive = 1000

    @model_validator(mode="after")
    def _chosen_on_other_pictures(self) -> "NegAlignHead":
        if self.reference_split == self.eval_split:
            raise ValueError(
                f"reference_split and eval_split are both {self.eval_split!r}; set reference_split: null, which carves "
                "a part of eval_split out for choosing"
            )
        if self.lam.choose == "fixed" and self.lam.fixed is None and self.score.local == "p_align":
            raise ValueError("lam: choose fixed needs fixed where score.local is p_align")
        for name, whose in (("id", "the pictures in distribution are"), ("mean", "the mean over sets is")):
            if name in self.ood:
                raise ValueError(f"ood.{name} is what {whose} called; give the set another name")
        return self

    def refuse_misfits(self, key: str, datasets: Mapping[str, Any]) -> None:
        """Raises ValueError for an OOD set whose folder of pictures is that of the ID pictures, or of another set."""
        owners: dict[str, str] = {}
        named = {f"{key}dataset": self.dataset, **{f"{key}ood.{of}": on for of, on in self.ood.items()}}
        for place, name in named.items():
            dataset = datasets[name]
            folder = os.path.normpath(os.path.join(dataset.root, dataset.videos or "."))
            if (owner := owners.setdefault(folder, place)) != place:
                raise ValueError(
                    f"{place} names {name!r}, whose pictures are those of {owner}, both in {folder}; name another data "
                    "set, or remove it"
                )

    @property
    def fixed_lambda(self) -> float | None:
        """λ where nothing is chosen; None where it is."""
        if self.score.local == "none":
            return 0.0
        return UNVALIDATED if self.lam.choose == "fixed" and self.lam.fixed is None else self.lam.fixed

    @property
    def sets(self) -> dict[str, tuple[str, str]]:
        """ "id" and the names of the OOD sets in order -> (data set, prefix of its features' roles)."""
        return {"id": (self.dataset, ""), **{name: (self.ood[name], f"ood.{name}.") for name in sorted(self.ood)}}

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
