"""Optical flow: known motions come back, no motion is exactly 128, and RAFT's files are read or refused by name."""

import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from pipeline.backbones import BackboneError
from pipeline.backbones.base import seeded
from pipeline.config import FlowFeature, Weights
from tests.later import Later

flow = Later("pipeline.backbones.flow")
i3d = Later("pipeline.backbones.i3d")
optical_flow = Later("torchvision.models.optical_flow")
states = Later("pipeline.backbones.states")

CPU = torch.device("cpu")
METHODS = ("tvl1", "dis", "farneback")


def flow_feature(method, resize=(64, 80), crop=None, **fields):
    preprocess = {"resize": resize, "crop": crop}
    return FlowFeature(backbone="flow", method=method, sampling={"fps": 25.0}, preprocess=preprocess, **fields)


def picture(height=64, width=80, seed=0, margin=24):
    """Smooth noise, larger than what is shown of it by a margin on each side; (H, W, 3) float in [0, 255]."""
    noise = np.random.default_rng(seed).normal(size=(height + 2 * margin, width + 2 * margin, 3))
    smooth = gaussian_filter(noise, (1.5, 1.5, 0))
    return (smooth - smooth.min()) / np.ptp(smooth) * 255


def translated(steps, size=(64, 80), seed=0, margin=24):
    """Frames of one picture whose content stands `steps` (x, y) to the right and below; (T, 3, H, W) uint8."""
    base, (rows, columns) = picture(*size, seed, margin), np.mgrid[: size[0], : size[1]]
    frames = [
        np.stack(
            [
                map_coordinates(base[..., c], [rows + margin - y, columns + margin - x], order=3, mode="nearest")
                for c in range(3)
            ]
        )
        for x, y in steps
    ]
    return torch.from_numpy(np.rint(np.clip(frames, 0, 255)).astype(np.uint8))


# --- what flow means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("x", "y"), [(1.5, -0.75), (-3.25, 2.0)])
def test_a_translation_is_found_within_a_tenth_of_a_pixel(method, x, y):
    out = flow.Flow(flow_feature(method, crop=(40, 48), bound=8.0), CPU).rows({"rgb": translated([(0, 0), (x, y)])})[
        "flow"
    ]
    found = i3d.dequantised_flow(out[0]) * 8.0
    assert out.shape == (1, 2, 40, 48) and out.dtype == torch.uint8
    assert found[0].median().item() == pytest.approx(x, abs=0.1)
    assert found[1].median().item() == pytest.approx(y, abs=0.1)
    assert (found - torch.tensor([x, y]).view(2, 1, 1)).abs().quantile(0.9) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_row_t_is_the_motion_from_frame_t_to_the_next(method):
    frames = translated([(0, 0), (2, 0), (2, 0), (2, 3)])
    rows = flow.Flow(flow_feature(method, crop=(40, 48)), CPU).rows({"rgb": frames})["flow"]
    found = i3d.dequantised_flow(rows).mul(20).flatten(2).median(dim=2).values
    np.testing.assert_allclose(found, [[2, 0], [0, 0], [0, 3]], atol=0.2)
    for t in range(3):
        alone = flow.Flow(flow_feature(method, crop=(40, 48)), CPU).rows({"rgb": frames[t : t + 2]})["flow"]
        assert torch.equal(alone[0], rows[t])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bound", [20.0, 0.5])
def test_no_motion_is_exactly_128_everywhere(method, bound):
    frame = translated([(0, 0)])
    rows = flow.Flow(flow_feature(method, bound=bound), CPU).rows({"rgb": frame.expand(3, -1, -1, -1)})["flow"]
    assert rows.shape == (2, 2, 64, 80) and (rows == 128).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_frames_give_the_same_bytes_in_a_pickled_copy_too(method):
    frames, one = translated([(0, 0), (1.3, 0.4)]), flow.Flow(flow_feature(method), CPU)
    first = one.rows({"rgb": frames})["flow"]
    assert one.runs_in_worker and one.context == (0, 1) and one.grid is None
    for again in (one, pickle.loads(pickle.dumps(one))):
        assert torch.equal(again.rows({"rgb": frames})["flow"], first)


