"""Features that are made from the stores of other features."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Name, Positive, Vocabulary
from .contents import Cams, Contents, Hidden, Maps, Tokens, architecture, size
from .features import BaseFeature


class FeatureOfFeature(BaseFeature):
    """A feature that is made from the store of another one, its `source`."""

    derived: ClassVar = True
    NAMES: ClassVar = ("source",)
    source: Name
    batch: Positive = 64

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def keyed(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"source", "texts", *self.unkeyed})


class DerivedFeature(FeatureOfFeature):
    """Another feature's token grid, pooled by `pool` x `pool` tokens, kept as float16 or int8: no backbone runs."""

    backbone: Literal["derived"]
    pool: Literal[1, 2] = 1
    storage: Literal["float16", "int8"] = "float16"

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        if (found := read[self.source]) is None or self.pool == 1:
            return found
        if not any(isinstance(content, Tokens) for content in found.values()):
            raise ValueError(f"source names {self.source!r}, which has no token grid that could be pooled; set pool: 1")
        return {name: self._pooled(of) if isinstance(of, Tokens) else of for name, of in found.items()}

    def _pooled(self, tokens: Tokens) -> Tokens:
        if tokens.grid is None:
            return tokens
        rows, columns = tokens.grid
        if rows % self.pool or columns % self.pool:
            raise ValueError(
                f"pool is {self.pool}, which does not divide the {rows} x {columns} tokens of {self.source}"
            )
        return replace(tokens, grid=(rows // self.pool, columns // self.pool))


class ClipCamFeature(FeatureOfFeature):
    """What CLIP's last block makes of its input, in closed form: the class-activation map of the best of `texts`, and
    each patch's projected embedding.

    `target` is what the map explains, the best text's logit or its probability; `post_norm` puts the patches through
    the last LayerNorm before they are projected. `patches` value: each patch's own value instead of what the block
    makes of it, without attention (as GL-MCM does) and always through the last LayerNorm. `cam_blocks` other than the
    last one (-1) need a source with the input of the first of them, and are differentiated automatically; of several
    the maps are scaled to [0, 1] and averaged.
    """

    NAMES: ClassVar = ("source", "texts.feature")
    backbone: Literal["clip_cam"]
    texts: Vocabulary
    site: Literal["layer_norm1", "block_input"] = "layer_norm1"
    target: Literal["logit", "softmax"] = "logit"
    cam_blocks: Annotated[tuple[Annotated[int, Field(le=-1)], ...], Field(min_length=1)] = (-1,)
    post_norm: bool = False
    patches: Literal["output", "value"] = "output"

    @model_validator(mode="after")
    def _values_are_normed(self) -> "ClipCamFeature":
        if self.patches == "value" and self.post_norm:
            raise ValueError("patches value passes through the last LayerNorm anyway; leave post_norm out")
        return self

    @property
    def unkeyed(self) -> frozenset[str]:
        """What is made as before has the key that it had before there was `patches`."""
        return super().unkeyed | ({"patches"} if self.patches == "output" else set())

    def gives(self, read: Mapping[str, Contents | None]) -> Contents:
        (hidden,) = (of for of in (read[self.source] or {}).values() if isinstance(of, Hidden))
        width = size(architecture(hidden.space), "projection_dim")
        return {"map": Cams(hidden.grid, width, hidden.space, hidden.part)}

    @property
    def compares(self) -> Vocabulary:
        return self.texts


class MapsFeature(FeatureOfFeature):
    """What a sample's `map` (a clinician's attention, a mask of the object) says, on the frames and the crop that the
    tokens of `source` saw, with `scale` x `scale` cells a token.

    `channels` of the files; pictures and videos of colours have 3, and their mean is 1.
    """

    backbone: Literal["maps"]
    scale: Positive = 2
    channels: Positive = 1

    def gives(self, read: Mapping[str, Contents | None]) -> Contents | None:
        if (found := read[self.source]) is None:
            return None
        laid = next((of for of in found.values() if isinstance(of, Tokens | Cams | Hidden)), None)
        if laid is None:
            raise ValueError(f"source names {self.source!r}, which has no token grid")
        grid = laid.grid and (laid.grid[0] * self.scale, laid.grid[1] * self.scale)
        steps = 1 if isinstance(laid, Cams) else laid.steps
        return {"maps": Maps(self.source, steps, grid, self.channels, laid.part)}
