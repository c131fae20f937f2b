"""What a person may choose of gasm_cast."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Name, Positive, Share, Strict
from pipeline.config.heads import ClassifierHead

UNBOUNDED = -1  # the radius of a graph that joins every node to every other


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
    semantic: Name
    motion: Name


class GasmCastHead(ClassifierHead):
    """The gasm_cast head: what it reads, its model, its training, its result file."""

    attention: ClassVar = "pipeline.heads.gasm_cast.attention:looks"
    code: ClassVar = "pipeline.heads.gasm_cast.model:GasmCast"
    features: GasmCastFeatures
    model: GasmCastModel
    max_trainable: Positive = 20_000_000
