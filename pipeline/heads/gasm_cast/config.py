"""What a person may choose of gasm_cast. The defaults are those of configs/ssv2.yaml, in single precision."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Name, Positive, Share, Strict
from pipeline.config.contents import Given, Reads, Tokens, refuse_unlike
from pipeline.config.heads import ClassifierHead, Rate

UNBOUNDED = -1  # the radius of a graph that joins every node to every other


class GasmCastModel(Strict):
    """Constructor arguments of heads.gasm_cast.GasmCast that do not follow from the data (spec: docs of that class)."""

    fusion: Literal["cast", "vanilla", "concat", "semantic", "motion", "probe"] = "cast"
    layers: Positive = 3
    width: Positive = 256
    attention_heads: Positive = 8
    bottleneck: Positive = 256
    window: Literal["cell", "full"] = "cell"
    graph: Literal["full", "spatial", "time", "learned", "dense", "none"] = "full"
    radii: tuple[int, ...] = (1, 2, UNBOUNDED)
    semantic_neighbours: Annotated[int, Field(ge=0)] = 8
    motion_neighbours: Annotated[int, Field(ge=0)] = 2
    dropout: Share = 0.3
    token_dropout: Share = 0.3

    @model_validator(mode="after")
    def _parts_fit(self) -> "GasmCastModel":
        for name in ("width", "bottleneck"):
            if getattr(self, name) % self.attention_heads:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which {self.attention_heads} attention_heads do not divide; "
                    f"expected a multiple of {self.attention_heads}"
                )
        if self.graph == "learned" and not min(self.semantic_neighbours, self.motion_neighbours):
            raise ValueError(
                f"graph is learned, and semantic_neighbours are {self.semantic_neighbours} and motion_neighbours "
                f"{self.motion_neighbours}; expected both above 0: so many nodes a node reads"
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


class GasmCastHead(ClassifierHead):
    """The gasm_cast head: what it reads, its model, its training, its result file."""

    attention: ClassVar = "pipeline.heads.gasm_cast.attention:looks"
    code: ClassVar = "pipeline.heads.gasm_cast.model:GasmCast"
    blocks_in: ClassVar = ("layers", "blocks")
    features: GasmCastFeatures
    model: GasmCastModel = GasmCastModel()
    lr: Rate = 1e-3
    batch_size: Positive = 32
    epochs: Positive = 50
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Share = 0.1
    patience: Positive = 10
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
