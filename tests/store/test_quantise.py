"""int8_scaled: the error it states, in every channel, and float16 back from what any zarr client reads as integers."""

import numpy as np
import pytest

from pipeline.store import FeatureStore, ShardWriter, StoreError
from pipeline.store.quantise import dequantise, quantise
from tests.later import Later

tensorstore = Later("tensorstore")
zarr = Later("zarr")

KEY = {"key": "k"}


@pytest.fixture
def tokens() -> np.ndarray:
    """As a vision transformer gives them: normal, and every 97th channel fifty times as large."""
    values = np.random.default_rng(0).normal(size=(8, 196, 768))
    values[..., ::97] *= 50
    return values.astype(np.float16)


def restored(values: np.ndarray) -> np.ndarray:
    out = np.empty(values.shape, np.float16)
    dequantise(*quantise(values), out)
    return out


def relative_error(got: np.ndarray, values: np.ndarray, axis=None) -> np.ndarray:
    given = values.astype(np.float64)
    return np.linalg.norm(got - given, axis=axis) / np.linalg.norm(given, axis=axis)


def test_the_relative_error_is_as_stated_over_all_and_in_every_channel(tokens):
    got, flat = restored(tokens).reshape(-1, 768), tokens.reshape(-1, 768)
    assert relative_error(got, flat) == pytest.approx(7.5e-3, abs=3e-4)
    assert relative_error(got, flat, axis=0).max() < 1.1e-2
    step = np.abs(flat.astype(np.float64)).max(axis=1, keepdims=True) / 127
    alone = np.rint(flat / step) * step
    assert relative_error(alone, flat) > 3e-2, "without channel scales the claim would be worth little"
    assert relative_error(alone, flat, axis=0).max() > 0.15


def test_it_is_what_a_plain_reading_of_the_definition_gives(tokens):
    values = tokens[:, :9].astype(np.float64)
    integers, token, channel = quantise(tokens[:, :9].copy())
    peak = np.abs(values).max(axis=(0, 1))
    scaled = values / peak
    largest = np.abs(scaled).max(axis=-1)
    expected = np.rint(scaled / largest[..., None] * 127)
    assert (integers.dtype, token.dtype, channel.dtype) == (np.int8, np.float32, np.float32)
    assert np.array_equal(channel, peak)
    assert token == pytest.approx(largest / 127, rel=1e-6)
    assert np.abs(integers - expected).max() <= 1
    assert (integers != expected).mean() < 1e-3, "only ties within float32 may differ"
    bound = 0.501 * token[..., None] * channel + 2.0**-11 * np.abs(values)
    assert (np.abs(restored(tokens[:, :9].copy()) - values) <= bound).all()


def test_extremes_stay_finite_and_zeros_stay_zero():
    values = np.random.default_rng(1).normal(size=(50, 40)).astype(np.float16)
    values[:, 3] = 0
    values[7] = 0
    values[9, 4], values[10, 4], values[11, 5] = 65504, -65504, 6e-8
    got = restored(values)
    assert np.isfinite(got).all()
    assert (got[9, 4], got[10, 4]) == (65504, -65504)
    assert not got[:, 3].any()
    assert not got[7].any()
    assert np.array_equal(restored(np.zeros((3, 4), np.float16)), np.zeros((3, 4)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 40_000), (2, 3, 4, 5), (100_000, 2)])
def test_any_shape_with_tokens_and_channels_will_do(shape):
    values = np.random.default_rng(2).normal(size=shape).astype(np.float16)
    assert relative_error(restored(values), values) < 9e-3


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_a_store_gives_float16_back_and_zarr_clients_the_integers_and_scales(tmp_path, tokens, access):
    samples = {f"s{i}": tokens[i : i + 2] for i in range(6)}
    fields = {"x": ((2, 196, 768), "int8_scaled")}
    with ShardWriter(tmp_path / "shard-000", [(s, s) for s in samples], fields, KEY) as writer:
        writer.fail("s2", "empty")
        for sample in writer.pending:
            writer.put(sample, {"x": samples[sample].astype(np.float32)}, {})
        writer.finish()
    store = FeatureStore(tmp_path, verify=True, access=access)
    assert store.fields == {"x": ((2, 196, 768), "float16")}
    got = store.load("x")
    assert got.dtype == np.float16
    expected = np.stack([restored(samples[sample]) for sample in store.samples])
    assert np.array_equal(got, expected)
    assert np.array_equal(store.read(["s4", "s0"], "x", out=np.empty((2, 2, 196, 768), np.float16)), expected[[3, 0]])
    kept = [0, 1, 3, 4, 5]
    group = zarr.open_group(str(tmp_path / "shard-000.zarr"), mode="r")
    names = ("x", "x.token_scale", "x.channel_scale")
    by_zarr = [group[name][:][kept] for name in names]
    by_tensorstore = [
        tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "shard-000.zarr" / name)}}
        ).result().read().result()[kept]
        for name in names
    ]  # fmt: skip
    for integers, token, channel in (by_zarr, by_tensorstore):
        assert integers.dtype == np.int8
        assert np.array_equal((integers * token[..., None] * channel[:, None, None]).astype(np.float16), expected)


def test_float16_and_float32_of_the_same_values_give_the_same_bytes(tmp_path, tokens):
    files = []
    for number, values in enumerate((tokens[0], tokens[0].astype(np.float32))):
        base = tmp_path / str(number) / "shard-000"
        with ShardWriter(base, [("a", "1")], {"x": ((196, 768), "int8_scaled")}, KEY) as writer:
            writer.put("a", {"x": values}, {})
            writer.finish()
        files.append(base.with_suffix(".json").read_bytes())
    assert files[0] == files[1]


def test_what_int8_cannot_hold_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"int8_scaled needs \(\.\.\., tokens, channels\), use float16"):
        ShardWriter(tmp_path / "shard-000", [("a", "1")], {"x": ((7,), "int8_scaled")}, KEY)
    clash = {"x": ((2, 7), "int8_scaled"), "x.token_scale": ((2,), "float32")}
    with pytest.raises(StoreError, match="would share an array"):
        ShardWriter(tmp_path / "shard-000", [("a", "1")], clash, KEY)
    with ShardWriter(tmp_path / "shard-000", [("a", "1")], {"x": ((2, 7), "int8_scaled")}, KEY) as writer:
        for value in (np.nan, np.inf, 1e5):
            with pytest.raises(ValueError, match="sample 'a', field 'x': 1 of 14 values"):
                writer.put("a", {"x": np.where(np.eye(2, 7) * [[1], [0]], value, 0)}, {})
