"""The protocol of derivations: a maker, and what it makes of a sample. Knows no kind of derivation."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.backbones import Fields
from pipeline.extraction.provenance import Grid
from pipeline.store import FeatureStore

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Made(NamedTuple):
    """One sample: its fields and its metadata, added to the source's; or the reason why it failed."""

    fields: Mapping[str, np.ndarray] = NOTHING
    meta: Mapping[str, Any] = NOTHING
    reason: str = ""


class Maker(Protocol):
    """Makes samples of a derived feature from those of its source.

    Attributes:
        grid, fields: of the derived feature, as a backbone's.
        computed_on: the type of the device, as torch names it.
        reads: name -> provenance of what it is made from beside its source.
    """

    grid: Grid | None
    fields: Fields
    computed_on: str
    reads: Mapping[str, Mapping[str, Any]]

    def __call__(self, source: FeatureStore, samples: Sequence[str]) -> Iterable[Made]:
        """One for each sample, in order; none of them failed in the source.

        The call itself may start a device, and what it returns wait for it: that is taken in a thread that writes.
        """
        ...