def test_grey_is_what_opencv_calls_grey():
    frames, seen = translated([(0, 0), (1, 0)]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "grey_flow", lambda method: lambda a, b: seen.append(a) or np.zeros((64, 80, 2)))
        flow.Flow(flow_feature("dis"), CPU).rows({"rgb": frames})
    weighted = frames[0].permute(1, 2, 0).double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert seen[0].dtype == np.uint8 and np.abs(seen[0] - weighted.numpy()).max() <= 0.51


# --- quantisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [20.0, 8.0, 1.0])
def test_a_round_trip_is_off_by_half_a_step_at_most_and_clips_at_the_bound(bound):
    pixels = np.linspace(-1.5 * bound, 1.5 * bound, 4001)
    back = i3d.dequantised_flow(torch.from_numpy(flow.quantised(pixels, bound))).double().numpy() * bound
    inside = np.abs(pixels) <= bound
    assert np.abs(back - pixels)[inside].max() <= bound / 254 * (1 + 1e-6)
    assert (back[pixels < -bound] == -bound).all() and (back[pixels > bound] == bound).all()
    assert (flow.quantised(-pixels, bound).astype(int) + flow.quantised(pixels, bound) == 256).all()
    pixels = pixels.astype(np.float32)
    np.testing.assert_array_equal(
        flow.quantised_there(torch.from_numpy(pixels), bound).numpy(), flow.quantised(pixels, bound)
    )


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_flow_is_computed_on_the_whole_resized_frame_and_then_cropped(method):
    frames = translated([(0, 0), (2, 1)])
    whole, cropped = (
        flow.Flow(flow_feature(method, crop=crop), CPU).rows({"rgb": frames})["flow"] for crop in (None, (30, 41))
    )
    assert torch.equal(whole[..., 17:47, 19:60], cropped), "of 39 columns that are cut off, 19 in front"


def test_a_short_side_gives_frames_whose_shape_follows_the_video():
    feature = flow_feature("dis", resize=32, crop=(32, 32))
    one = flow.Flow(feature, CPU)
    assert one.stream_sizes == {"rgb": (3, None, None)} and one.fields == {"flow": ((None, 2, 32, 32), "uint8")}
    for size, wanted in (((60, 80), (32, 42)), ((80, 60), (42, 32))):
        clip = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
        pixels = pickle.loads(pickle.dumps(flow.FlowPixels(32)))(clip)
        assert pixels.shape == (2, 3, *wanted) and pixels.dtype == np.uint8
        assert one.rows({"rgb": torch.from_numpy(pixels)})["flow"].shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    "streams",
    [
        {},
        {"flow": torch.zeros(2, 3, 64, 80, dtype=torch.uint8)},
        {"rgb": torch.zeros(2, 3, 64, 80)},
        {"rgb": torch.zeros(1, 3, 64, 80, dtype=torch.uint8)},
        {"rgb": torch.zeros(2, 1, 64, 80, dtype=torch.uint8)},
        {"rgb": torch.zeros(2, 3, 64, 81, dtype=torch.uint8)},
    ],
)
def test_other_streams_are_refused(streams):
    with pytest.raises(BackboneError, match=r"uint8 with \{'rgb': \(3, 64, 80\)\} and two frames or more"):
        flow.Flow(flow_feature("dis"), CPU).rows(streams)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="unknown flow method 'magic': known are tvl1, dis, farneback"):
        flow.grey_flow("magic")


# --- RAFT -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    with seeded(1):
        torch.save(optical_flow.raft_small().state_dict(), file)
    return file


