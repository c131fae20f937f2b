"""What is studied: ablations of a head, claims that are checked on them, searches. Knows no head."""

from itertools import product
from math import floor, prod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Name, Seed, Strict, canonical_json
from .heads import FREE

MOST_ROWS = 10_000  # of an ablation's grid, and of a search's
MOST_WHOLE = 2**53  # beyond which a whole number is no float
# What decides on which samples a trial is judged, or nothing of its training.
FIXED = frozenset({
    "kind", "result", "seed", "dataset", "train_split", "holdout", "holdout_split", "eval_split", "bootstrap",
    "calibration_bins", "elsewhere", "max_trainable", "accumulate", "gradient_checkpointing",
})  # fmt: skip


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
        told: dict[str, str] = {}
        for name, changes in self.rows.items() if changed & FREE else ():
            kept = canonical_json({key: value for key, value in changes.items() if key not in FREE})
            if (other := told.setdefault(kept, name)) != name:
                keys = ", ".join(sorted(changed & FREE))
                raise ValueError(
                    f"{other} and {name} differ in {keys} alone, which changes no training, so both are one run; set "
                    "it in the head, or remove a row"
                )
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

    It holds if the 95 % interval of (of - times * over), over seeds and over samples, is above `by`; it fails if that
    is below, and is undecided otherwise: `reports.claims`.
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


class Axis(Strict):
    """What a search may choose for one parameter: `choices`, or a range from `low` to `high`, both included.

    A range of whole numbers gives whole numbers. With `log` it is even in the logarithm; `step` keeps to
    low, low + step, ...
    """

    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Axis":
        ranged = [name for name in ("low", "high") if getattr(self, name) is not None]
        if self.choices is not None:
            if ranged or self.log or self.step is not None:
                raise ValueError("has choices and a range; give either choices, or low and high")
            told = [canonical_json(choice) for choice in self.choices]
            if twice := next((choice for choice in told if told.count(choice) > 1), None):
                raise ValueError(f"choices has {twice} twice; remove one")
            return self
        if len(ranged) < 2:
            raise ValueError("needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, and a logarithmic range begins above 0; raise low, or remove log")
        if self.log and self.step is not None:
            raise ValueError("has log and step, and steps are even in the value; remove one")
        if self.whole and max(abs(self.low), abs(self.high)) > MOST_WHOLE:
            raise ValueError(f"reaches to {self.high}; expected whole numbers of at most 2^53, or 1.0 as low")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step is {self.step:g} from {self.low:g} to {self.high:g}; lower it: it passes the end")
        if self.whole and isinstance(self.step, float):
            raise ValueError(f"step is {self.step:g} in a range of whole numbers; give a whole step, or 1.0 as low")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """The choices, or both ends of the range."""
        return self.choices if self.choices is not None else [self.low, self.high]

    @property
    def points(self) -> list[Any] | None:
        """All that may be chosen; None of a continuous range.

        >>> Axis(low=1, high=3).points, Axis(low=0.1, high=0.4, step=0.1).points, Axis(low=0.1, high=1.0).points
        ([1, 2, 3], [0.1, 0.2, 0.3, 0.4], None)
        """
        if self.choices is not None or self.size is None:
            return self.choices
        step = self.step or 1
        return [self.low + i * step if self.whole else float(f"{self.low + i * step:.12g}") for i in range(self.size)]

    @property
    def size(self) -> int | None:
        """How many may be chosen, counted without a list of them; None of a continuous range.

        >>> Axis(low=1, high=10**12).size, Axis(low=0.1, high=0.4, step=0.1).size, Axis(low=0.1, high=1.0).size
        (1000000000000, 4, None)
        """
        if self.choices is not None:
            return len(self.choices)
        if self.whole:
            return (self.high - self.low) // (self.step or 1) + 1
        return None if self.step is None else floor((self.high - self.low) / self.step + 1e-9) + 1


class Search(Strict):
    """Hyper-parameters of a head, searched with Optuna: each trial is a training, judged on the holdout.

    `space` holds dotted keys as an ablation's variants do; of features, choices alone, since a store is made of each.
    """

    head: Name
    space: Annotated[dict[str, Axis], Field(min_length=1)]
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: Annotated[int, Field(gt=0, le=MOST_ROWS)] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _can_be_searched(self) -> "Search":
        for key, axis in self.space.items():
            if not key.isprintable():  # it is repeated in errors, and a terminal would obey it
                raise ValueError(f"space has the key {key!r}; expected dotted names of parameters")
            if key.partition(".")[0] in FIXED:
                raise ValueError(
                    f"space.{key}: decides which samples a trial is judged on, or nothing of its training; remove it"
                )
            if key.startswith("features.") and axis.choices is None:
                raise ValueError(f"space.{key}: a store is made of each value of a feature's; list them as choices")
            if self.sampler == "grid" and axis.size is None:
                raise ValueError(f"space.{key}: is a continuous range, of which there is no grid; give step or choices")
        points = prod(axis.size or 1 for axis in self.space.values())
        if self.sampler == "grid" and points > MOST_ROWS:
            raise ValueError(f"the grid has {points:,} points, expected at most {MOST_ROWS:,}")
        if self.sampler == "grid" and self.trials not in (None, points):
            raise ValueError(f"trials is {self.trials}, and the grid has {points} points; remove trials")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials is missing: say how many trainings the sampler {self.sampler} may have")
        if (stores := prod(len(axis.ends) for axis in self._of_features.values())) > MOST_ROWS:
            raise ValueError(f"features have {stores:,} combinations, expected at most {MOST_ROWS:,}")
        return self

    @property
    def count(self) -> int:
        """How many trials there are."""
        return self.trials or prod(axis.size or 0 for axis in self.space.values())

    @property
    def _of_features(self) -> dict[str, Axis]:
        return {key: axis for key, axis in self.space.items() if key.startswith("features.")}

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every point, the last key turning fastest; of the sampler grid."""
        return _points({key: axis.points or [] for key, axis in sorted(self.space.items())})

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Every combination of its choices of features, by a name, as an ablation's rows: what trials may read."""
        points = _points({key: axis.ends for key, axis in sorted(self._of_features.items())})
        return {canonical_json(point): point for point in points}


def _points(values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]
