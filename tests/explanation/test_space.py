"""Projections need enough points, and no folder that outlives them."""

import sys

import numpy as np
import pytest

from pipeline.explanation import space
from pipeline.explanation.errors import NotOffered


@pytest.mark.parametrize("values_ND, what", [(np.eye(2), "2 points, expected 5"), (np.ones((9, 3)), "9 points that")])
def test_a_space_of_too_few_points_is_left_out_and_ends_no_other_part(values_ND, what):
    with pytest.raises(NotOffered, match=f"own: its features are {what}"):
        space.projections(values_ND, seed=0, threads=1, head="own")


def test_umap_is_there_where_what_it_compiles_can_be_kept_nowhere(tmp_path, monkeypatch):
    import numba

    (tmp_path / "umap.py").write_text(
        "import numba\n"
        "if not numba.config.CACHE_DIR:\n"
        "    raise RuntimeError(\"cannot cache function 'rdist': no locator available for file 'layouts.py'\")\n"
        "class UMAP: pass\n",
        encoding="utf-8",
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "umap"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert space._umap().__name__ == "UMAP"
    del sys.modules["umap"]  # for no other test: monkeypatch would put it back
