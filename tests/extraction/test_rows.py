"""Claims about features with a row a frame: piece by piece as if in one piece, whatever the length."""

import json
import os
import resource
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import backbones
from pipeline.config import Compute, FlowFeature, Preprocess, feature_dir
from pipeline.datasets import ShardSample, read_manifest, shard_samples, write_manifest
from pipeline.extraction import device, extract, lanes, rows
from pipeline.extraction.device import Device
from pipeline.extraction.rows import PIECE, Cutter, Piece, Rows, RowSource, RowView
from pipeline.store import FeatureStore, StoreCorrupt, StoreError, verify
from pipeline.video import VideoError, iterate_frames, probe, read_frames
from tests.conftest import write_clip, write_ssv2
from tests.extraction.small import contents, kill_until_done, make_manifest, params_of, run, with_workers
from tests.later import Later
from tests.store.conftest import flip
from tests.video.conftest import encode, numbers

backbones_i3d = Later("pipeline.backbones.i3d")

SEEN = {"sampling": {"fps": 12}, "preprocess": {"resize": 40, "crop": [32, 32]}}
FLOW = {"backbone": "flow", "method": "farneback", "batch": 2} | SEEN
# Rows of the 6 clips: 36 each but for one of 170, which is three pieces.
LENGTHS = {"1": 36, "2": 36, "3": 170, "4": 36, "5": 36, "6": 36}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(params, features) with flow, slow_flow and i3d, extracted."""
    folder = tmp_path_factory.mktemp("rows")
    root = write_ssv2(folder / "ssv2", {"train": 6})
    write_clip(root / "3.webm", 3, frames=170)
    for stream, channels in (("rgb", 3), ("flow", 2)):
        torch.manual_seed(channels)
        save_file(backbones_i3d.I3D(channels, 8).state_dict(), folder / f"{stream}.safetensors")
    i3d = {
        "backbone": "i3d",
        "rgb": {"path": str(folder / "rgb.safetensors")},
        "flow": {"feature": "flow", "weights": {"path": str(folder / "flow.safetensors")}},
        "window": 9,
        "batch": 4,
    }
    slow = FLOW | {"sampling": {"fps": 4}, "batch": 3}
    params = params_of(root, {"flow": FLOW, "slow": slow, "i3d": i3d | SEEN})
    for name in ("flow", "slow", "i3d"):
        run(params, folder / "features", names=name)
    return params, folder / "features"


def videos_of(world) -> Path:
    return Path(world[0].datasets["small"].root)


def store_of(world, name: str, features=None) -> FeatureStore:
    params, made = world
    return FeatureStore(feature_dir(params, "small", name, features or made))


def files_of(world, name: str, features=None) -> dict[str, bytes]:
    params, made = world
    return contents(feature_dir(params, "small", name, features or made))


def tolerant(params):
    """The same params, of the same keys, that let a fifth of the samples fail."""
    features = {name: f.model_copy(update={"max_failed": 0.2}) for name, f in params.features.items()}
    return params.model_copy(update={"features": features})


# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
@pytest.mark.parametrize("context", [(0, 0), (0, 1), (8, 7), (100, 90)])
def test_pieces_are_the_frames_around_their_rows_with_the_edges_repeated(total, context):
    view = RowView(None, None, frozenset(), context, {"rgb": (1, 1, 1)})
    cutter, rng = Cutter(view, total), np.random.default_rng(total)
    frames = torch.arange(total).reshape(-1, 1, 1, 1)
    cuts = np.unique(rng.integers(0, total + 1, 6)).tolist()
    pieces = [
        (start, around.flatten().tolist())
        for low, high in zip([0, *cuts], [*cuts, total], strict=True)
        if high > low
        for start, around in cutter.feed(frames[low:high])
    ]
    wanted = [
        (start, [min(max(t, 0), total - 1) for t in range(start - context[0], min(start + PIECE, total) + context[1])])
        for start in range(0, total, PIECE)
    ]
    assert pieces == wanted and cutter.done


def test_rows_are_cut_with_their_context():
    stream = torch.arange(20)
    batch = Rows({"rgb": stream}, (3, 2))
    assert len(batch) == 15
    assert batch[5:].streams["rgb"].tolist() == list(range(5, 20)) and len(batch[5:]) == 10
    assert batch[:5].streams["rgb"].tolist() == list(range(10)) and len(batch[:5]) == 5


# --- whole videos -----------------------------------------------------------------------------------------------------


def test_every_sampled_frame_has_a_row(world):
    for name, rate in (("flow", 1), ("slow", 3), ("i3d", 1)):
        store = store_of(world, name)
        (field,) = store.fields
        assert store.lengths(field) == {sample: length // rate for sample, length in LENGTHS.items()}
        assert store.meta("3") == {"fps": 12 / rate}
        assert verify(store.directory) == []


def test_flow_is_that_of_the_whole_video_at_once(world):
    params, _ = world
    feature = params.features["flow"]
    assert isinstance(feature, FlowFeature)
    times = (np.arange(170) + 0.5) / 12
    frames = read_frames(videos_of(world) / "3.webm", times)
    pixels = torch.from_numpy(backbones.preprocessor(feature)(frames))
    wanted = backbones.load(feature).rows({"rgb": torch.cat([pixels, pixels[-1:]])})["flow"]
    stored = store_of(world, "flow").read_ragged(["3"], "flow")[0]
    np.testing.assert_array_equal(stored, wanted.numpy())
    assert (stored[-1] == 128).all() and (stored[:-1] != 128).any()


def test_i3d_rows_are_those_of_the_whole_video_at_once_from_pixels_and_stored_flow(world):
    params, _ = world
    feature = params.features["i3d"]
    times = (np.arange(170) + 0.5) / 12
    pixels = torch.from_numpy(backbones.preprocessor(feature)(read_frames(videos_of(world) / "3.webm", times)))
    flow = torch.from_numpy(store_of(world, "flow").read_ragged(["3"], "flow")[0])
    around = np.arange(-4, 170 + 4).clip(0, 169)
    wanted = backbones.load(feature).rows({"rgb": pixels[around], "flow": flow[around]})["frames"]
    stored = store_of(world, "i3d").read_ragged(["3"], "frames")[0]
    np.testing.assert_allclose(stored, wanted.numpy(), rtol=2e-3, atol=2e-3)


def test_the_provenance_chain_names_the_flow_that_was_read(world):
    flow, i3d = store_of(world, "flow"), store_of(world, "i3d")
    assert i3d.provenance["reads"]["flow"]["key"] == flow.key
    assert i3d.provenance["weights"].keys() == {"rgb", "flow"}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", ["flow", "i3d"])
def test_decode_processes_change_no_byte(world, tmp_path, workers, name):
    params, _ = world
    for one in ("flow", name):
        run(with_workers(params, workers), tmp_path, names=one)
    assert files_of(world, name, tmp_path) == files_of(world, name)


def test_how_much_is_decoded_at_once_changes_no_byte(world, tmp_path, monkeypatch):
    asked = []

    def noting(path, times, decoder, facts, piece):
        asked.append(piece)
        return iterate_frames(path, times, decoder, facts, piece)

    monkeypatch.setattr(rows, "DECODED_BYTES", 7 * 64 * 64 * 3)
    monkeypatch.setattr(rows, "iterate_frames", noting)
    run(world[0], tmp_path, names="flow")
    assert set(asked) == {7}
    assert files_of(world, "flow", tmp_path) == files_of(world, "flow")


@pytest.mark.parametrize("fps", [5, 12, 30])
def test_rows_of_a_video_of_variable_rate_show_what_is_shown_at_their_times(tmp_path, fps):
    """A screen recording: a burst, a pause, another burst. Row i is at (i + 0.5) / fps seconds, whatever the container
    says of its rate."""
    starts = [*(round(1000 * k / 30) for k in range(20)), *(2580 + round(1000 * k / 30) for k in range(20))]
    path = encode(tmp_path / "bursts.mkv", n=len(starts), pts=starts)
    facts = probe(path)
    feature = FlowFeature(**FLOW | {"sampling": {"fps": fps}, "preprocess": {"resize": (96, 128)}})
    view = RowView(feature, backbones.preprocessor(feature), frozenset("v"), (2, 3), {"rgb": (3, 96, 128)})
    source = RowSource(tmp_path, [ShardSample("v", "", path.name, asdict(facts), "ok")], [view])
    pieces = list(source.messages(0))
    total = int((facts.duration + 1e-3) * fps)
    shown = np.searchsorted(starts, 1000 * (np.arange(total) + 0.5) / fps + 1e-6, side="right") - 1
    assert {piece.fps for piece in pieces} == {fps} and sum(len(piece.rows) for piece in pieces) == total
    for piece in pieces:
        around = np.arange(piece.start - 2, piece.start + len(piece.rows) + 3).clip(0, total - 1)
        said = numbers(piece.rows.streams["rgb"].permute(0, 2, 3, 1).numpy())
        assert said == shown[around].tolist()


def test_no_message_holds_more_than_a_piece_and_its_context(world):
    params, features = world
    backbone = backbones.load(params.features["i3d"])
    view = RowView(
        params.features["i3d"], backbones.preprocessor(params.features["i3d"]), frozenset(LENGTHS), backbone.context,
        {"rgb": (3, 32, 32)},
    )  # fmt: skip
    samples = shard_samples(read_manifest(features / "small" / "manifest.parquet"), 0)
    source = RowSource(videos_of(world), samples, [view])
    lengths = [len(piece.rows.streams["rgb"]) for piece in source.messages(2)]
    assert lengths == [PIECE + 8, PIECE + 8, 170 - 2 * PIECE + 8]


def test_rows_too_many_for_memory_grow_in_a_file_that_leaves_no_trace(world, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "ROWS_IN_MEMORY", 0)
    run(world[0], tmp_path, names="flow")
    assert files_of(world, "flow", tmp_path) == files_of(world, "flow")


def test_a_piece_that_does_not_fit_the_memory_is_halved(world, tmp_path, monkeypatch):
    honest, sizes = backbones_i3d.I3DFrames.rows, []

    def tight(self, streams):
        sizes.append(len(streams["rgb"]) - 8)
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("too much")
        return honest(self, streams)

    params, features = world
    run(params, tmp_path, names="flow")
    monkeypatch.setattr(backbones_i3d.I3DFrames, "rows", tight)
    run(params, tmp_path, names="i3d")
    assert sizes[:3] == [36, 18, 18]
    halved, whole = (store_of(world, "i3d", root).read_ragged(["3"], "frames")[0] for root in (tmp_path, features))
    np.testing.assert_allclose(halved, whole, rtol=2e-3, atol=2e-3)


# --- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_two_rates_from_one_decode_give_the_bytes_of_two_decodes(world, tmp_path, monkeypatch, workers):
    params, _ = world
    run(with_workers(params, workers), tmp_path, names=["flow", "slow"])
    for name in ("flow", "slow"):
        assert files_of(world, name, tmp_path) == files_of(world, name)


def test_a_video_that_breaks_after_the_last_frame_of_one_feature_fails_only_the_other(world, tmp_path, monkeypatch):
    # The last of 4 a second is at 2.875 s, the last of 12 at 2.958 s.
    def breaking(path, times, *rest):
        for number, frames in enumerate(iterate_frames(path, times, *rest)):
            if path.name == "2.webm" and times[number * 12 : number * 12 + 12].max() > 2.9:
                raise VideoError(path, "decode_error", "it breaks at 2.9 s")
            yield frames

    monkeypatch.setattr(rows, "DECODED_BYTES", 12 * 64 * 64 * 3)
    monkeypatch.setattr(rows, "iterate_frames", breaking)
    params = tolerant(world[0])
    manifests = run(params, tmp_path / "apart", names="flow"), run(params, tmp_path / "apart", names="slow")
    assert [manifest["counts"]["failed"] for manifest in manifests] == [1, 0]
    run(params, tmp_path / "fused", names=["flow", "slow"])
    assert contents(tmp_path / "fused") == contents(tmp_path / "apart")
    failed = store_of(world, "flow", tmp_path / "fused").failed
    assert list(failed) == ["2"] and "2.9 s" in failed["2"]


# --- what it reads ----------------------------------------------------------------------------------------------------


def test_a_sample_without_flow_has_no_i3d_and_says_why(world, tmp_path, monkeypatch):
    def broken(path, times, *rest):
        if path.name == "4.webm":
            raise VideoError(path, "decode_error", "it breaks")
        return iterate_frames(path, times, *rest)

    params = tolerant(world[0])
    monkeypatch.setattr(rows, "iterate_frames", broken)
    run(params, tmp_path, names="flow")
    monkeypatch.undo()
    run(params, tmp_path, names="i3d")
    failed = store_of(world, "i3d", tmp_path).failed
    assert list(failed) == ["4"] and failed["4"].startswith("flow: decode_error")


def test_flow_that_is_absent_or_of_other_videos_is_refused_with_the_remedy(world, tmp_path):
    params, _ = world
    with pytest.raises(StoreError, match="extract"):
        run(params, tmp_path, names="i3d")
    root = write_ssv2(tmp_path / "set", {"train": 2})
    params = params.model_copy(
        update={"datasets": {"small": params.datasets["small"].model_copy(update={"root": str(root)})}}
    )
    run(params, tmp_path, names="flow")
    write_clip(root / "2.webm", 99)
    with pytest.raises(StoreError, match=r"sample '2' was made from.*extract small/flow again"):
        run(params, tmp_path, names="i3d")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_flow_is_read_by_nobody_and_told_with_the_remedy_whoever_reads_it(world, tmp_path, workers):
    params, _ = world
    run(params, tmp_path, names="flow")
    store = feature_dir(params, "small", "flow", tmp_path)
    offsets = json.loads((store / "shard-000.json").read_bytes())["hdf5"]["offsets"]["flow"]
    flip(store / "shard-000.h5", offsets[2] + 5)
    with pytest.raises(StoreCorrupt, match=r"^.*sample '3', field 'flow' does not fit its crc32c; delete .*$"):
        run(with_workers(params, workers), tmp_path, names="i3d")


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["flow"], ["flow", "slow"]])
def test_a_ragged_extraction_killed_at_random_moments_ends_byte_for_byte_equal(world, tmp_path, names):
    params, _ = world
    make_manifest(params, tmp_path)
    kill_until_done(with_workers(params, 1), tmp_path, names, kills=4)
    for name in names:
        assert files_of(world, name, tmp_path) == files_of(world, name)


def test_a_video_cut_short_in_its_middle_by_a_kill_is_begun_again(world, tmp_path, monkeypatch):
    """The process dies at the second piece of the long video: of its batch, nothing is kept."""
    params, _ = world
    honest = lanes.RowLane._write

    def dies(self, piece, fields):
        if piece.sample == "3" and piece.start == PIECE:
            raise KeyboardInterrupt
        return honest(self, piece, fields)

    monkeypatch.setattr(lanes.RowLane, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path, names="flow")
    monkeypatch.undo()
    lines: list[str] = []
    run(params, tmp_path, lines, names="flow")
    assert "2 of 6 samples are there" in lines[0]
    assert files_of(world, "flow", tmp_path) == files_of(world, "flow")


def test_a_row_that_the_store_cannot_hold_fails_its_sample_by_name(world, tmp_path, monkeypatch):
    params = tolerant(world[0])
    honest = device.halving

    def spoilt(compute, batch):
        fields = {name: field.copy() for name, field in honest(compute, batch)().items()}
        if len(batch) == 170 - 2 * PIECE:
            fields["frames"][7, 0] = 1e6
        return lambda: fields

    run(params, tmp_path, names="flow")
    monkeypatch.setattr(lanes, "halving", spoilt)
    run(params, tmp_path, names="i3d")
    failed = store_of(world, "i3d", tmp_path).failed
    assert list(failed) == ["3"] and "does not fit float16" in failed["3"]


@pytest.mark.slow
@pytest.mark.parametrize("names", [["flow"], ["flow", "slow"]], ids=["alone", "two rates"])
def test_whatever_one_video_s_bytes_raise_is_that_sample_s_failure(world, tmp_path, monkeypatch, names):
    params, _ = world

    def breaking(path, *given):
        for number, frames in enumerate(iterate_frames(path, *given)):
            if path.name == "3.webm" and number == 1:
                raise IndexError("out of range")
            yield frames

    monkeypatch.setattr(rows, "iterate_frames", breaking)
    for name in names:
        monkeypatch.setitem(params.features, name, params.features[name].model_copy(update={"max_failed": 0.2}))
    run(params, tmp_path, names=names)
    for name in names:
        store = store_of(world, name, tmp_path)
        if name == "slow":  # all of its 56 rows came before the error, as they do where it is extracted alone
            assert store.samples == ["1", "2", "3", "4", "5", "6"] and not store.failed
        else:
            assert store.samples == ["1", "2", "4", "5", "6"] and "IndexError" in store.failed["3"]


def test_time_stamps_that_promise_more_rows_than_any_video_has_fail_their_sample(world, tmp_path, monkeypatch):
    params, _ = world
    make_manifest(params, tmp_path)
    path = tmp_path / "small" / "manifest.parquet"
    frame = read_manifest(path)
    frame.loc[frame["sample"] == "3", "duration"] = 1e12
    write_manifest(frame, path)
    monkeypatch.setitem(params.features, "flow", params.features["flow"].model_copy(update={"max_failed": 0.2}))
    extract(params, "small", "flow", 0, tmp_path, lambda line: None)
    assert "time stamps span 1e+12 s, too long at 12 rows a second" in store_of(world, "flow", tmp_path).failed["3"]


def test_a_video_of_a_shape_that_its_backbone_cannot_take_fails_alone_and_a_fault_of_all_shapes_ends_the_job():
    class Backbone:
        fields = {"flow": ((None, 4, 8), "float32")}  # noqa: RUF012

        def __init__(self, *sides):
            self.stream_sizes = {"rgb": (3, *sides)}

        def rows(self, streams):
            if streams["rgb"].shape[-1] > 9:
                raise RuntimeError("too wide")
            return {"flow": streams["rgb"][:, 0].float()}

    def lane(backbone):
        writer = SimpleNamespace(pending=["a", "b", "c"])
        return lanes.RowLane(
            Device(Compute(device="cpu")),
            "flow",
            SimpleNamespace(batch=2),
            backbone,
            writer,
            [SimpleNamespace(sample=s) for s in "abc"],
        )

    def piece(sample, width, start=0):
        return Piece(0, sample, 4, start, 5.0, Rows({"rgb": torch.zeros(2, 3, 4, width)}, (0, 0)))

    taken = [(sample, width, start) for sample, width in (("a", 8), ("b", 12), ("c", 8)) for start in (0, 2)]
    varying = lane(Backbone(None, None))
    told = [task.args for one in taken for task in varying.take(piece(*one))]
    assert [(args[0].sample, args[0].reason) for args in told] == [
        ("a", ""), ("a", ""), ("b", "RuntimeError: too wide"), ("c", ""), ("c", "")
    ]  # fmt: skip
    fixed = lane(Backbone(4, 8))
    with pytest.raises(RuntimeError, match="too wide"):
        list(fixed.take(piece("b", 12)))


def test_memory_does_not_grow_with_the_length_of_a_video(world, tmp_path):
    """Once it has taken what a few pieces need, a process that makes 120 MB more of them grows no further."""
    write_clip(tmp_path / "long.webm", 1, frames=4000, size=128)
    feature = world[0].features["i3d"].model_copy(update={"preprocess": Preprocess(resize=(128, 128))})
    view = RowView(feature, backbones.preprocessor(feature), frozenset({"long"}), (8, 7), {"rgb": (3, 128, 128)})
    facts = asdict(probe(tmp_path / "long.webm"))
    source = RowSource(tmp_path, [ShardSample("long", "", "long.webm", facts, "ok")], [view])
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            messages = source.messages(0)
            rows = sum(len(piece.rows) for piece in islice(messages, 24))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            rows += sum(len(piece.rows) for piece in messages)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(writer, f"{rows} {grown}".encode())
        finally:
            os._exit(0)
    os.wait()
    rows_seen, grown = map(int, os.read(reader, 99).split())
    assert rows_seen == 4000 and grown < 40 << 10  # KiB
