"""A store says by what every sample in it was computed, whatever wrote, resumed or copied it."""

import json

import numpy as np
import pytest

from pipeline.config import parse_params
from pipeline.store import FeatureStore, ShardWriter, StoreCorrupt, apart, by_feature, describe
from pipeline.training.dataset import DataError, refuse_mixed

HERE = {"device": {"type": "cpu", "model": "x86_64"}, "versions": {"torch": "2.9"}}
THERE = {"device": {"type": "cuda", "model": "NVIDIA A100"}, "versions": {"torch": "2.9"}}
LATER = {"device": {"type": "cpu", "model": "x86_64"}, "versions": {"torch": "2.10"}}
NAMES = [f"v{number}" for number in range(20)]


def write(base, environment, names=NAMES, until=None, changes=None, **provenance):
    """Puts the pending samples in batches of three up to a number, and finishes the shard without one."""
    own = {"key": "abc", "feature": "dino", **provenance}
    samples = [(name, (changes or {}).get(name, "digest")) for name in names]
    with ShardWriter(base, samples, {"t": ((2,), "float16")}, own, environment) as writer:
        for number, sample in enumerate(writer.pending[:until], start=1):
            writer.put(sample, {"t": np.full(2, int(sample[1:]))}, {})
            if number % 3 == 0:
                writer.commit()
        writer.commit()
        return writer.finish() if until is None else None


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_shards_of_two_devices_or_versions_are_told_apart(tmp_path):
    for number, environment in enumerate((HERE, THERE, HERE, LATER)):
        write(tmp_path / "s" / f"shard-{number:03d}", environment, [f"v{number}"])
    store = FeatureStore(tmp_path / "s")
    assert store.environments == describe(tmp_path / "s")["environments"] == {"dino-abc": [HERE, THERE, LATER]}
    assert store.provenance["environments"] == [HERE, THERE, LATER] and store.provenance["feature"] == "dino"
    assert apart([HERE, THERE]) == "device.model x86_64 or NVIDIA A100, device.type cpu or cuda"
    assert apart([HERE, LATER]) == "versions.torch 2.9 or 2.10"


def test_equal_machines_write_equal_bytes_however_often_they_were_stopped(tmp_path):
    write(tmp_path / "one/shard-000", HERE)
    for until in (0, 6, 6, None):
        write(tmp_path / "two/shard-000", HERE, until=until)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_shard_that_another_machine_went_on_with_names_both(tmp_path):
    write(tmp_path / "s/shard-000", HERE, until=6)
    write(tmp_path / "s/shard-000", THERE, until=6)
    manifest = write(tmp_path / "s/shard-000", HERE)
    assert manifest["provenance"]["environments"] == [HERE, THERE]


def test_samples_that_are_copied_keep_the_environment_that_computed_them(tmp_path):
    base = tmp_path / "s/shard-000"
    write(base, HERE, until=6)
    write(base, THERE)
    # Two more samples, and of those that were computed there all but one have other videos now.
    replaced = {name: "another" for name in NAMES[6:19]}
    manifest = write(base, LATER, [*NAMES, "v30", "v31"], changes=replaced)
    assert manifest["provenance"]["environments"] == [HERE, THERE, LATER]
    manifest = write(base, LATER, [*NAMES[6:19], "v30"], changes=replaced)
    assert manifest["provenance"]["environments"] == [LATER]
    store = FeatureStore(base.parent, verify=True)
    assert store.read(["v7", "v30"], "t")[:, 0].tolist() == [7, 30]


def test_what_a_feature_was_made_from_is_told_too(tmp_path):
    for number, of in enumerate((HERE, THERE)):
        source = {"key": "def", "feature": "tokens", "environments": [of]}
        write(tmp_path / "s" / f"shard-{number:03d}", HERE, [f"v{number}"], reads={"tokens": source})
    store = FeatureStore(tmp_path / "s")
    assert store.environments == {"dino-abc": [HERE], "tokens-def": [HERE, THERE]}
    other = FeatureStore(tmp_path / "t")
    write(tmp_path / "t/shard-000", THERE, ["v0"], key="def", feature="tokens")
    assert by_feature([other.provenance, store.provenance])["tokens-def"] == [THERE, HERE]


def test_a_store_from_before_shards_named_their_machine_says_what_it_knows(tmp_path):
    write(tmp_path / "s/shard-000", None, ["v0"], device="cuda", versions={"torch": "2.8"})
    assert FeatureStore(tmp_path / "s").environments == {
        "dino-abc": [{"device": {"type": "cuda"}, "versions": {"torch": "2.8"}}]
    }


@pytest.mark.parametrize("field", ["feature", "config", "weights", "grid", "box"])
def test_shards_that_differ_in_what_is_read_of_the_first_alone_are_refused(tmp_path, field):
    for number in range(2):
        write(tmp_path / "s" / f"shard-{number:03d}", HERE, [f"v{number}"], **{field: [number]})
    with pytest.raises(StoreCorrupt, match=rf"shard-001 has {field} \[1\], shard-000 has \[0\]"):
        _ = FeatureStore(tmp_path / "s").provenance


def test_stage_two_refuses_a_mixed_store_where_params_do(tmp_path):
    for number, environment in enumerate((HERE, THERE)):
        write(tmp_path / "s" / f"shard-{number:03d}", environment, [f"v{number}"])
    stores = [FeatureStore(tmp_path / "s")]
    refuse_mixed(parse_params({}).compute, stores)
    compute = parse_params({"compute": {"mixed": "refuse"}}).compute
    with pytest.raises(DataError) as caught:
        refuse_mixed(compute, stores)
    said = str(caught.value)
    assert said.startswith("dino-abc was computed by 2 environments: device.model x86_64 or NVIDIA A100")
    assert "delete features/*/dino-abc and extract it in one place, or set mixed: report" in said
    write(tmp_path / "t/shard-000", HERE, ["v0"], feature="other", key="ab")
    refuse_mixed(compute, [FeatureStore(tmp_path / "t")])


def test_the_journal_names_an_environment_where_it_changes_alone(tmp_path):
    for environment in (HERE, THERE):
        write(tmp_path / "s/shard-000", environment, until=6)
    lines = (tmp_path / "s/shard-000.journal").read_text().splitlines()[1:]
    assert ["environment" in json.loads(line) for line in lines] == [True, False, True, False]
