"""What a derivation gives and what gives it. Knows no kind of derivation."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.backbones import Fields
from pipeline.extraction.provenance import Grid
from pipeline.store import FeatureStore

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Made(NamedTuple):
    """One sample: its fields, and what the store is to note of it beside the source's notes; or why it has none."""

    fields: Mapping[str, np.ndarray] = NOTHING
    meta: Mapping[str, Any] = NOTHING
    reason: str = ""


class Maker(Protocol):
    """Makes samples of a derived feature from those of its source.

    Attributes:
        grid, fields: of what is made, as a backbone's.
        device: on which it is made.
        reads: name -> provenance of what it rests on beside its source.
    """

    grid: Grid | None
    fields: Fields
    device: str
    reads: Mapping[str, Mapping[str, Any]]

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterable[Made]:
        """One of each sample, in their order; none of them failed in the source."""
        ...
