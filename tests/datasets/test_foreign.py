"""Claims about somebody else's layout: named in params, it is read, checked, planned and extracted as ours are."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import plugins
from pipeline.cli import app
from pipeline.config import Annotations, Dataset, Layout, ParamsError, load_params, parse_params
from pipeline.datasets import DatasetError, build_manifest, quality_markdown, read_manifest
from pipeline.datasets.labels import Labels
from pipeline.plan import Plan
from pipeline.store import FeatureStore
from tests.datasets.made_up import picture

ROOT = Path(__file__).parents[2]


class Leaves(Layout):
    """leaves.csv: a picture, what it shows and its split a line; pictures below `videos`."""

    kind = "image"
    takes = frozenset({"csv"})

    def files(self, dataset):
        path = Path(dataset.root, dataset.csv)
        if not path.is_file():
            raise DatasetError(f"{path} does not exist; correct csv of the data set in params")
        return [path]

    def annotations(self, dataset):
        (path,) = self.files(dataset)
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        names, labels, splits = zip(*rows, strict=True)
        return Annotations(
            {"sample": names, "path": [f"{name}.png" for name in names], "label": labels, "split": splits}
        )


class Steps(Layout):
    """A layout of videos whose frames have labels."""

    kind, labelled = "video", True

    def files(self, dataset):
        return []

    def annotations(self, dataset):
        return Annotations({"sample": ["a", "b"], "path": None, "split": "train"})

    def labels(self, dataset, samples):
        return Labels(["cut", "peel"], {sample: [{"label": "cut", "frames": 3}] for sample in samples})


class Astray(Leaves):
    """What a test tells it to give."""

    columns: dict = {}  # noqa: RUF012

    def annotations(self, dataset):
        return Annotations(self.columns) if isinstance(self.columns, dict) else self.columns


class Unwritten(Layout):
    kind = "image"


class OfFilms(Leaves):
    kind = "film"


class Greedy(Leaves):
    takes = frozenset({"csv", "shard_size"})


NAMES = [f"leaf{i}" for i in range(4)]


@pytest.fixture
def leaves(tmp_path, monkeypatch) -> dict:
    """A project with four pictures, and its params."""
    monkeypatch.chdir(tmp_path)
    Path("weights").symlink_to(ROOT / "weights")
    Path("set/pictures").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        picture(number).save(f"set/pictures/{name}.png")
    lines = [f"{name},{'oak' if i % 2 else 'ash'},{'train' if i < 3 else 'test'}\n" for i, name in enumerate(NAMES)]
    Path("set/leaves.csv").write_text("".join(lines), encoding="utf-8")
    described = {"layout": f"{__name__}:Leaves", "root": "set", "videos": "pictures", "csv": "leaves.csv"}
    feature = {
        "backbone": "dinov3",
        "weights": {"path": "weights/mini-dinov3"},
        "sampling": {"frames": 1},
        "preprocess": {"resize": [128, 128]},
    }
    alone = {"threads": 1, "decode_workers": 0}
    document = {
        "compute": alone,
        "datasets": {"leaves": {**described, "features": ["embedded"]}},
        "features": {"embedded": feature},
    }
    Path("params.yaml").write_text(json.dumps(document), encoding="utf-8")
    return document


def dataset(name: str, **fields) -> Dataset:
    return parse_params({"datasets": {"set": {"layout": name, "root": "set", **fields}}}).datasets["set"]


def test_a_foreign_layout_gives_a_manifest_a_report_a_plan_and_features(leaves):
    assert CliRunner().invoke(app, ["manifest", "leaves"], catch_exceptions=False).exit_code == 0
    frame = read_manifest(Path("features/leaves/manifest.parquet"))
    assert frame["sample"].tolist() == NAMES and frame["label"].tolist() == ["ash", "oak", "ash", "oak"]
    assert frame["status"].tolist() == ["ok"] * 4 and frame["split"].tolist() == ["train"] * 3 + ["test"]
    assert "4 pictures" in Path("features/leaves/quality.md").read_text(encoding="utf-8")

    params = load_params("params.yaml")
    plan = Plan(params)
    assert plan.annotation_files("leaves") == ["set/leaves.csv", __file__], "edited, the layout makes the manifest anew"
    assert plan.shards("leaves") == [0] and plan.features("leaves") == ("embedded",)
    assert load_params(plan.part(dataset="leaves", features=("embedded",))).datasets["leaves"].kind == "image"
    assert not plan.standing("leaves", executes=False).stale

    assert CliRunner().invoke(app, ["extract", "leaves", "embedded"], catch_exceptions=False).exit_code == 0
    store = FeatureStore(Path(plan.shard_path("leaves", "embedded", 0)).parent)
    assert len(store.read(NAMES, next(iter(store.fields)))) == 4


def test_a_foreign_layout_may_label_frames_and_have_no_videos(tmp_path):
    frame, quality = build_manifest(dataset(f"{__name__}:Steps", root=str(tmp_path), videos=None))
    assert frame["segments"].tolist() == [[{"label": "cut", "frames": 3}]] * 2
    assert frame.attrs["classes"] == ["cut", "peel"] and "peel" in quality_markdown(quality)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package that offers a layout, and whose module is edited by the test."""
    info = tmp_path / "site/leaf_reader-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaf-reader\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[permafrost.layouts]\nleaves = leaf_reader:Leaves\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._offered.cache_clear()
    yield tmp_path / "site/leaf_reader.py"
    plugins._offered.cache_clear()
    sys.modules.pop("leaf_reader", None)


