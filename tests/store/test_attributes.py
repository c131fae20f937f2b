"""What a client that knows only zarr or HDF5 learns of the rows: ids, times, failures, and where labels are."""

import json

import h5py
import numpy as np

from pipeline.store import ShardWriter, verify
from tests.later import Later

zarr = Later("zarr")

LABELS = {"manifest": "../manifest.parquet", "id": "sample", "label": "label", "split": "split"}


def test_attributes_of_a_zarr_group_say_what_its_rows_are(make_job):
    job = make_job("zarr", samples=3, failed=(1,))
    job.run()
    attributes = dict(zarr.open_group(str(job.base.with_suffix(".zarr")), mode="r").attrs)
    assert attributes == {
        "ids": ["v0", "v1", "v2"],
        "times": [[0.0, 1.5], None, [2 / 3, 1.5]],
        "failed": {"v1": "short: 3 of 30 frames"},
        "labels": LABELS,
    }


def test_attributes_of_hdf5_datasets_say_which_sample_they_are(tmp_path):
    samples, rows = [("a/ö", "1"), ("b", "2"), ("c", "3")], np.ones((2, 5), np.float16)
    for name in ("one", "two"):
        with ShardWriter(tmp_path / name, samples, {"frames": ((None, 5), "float16")}, {"key": "abc"}) as writer:
            writer.put("a/ö", {"frames": rows}, {"fps": 12.5, "times": [0.0] * 20_000, "note": None})
            writer.fail("b", "short")
            writer.put("c", {"frames": rows}, {})
            writer.finish()
    with h5py.File(tmp_path / "one.h5") as file:
        assert json.loads(file.attrs["labels"]) == LABELS and list(file["frames"]) == ["a%2Fö", "c"]
        found = dict(file["frames/a%2Fö"].attrs)
    assert {"id": found.pop("id").decode()} | found == {"id": "a/ö", "fps": 12.5}
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_a_store_of_before_attributes_is_whole_still(make_job, monkeypatch):
    job = make_job("old", samples=3)
    with monkeypatch.context() as patched:
        create = zarr.create_group
        patched.setattr("zarr.create_group", lambda store, zarr_format, attributes: create(store, zarr_format=3))
        job.run()
    assert dict(zarr.open_group(str(job.base.with_suffix(".zarr")), mode="r").attrs) == {}
    assert verify(job.base.parent) == []