def test_raft_gives_torchvisions_flow_on_repeated_edges_and_equal_frames_none(small_file):
    feature = flow_feature("raft", resize=(60, 90), crop=(48, 64), weights={"path": str(small_file)}, batch=1)
    frames = translated([(0, 0), (1, 2), (1, 2), (4, 0)], (60, 90))
    one = flow.Flow(feature, CPU)
    rows = one.rows({"rgb": frames})["flow"]
    assert not one.runs_in_worker and rows.shape == (3, 2, 48, 64) and (rows[1] == 128).all()
    assert torch.equal(one.rows({"rgb": frames})["flow"], rows)
    model = optical_flow.raft_small().eval()
    model.load_state_dict(torch.load(small_file))
    padded = np.pad(frames.numpy(), ((0, 0), (0, 0), (34, 34), (19, 19)), mode="edge")
    scaled = torch.from_numpy(padded).float() / 127.5 - 1
    with torch.inference_mode():
        for t in (0, 2):
            theirs = model(scaled[t : t + 1], scaled[t + 1 : t + 2])[-1][0, :, 34 + 6 : 34 + 54, 19 + 13 : 19 + 77]
            assert np.abs(flow.quantised(theirs.numpy(), 20.0).astype(int) - rows[t].numpy()).max() <= 1


def test_sides_that_raft_can_take_are_left_as_they_are():
    assert [flow._raft_padding(side) for side in (128, 256, 340, 100)] == [(0, 0), (0, 0), (2, 2), (14, 14)]


def test_random_raft_is_large_and_follows_the_seed():
    one, same, other = (
        flow.Raft(Weights(random=seed), CPU).model.state_dict()["feature_encoder.convnormrelu.0.weight"]
        for seed in (3, 3, 4)
    )
    assert one.shape[0] == 64 and torch.equal(one, same) and not torch.equal(one, other)


def test_large_and_small_are_told_apart_by_their_stem(small_file, tmp_path):
    with seeded(2):
        torch.save(optical_flow.raft_large().state_dict(), tmp_path / "large.pth")
    for file, encoder in ((small_file, 128), (tmp_path / "large.pth", 256)):
        model = flow.Raft(Weights(path=str(file)), CPU).model
        assert model.feature_encoder.conv.out_channels == encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"w": torch.zeros(1)}, "not a state dict of RAFT.*absent.*give RAFT, large or small"),
        (lambda state: {**state, "extra": torch.zeros(1)}, "does not fit RAFT.*extra"),
    ],
)
def test_what_is_not_raft_is_refused_with_the_remedy(small_file, tmp_path, change, message):
    torch.save(change(torch.load(small_file)), tmp_path / "a.pth")
    with pytest.raises(BackboneError, match=f"(?s)a.pth.*{message}"):
        flow.Raft(Weights(path=str(tmp_path / "a.pth")), CPU)


def test_torchvisions_files_are_known_by_name_and_hash_and_fetched_with_the_hash_checked(monkeypatch, small_file):
    assert {"torchvision/Raft_Large_Weights.C_T_SKHT_V2", "torchvision/Raft_Small_Weights.C_T_V2"} <= set(flow.RAFT_HUB)
    assert states.revision_of(optical_flow.Raft_Large_Weights.C_T_SKHT_V2) == "ff5fadd5"
    asked, entry = {}, optical_flow.Raft_Small_Weights.C_T_V2

    def fetch(url, **options):
        asked.update(options, url=url)
        return torch.load(small_file)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    flow.Raft(Weights(hub=f"torchvision/{entry}", revision=states.revision_of(entry)), CPU)
    assert asked["url"] == entry.url and asked["check_hash"] and asked["weights_only"]


def test_another_revision_and_no_network_are_errors_with_the_remedy(monkeypatch):
    name = f"torchvision/{optical_flow.Raft_Small_Weights.C_T_V2}"
    with pytest.raises(BackboneError, match=f"@00000000 are unknown.*{name} .revision 01064c6d.*as weights.path"):
        flow.Raft(Weights(hub=name, revision="00000000"), CPU)

    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(BackboneError, match=r"no route to host.*give its path as weights\.path"):
        flow.Raft(Weights(hub=name, revision="01064c6d"), CPU)
