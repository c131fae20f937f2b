"""Claims about features made from features: pooled and quantised tokens, resumable as any other."""

import numpy as np
import pytest

from pipeline.config import feature_dir
from pipeline.extraction import ExtractionError, derive
from pipeline.extraction.derivation import pool_tokens, pooled_shape
from pipeline.store import FeatureStore, StoreError, StoreMissing, verify
from tests.conftest import write_clip, write_ssv2
from tests.extraction.small import DINO, R3D, contents, dying_at_the_second_commit, params_of, run

SMALLER = {
    "same": {"backbone": "derived", "source": "dino", "batch": 4},
    "pooled": {"backbone": "derived", "source": "dino", "pool": 2, "batch": 4},
    "int8": {"backbone": "derived", "source": "dino", "storage": "int8", "batch": 4},
    "both": {"backbone": "derived", "source": "dino", "pool": 2, "storage": "int8", "batch": 4},
    "of_r3d": {"backbone": "derived", "source": "r3d"},
}


def params_for(root):
    full = DINO | {"pool": 1, "max_failed": 0.2}
    odd = R3D | {"preprocess": {"resize": [48, 48]}}
    direct = {"direct": DINO | {"pool": 2}, "direct_int8": full | {"storage": "int8"}}
    return params_of(root, {"dino": full, "r3d": odd, **SMALLER, **direct})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(params, features): 10 samples, of which one has failed, extracted and derived."""
    folder = tmp_path_factory.mktemp("derived")
    root = write_ssv2(folder / "set", {"train": 10})
    (root / "4.webm").write_bytes(b"no video")
    params = params_for(root)
    run(params, folder / "features")
    for name in ("same", "pooled", "int8", "both"):
        derived(params, name, folder / "features")
    return params, folder / "features"


def derived(params, name, features, lines=None):
    return derive(params, "small", name, 0, features, (lines if lines is not None else []).append)


def store_of(world, name) -> FeatureStore:
    params, features = world
    return FeatureStore(feature_dir(params, "small", name, features))


def test_pooling_is_the_mean_of_the_tokens_of_a_square():
    tokens = np.random.default_rng(0).normal(size=(3, 24, 5)).astype(np.float16)
    pooled = pool_tokens(tokens, (3, 4, 6), 2)
    for step in range(3):
        for row in range(2):
            for column in range(3):
                square = [(2 * row + i) * 6 + 2 * column + j for i in (0, 1) for j in (0, 1)]
                wanted = tokens[step, square].astype(np.float64).mean(axis=0)
                np.testing.assert_allclose(pooled[step, row * 3 + column], wanted, rtol=1e-6, atol=1e-7)
    assert pool_tokens(tokens, (3, 4, 5), 2) is tokens and pool_tokens(tokens, (3, 4, 6), 1) is tokens


def test_a_pooled_feature_is_what_the_backbone_would_have_pooled(world):
    params, features = world
    params = params.model_copy(
        update={
            "features": params.features | {"direct": params.features["direct"].model_copy(update={"max_failed": 1.0})}
        }
    )
    run(params, features, names="direct")
    pooled, direct = (store_of(world, name) for name in ("pooled", "direct"))
    assert pooled.fields == direct.fields and pooled.provenance["grid"] == direct.provenance["grid"]
    np.testing.assert_allclose(pooled.load("patch_tokens"), direct.load("patch_tokens"), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(pooled.load("cls"), store_of(world, "dino").load("cls"))


def test_int8_keeps_tokens_in_half_the_bytes_within_a_percent_whether_derived_or_extracted(world):
    params, features = world
    run(params, features, names="direct_int8")
    full, int8 = store_of(world, "dino"), store_of(world, "int8")
    wanted, got = (store.load("patch_tokens").astype(np.float32) for store in (full, int8))
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.01
    np.testing.assert_array_equal(store_of(world, "direct_int8").load("patch_tokens"), int8.load("patch_tokens"))
    np.testing.assert_array_equal(int8.load("cls"), full.load("cls"))

    def size(store):
        return sum(
            path.stat().st_size for path in store.directory.rglob("*") if "patch_tokens" in str(path) and path.is_file()
        )

    assert size(int8) < 0.6 * size(full)


def test_without_pooling_and_as_float16_a_derived_feature_is_a_copy(world):
    np.testing.assert_array_equal(
        store_of(world, "same").load("patch_tokens"), store_of(world, "dino").load("patch_tokens")
    )


def test_provenance_goes_back_to_the_weights(world):
    both, full = store_of(world, "both"), store_of(world, "dino")
    assert both.provenance["reads"]["dino"]["key"] == full.key
    assert both.provenance["weights"] == full.provenance["weights"] and both.provenance["box"] == [0, 0, 1, 1]
    assert both.meta("1") == full.meta("1") and both.digest("1") == full.digest("1")
    assert all(verify(store_of(world, name).directory) == [] for name in ("same", "pooled", "int8", "both"))


def test_a_sample_that_failed_stays_failed_for_the_same_reason(world):
    assert store_of(world, "both").failed == store_of(world, "dino").failed
    assert list(store_of(world, "both").failed) == ["4"]


def test_a_derivation_that_dies_resumes_at_its_last_commit_and_ends_byte_for_byte_equal(world, monkeypatch):
    params, features = world
    folder = feature_dir(params, "small", "both", features)
    before = contents(folder)
    with dying_at_the_second_commit(folder, monkeypatch):
        derived(params, "both", features)
    lines: list[str] = []
    derived(params, "both", features, lines)
    assert "4 of 10 samples are there" in lines[0]
    assert contents(folder) == before


def test_a_grid_that_the_pool_does_not_divide_is_refused(world):
    params, features = world
    with pytest.raises(ExtractionError, match="3 x 3 tokens cannot be pooled"):
        pooled_shape((4, 9, 5), (4, 3, 3), 2)
    with pytest.raises(ExtractionError, match="run `extract"):
        derived(params, "dino", features)


def test_a_source_that_is_absent_or_stale_is_refused_with_the_remedy(tmp_path):
    root = write_ssv2(tmp_path / "set", {"train": 2})
    params, features = params_for(root), tmp_path / "features"
    run(params, features)
    with pytest.raises(StoreMissing, match="run `extract`"):
        derived(params, "of_r3d", features)
    write_clip(root / "2.webm", 77)
    from tests.extraction.small import make_manifest

    make_manifest(params, features)
    with pytest.raises(StoreError, match=r"sample '2' was made from.*extract small/dino again"):
        derived(params, "both", features)
