"""A stand-in for UMAP, of which each process compiles 15 s of code anew. tests/explanation has UMAP itself."""

from typing import Any

import numpy as np
import pytest

from pipeline.explanation import space


class Flat:
    """Two dimensions of what it gets."""

    def __init__(self, **options: Any) -> None:
        assert {"n_neighbors", "random_state"} <= options.keys()

    def fit_transform(self, values_ND: np.ndarray) -> np.ndarray:
        return np.pad(values_ND, ((0, 0), (0, 1)))[:, :2]


def flatten(patch: pytest.MonkeyPatch) -> None:
    """Explanations of this process take the stand-in, until the patch is undone."""
    patch.setattr(space, "_umap", lambda: Flat)