def test_an_installed_package_offers_its_layout_by_a_word(installed):
    installed.write_text(
        f"from {__name__} import Leaves as Ours\n\n\nclass Leaves(Ours):\n    pass\n", encoding="utf-8"
    )
    assert dataset("leaves", csv="leaves.csv").kind == "image"


def test_a_package_that_breaks_when_it_is_imported_is_one_line(installed):
    installed.write_text("raise RuntimeError('no licence')\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"layout leaf_reader:Others cannot be imported: RuntimeError: no licence"):
        dataset("leaf_reader:Others")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ssv3", "layout 'ssv3' is none of ssv2, images, .*; correct it, install the package that offers it"),
        ("no_such_package.reader:Leaves", "No module named .no_such_package.; install the package"),
        (f"{__name__}:Leafs", "has no Leafs; correct the name"),
        (f"{__name__}:picture", r"is no layout; derive the class from pipeline\.config\.layouts\.Layout"),
        (f"{__name__}:DatasetError", r"is no layout; derive the class from"),
        (f"{__name__}:Unwritten", r"lacks annotations, files; pipeline\.config\.layouts\.Layout says what it gives"),
        (f"{__name__}:OfFilms", "its kind is 'film', expected one of video, image, text"),
        (f"{__name__}:Greedy", r"it takes \['shard_size'\], of a data set's background, class_lists, columns, csv, "),
        ("a b:Leaves", "is no place of code; write my_package.module:Name"),
        (":Leaves", "is no place of code"),
    ],
    ids=str,
)
def test_what_is_no_layout_is_one_line_when_params_are_read(name, message):
    with pytest.raises(ParamsError, match=f"^params.yaml cannot be used:\n  datasets.set.layout: .*{message}") as error:
        dataset(name)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "field", "value", "whose"),
    [
        ("ssv2", "csv", "list.csv", "clinic"),
        ("images", "background", ["SIL"], "mstcn and egoprocel and epic"),
        ("clinic", "label_fps", 12.0, "mstcn and egoprocel and epic"),
        ("texts", "class_lists", {"unseen": "unseen.txt"}, "mstcn and egoprocel and epic"),
        (f"{__name__}:Steps", "masks", "masks", "images and waterbirds"),
    ],
)
def test_a_field_that_a_layout_does_not_read_is_refused_when_params_are_read(name, field, value, whose):
    with pytest.raises(ParamsError, match=f"{field} is for the layouts {whose}, got {name}; remove it"):
        dataset(name, **{field: value})


GOOD = {"sample": ["a", "b"], "path": ["a.png", "b.png"], "split": "train"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (GOOD | {"sample": ["a", "a"]}, "gives the sample 'a' twice; give each once there"),
        ({name: GOOD[name] for name in ("sample", "path")}, "gives no column split; add it there"),
        ({name: GOOD[name] for name in ("sample", "split")}, "gives no column path; add it there"),
        ({name: GOOD[name] for name in ("path", "split")}, "gives no samples; give the column sample"),
        (GOOD | {"path": ["a.png"]}, "gives 1 values of path for 2 samples; give one a sample there"),
        (GOOD | {"sample": ["a", 7]}, "gives the sample 7 of 7; give text there"),
        (GOOD | {"label": ["oak", 7]}, "gives the label 7 of 'b'; give text or None there"),
        (GOOD | {"path": ["a.png", None]}, "gives the path None of 'b'; give text there"),
        (GOOD | {"path": ["a.png", "../b.png"]}, r"gives the path '\.\./b\.png'; give one below the data set's folder"),
        (GOOD | {"path": ["a.png", "/b.png"]}, "gives the path '/b.png'; give one below the data set's folder"),
        ([GOOD], r"gives a list; return pipeline\.config\.Annotations there"),
    ],
    ids=str,
)
def test_what_a_layout_must_not_give_is_one_line(monkeypatch, columns, message):
    monkeypatch.setattr(Astray, "columns", columns)
    with pytest.raises(DatasetError, match=f"layout {__name__}:Astray of the data set in set {message}") as error:
        build_manifest(dataset(f"{__name__}:Astray"))
    assert "\n" not in str(error.value)


def test_a_layout_that_is_labelled_gives_labels(monkeypatch, tmp_path):
    monkeypatch.setattr(Steps, "labels", lambda self, dataset, samples: {})
    with pytest.raises(DatasetError, match=r"Steps is labelled, but its labels are a dict; return pipeline\.datasets"):
        build_manifest(dataset(f"{__name__}:Steps", root=str(tmp_path), videos=None))
