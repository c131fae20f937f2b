"""Claims about what is shown of a sample: the crop that its feature saw, at the time asked for, or why nothing is."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.config import file_digest
from pipeline.explanation.pictures import NotShown, Pictures, thumbnail
from pipeline.explanation.space import runs, some, worth_showing
from pipeline.video import read_frames
from tests.conftest import write_clip
from tests.training.learnable import frame, made_params


@pytest.fixture
def clips(tmp_path):
    """Three samples: one that is there, one that is cut, one that is not there."""
    write_clip(tmp_path / "validation-falling-0.webm", seed=1, frames=48)
    whole = (tmp_path / "validation-falling-0.webm").read_bytes()
    (tmp_path / "validation-rising-0.webm").write_bytes(whole[: len(whole) // 2])
    params = made_params()
    dataset = params.datasets["made"].model_copy(update={"root": str(tmp_path), "videos": "."})
    patches = params.features["patches"]
    cropped = patches.preprocess.model_copy(update={"resize": 64, "crop": (32, 48)})
    features = params.features | {"patches": patches.model_copy(update={"preprocess": cropped})}
    params = params.model_copy(update={"datasets": {"made": dataset}, "features": features})
    table = frame({"validation": 1})
    for number, path in enumerate(table["path"]):
        if (tmp_path / path).exists():
            table.loc[number, "digest"] = file_digest(tmp_path / path)
            table.loc[number, "bytes"] = (tmp_path / path).stat().st_size
    return SimpleNamespace(root=tmp_path, of=Pictures(params, "made", "patches", table, table["sample"]))


def test_frames_are_the_crop_that_the_feature_saw_at_these_times(clips):
    shown = clips.of.frames("validation-falling-0", [0.5, 3.0])
    whole = read_frames(clips.root / "validation-falling-0.webm", [0.5, 3.0])
    assert shown.shape == (2, 32, 48, 3) and shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - whole[:, 16:48, 8:56]).max() <= 1


@pytest.mark.parametrize(("sample", "why"), [("rising", "rising-0.webm"), ("sitting", "sitting-0.webm is not there")])
def test_a_file_that_is_broken_or_gone_is_named(clips, sample, why):
    with pytest.raises(NotShown, match=why):
        clips.of.frames(f"validation-{sample}-0", [0.5, 3.5])


def test_a_file_that_was_replaced_since_the_manifest_is_not_shown(clips):
    write_clip(clips.root / "validation-falling-0.webm", seed=2, frames=48)
    with pytest.raises(NotShown, match=r"falling-0\.webm: replaced"):
        clips.of.frames("validation-falling-0", [0.5, 3.0])


def test_a_thumbnail_is_a_small_jpeg():
    picture = np.random.default_rng(0).integers(0, 255, (120, 240, 3), dtype=np.uint8)
    kind, data = thumbnail(picture).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg;base64" and image.format == "JPEG" and image.size == (80, 40)


def test_errors_are_shown_first_then_every_class_in_turn():
    labels = np.repeat([0, 1, 2], 10)
    predicted = labels.copy()
    predicted[[4, 25]] = 9
    assert worth_showing(labels, predicted, 2) == [4, 25]
    assert worth_showing(labels, predicted, 8) == [0, 1, 4, 10, 11, 20, 21, 25]
    assert worth_showing(labels, predicted, 100) == list(range(30))


def test_some_of_many_points_keep_their_order_and_follow_from_the_seed():
    names = [str(number) for number in range(50)]
    few = some(names, 3, most=10)
    assert len(few) == 10 and few == sorted(few, key=names.index) == some(names, 3, most=10)
    assert few != some(names, 4, most=10) and some(names, 3) == names


def test_segments_are_runs_of_one_label_and_unlabelled_frames_are_none():
    assert runs(np.array([2, 2, 3, -1, -1, 3])) == [(0, 2), (2, 3), (5, 6)]
    assert runs(np.array([], dtype=int)) == []
