"""What is studied: ablations of a head, and claims that are checked on them. Knows no head."""

from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import Field, model_validator

from .base import Name, Seed, Strict

MOST_ROWS = 10_000  # of an ablation's grid


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
