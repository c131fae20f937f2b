"""The pydantic models of params.yaml and the content keys. Knows no torch, no store and no head's code.

Every choice a person may make is a field here, and nowhere else. Unknown keys and wrong types are refused with the
key's dotted name before any job starts. A content key is the sha256 of canonical JSON of whatever determines bytes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Bumped by hand when the extraction code changes what it writes; tests/test_config.py pins it to the source.
EXTRACTOR_VERSION = 1

KEY_LENGTH = 10
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class ParamsError(ValueError):
    """A params document that cannot be used; the message names the key and the remedy."""


class Strict(BaseModel):
    """Refuses unknown keys and silent casts; immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- how it runs: nothing here may change a number beyond the last bits of floating point -----------------------------


class Compute(Strict):
    """The machine's share. Threads are fixed, not taken from the scheduler, because they decide the order of sums.

    `threads` serves training and evaluation; `extract_threads` each extraction job, of which several run side by side.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 2
    extract_threads: Positive = 1
    decode_workers: Annotated[int, Field(ge=0)] = 1
    cache_memory_gb: Annotated[float, Field(ge=0)] = 2.0
    devices: Positive = 1
    strategy: Literal["auto", "ddp"] = "auto"


# --- stage 1 ----------------------------------------------------------------------------------------------------------


class ToySSv2(Strict):
    """Sizes of the rendered toy-ssv2 set; counts are videos a template."""

    train: Positive
    validation: Positive
    test: Positive
    size: Positive
    frames: tuple[Positive, Positive]
    fps: Positive


class Toyworld(Strict):
    seed: int
    ssv2: ToySSv2


class Dataset(Strict):
    """A data set on disk. `root` is where this machine keeps it: it enters no key."""

    layout: Literal["ssv2"]
    root: str
    videos: str = "."
    extension: str = ".webm"
    made_by: Literal["toyworld"] | None = None
    shard_size: Annotated[int, Field(ge=1, le=4096)] = 256
    allow_links: bool = False


class Weights(Strict):
    """Where a backbone's weights come from: exactly one of a local path, a hub id + revision, or random + seed."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    random: int | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Weights":
        given = [name for name in ("path", "hub", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"weights need exactly one of path, hub or random, got {given or 'none'}")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("weights from a hub need both hub and revision, so that they cannot change underneath")
        return self


class Sampling(Strict):
    """`frames` timestamps at the centres of that many equal segments of the video."""

    frames: Positive


class Preprocess(Strict):
    """Geometry on native RGB: resize to [height, width], then centre crop to [height, width]."""

    resize: tuple[Positive, Positive]
    crop: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocess":
        if self.crop and (self.crop[0] > self.resize[0] or self.crop[1] > self.resize[1]):
            raise ValueError(f"crop {list(self.crop)} is larger than resize {list(self.resize)}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the backbone sees."""
        return self.crop or self.resize

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The part of the frame that is seen, as (top, left, bottom, right) fractions of its height and width."""
        # Rounded as torchvision and transformers round a centre crop.
        starts = [round((full - seen) / 2) for full, seen in zip(self.resize, self.size, strict=True)]
        sides = [(a / full, (a + seen) / full) for a, full, seen in zip(starts, self.resize, self.size, strict=True)]
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


class Feature(Strict):
    """What every feature declares: together with its backbone's own fields it determines the stored bytes."""

    weights: Weights
    sampling: Sampling
    preprocess: Preprocess
    decoder: Literal["decord", "pyav"] = "decord"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: Positive = 16
    max_failed: Fraction = 0.01

    @property
    def keyed(self) -> dict[str, Any]:
        """The fields that determine the bytes (the tolerance for failures does not)."""
        return self.model_dump(mode="json", exclude={"weights", "max_failed"})


class DinoV3Feature(Feature):
    """DINOv3 patch tokens, a CLS token beside them. `pool` averages pool x pool patches into one token."""

    backbone: Literal["dinov3"]
    pool: Literal[1, 2] = 1


class R3D18Feature(Feature):
    """The token grid of R3D-18's layer 4; `atrous` trades its temporal stride for dilation, weights unchanged."""

    backbone: Literal["r3d18"]
    atrous: bool = True


AnyFeature = Annotated[DinoV3Feature | R3D18Feature, Field(discriminator="backbone")]


# --- stage 2 ----------------------------------------------------------------------------------------------------------


class GasmCastModel(Strict):
    """Constructor arguments of heads.gasm_cast.GasmCast that do not follow from the data (spec: docs of that class)."""

    fusion: Literal["cast", "vanilla", "concat", "semantic", "motion", "probe"]
    layers: Positive
    width: Positive
    attention_heads: Positive
    bottleneck: Positive
    window: Literal["cell", "full"]
    graph: Literal["full", "spatial", "none"]
    radii: tuple[int, ...]
    semantic_neighbours: Annotated[int, Field(ge=0)]
    motion_neighbours: Annotated[int, Field(ge=0)]
    dropout: Fraction
    token_dropout: Fraction


class GasmCastFeatures(Strict):
    semantic: Name
    motion: Name


class GasmCastHead(Strict):
    """The gasm_cast head: what it reads, its model, its training, its result file."""

    dataset: Name
    features: GasmCastFeatures
    result: Name
    seed: int
    model: GasmCastModel
    lr: Annotated[float, Field(gt=0, description="peak learning rate per 256 samples of batch")]
    batch_size: Positive
    epochs: Positive
    warmup_epochs: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    label_smoothing: Fraction
    mixup: Annotated[float, Field(ge=0, description="alpha of the Beta distribution; 0 is off")]
    ema_decay: Fraction
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    patience: Annotated[int, Field(gt=0, description="epochs without a better early-stopping accuracy")]
    holdout: Annotated[float, Field(gt=0, lt=1, description="share of train carved out for early stopping")]
    train_split: str
    eval_split: str
    bootstrap: Positive
    calibration_bins: Positive


class Heads(Strict):
    gasm_cast: GasmCastHead | None = None

    def items(self) -> list[tuple[str, Any]]:
        """(name, head) of the heads that are declared."""
        return [(name, getattr(self, name)) for name in type(self).model_fields if getattr(self, name) is not None]


class Ablation(Strict):
    """A named list of overrides of one head; every variant is trained with every seed and becomes a table row."""

    head: Name
    seeds: Annotated[list[int], Field(min_length=1)]
    variants: dict[Name, dict[str, Any]]


class Params(Strict):
    """The whole of params.yaml. A part of it (one data set, one feature, one head) is a params document too."""

    compute: Compute = Compute()
    toyworld: Toyworld | None = None
    datasets: dict[Name, Dataset] = {}
    features: dict[Name, AnyFeature] = {}
    heads: Heads = Heads()
    ablations: dict[Name, Ablation] = {}

    @model_validator(mode="after")
    def _names_resolve(self) -> "Params":
        for name, head in self.heads.items():
            _must_exist(f"heads.{name}.dataset", head.dataset, self.datasets, "datasets")
            for role, feature in head.features.model_dump().items():
                _must_exist(f"heads.{name}.features.{role}", feature, self.features, "features")
        for name, ablation in self.ablations.items():
            _must_exist(f"ablations.{name}.head", ablation.head, dict(self.heads.items()), "heads")
            for variant, overrides in ablation.variants.items():
                try:
                    override(self.head(ablation.head), overrides)
                except ParamsError as error:
                    raise ValueError(f"ablations.{name}.variants.{variant}: {error}") from None
        for name, dataset in self.datasets.items():
            if dataset.made_by == "toyworld":
                if self.toyworld is None:
                    raise ValueError(f"datasets.{name}.made_by is toyworld, but the section toyworld is missing")
                if dataset.root != f"data/{name}":
                    raise ValueError(
                        f"datasets.{name}.root must be data/{name}, where toyworld renders, got {dataset.root}"
                    )
        return self

    def head(self, name: str) -> Any:
        """The head's sub-tree. Raises KeyError for a head that is not declared."""
        return dict(self.heads.items())[name]

    def part(self, *, dataset: str | None = None, features: tuple[str, ...] = (), head: str | None = None) -> str:
        """Canonical JSON of the smallest params document that holds the named parts: what one rule may see.

        `compute` is always part of it: a job that another machine's threads trigger finds its work done.

        Args:
            dataset: name of a data set, or None.
            features: names of features.
            head: name of a head; its data set and features come along.
        """
        document: dict[str, Any] = {"compute": self.compute.model_dump(mode="json")}
        if head is not None:
            chosen = self.head(head)
            dataset, features = chosen.dataset, tuple(chosen.features.model_dump().values())
            document["heads"] = {head: chosen.model_dump(mode="json")}
        if dataset is not None:
            document["datasets"] = {dataset: self.datasets[dataset].model_dump(mode="json")}
            if self.datasets[dataset].made_by == "toyworld" and self.toyworld is not None:
                document["toyworld"] = self.toyworld.model_dump(mode="json")
        if features:
            document["features"] = {name: self.features[name].model_dump(mode="json") for name in features}
        return canonical_json(document)


def _must_exist(key: str, name: str, known: Mapping[str, Any], section: str) -> None:
    if name not in known:
        raise ValueError(f"{key} names {name!r}, which is not in {section}: known are {sorted(known) or 'none'}")


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_params(document: Mapping[str, Any], origin: str = "params.yaml") -> Params:
    """Validates a params document.

    Args:
        document: what the YAML or JSON file holds.
        origin: named in errors.

    Raises:
        ParamsError: one line a mistake, each with the dotted key, what was found and what is wanted.
    """
    try:
        # JSON mode, so that YAML's lists become the tuples that strict mode would refuse as Python objects.
        return Params.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ParamsError(f"{origin} cannot be used:\n" + "\n".join(map(_sentence, error.errors()))) from None
    except TypeError as error:
        raise ParamsError(f"{origin} holds something that JSON cannot: {error}") from None


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "(whole document)"
    if error["type"] == "extra_forbidden":
        return f"  {key}: unknown key; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"  {key}: required, but absent"
    if error["type"] == "value_error":
        return f"  {key}: {error['ctx']['error']}"
    return f"  {key}: {error['msg']}, got {error['input']!r}"


def load_params(source: str | Path) -> Params:
    """Reads params from a YAML file, or from a literal JSON document (a string that starts with a brace).

    Raises:
        ParamsError: the file is absent, is not YAML, or does not fit the models.
    """
    text, origin = str(source), str(source)
    if text.lstrip().startswith("{"):
        return parse_params(json.loads(text), "the params document on the command line")
    try:
        document = yaml.safe_load(Path(source).read_text())
    except FileNotFoundError:
        raise ParamsError(
            f"{origin} does not exist; run from the project's root or name a file with --params"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{origin} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{origin} must hold a mapping at its top, got {type(document).__name__}")
    return parse_params(document, origin)


def override(head: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a head's sub-tree with dotted keys replaced: {"model.fusion": "concat", "seed": 1}.

    Raises:
        ParamsError: a key that the head does not have, or a value of the wrong type.
    """
    document = head.model_dump(mode="json")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        node = document
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ParamsError(f"{dotted}: unknown key; remove it or correct its spelling")
        node[last] = value
    try:
        return type(head).model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ParamsError("; ".join(_sentence(item).strip() for item in error.errors())) from None


# --- content keys -----------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal content, equal text, whatever the order in the YAML."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(value: Any) -> str:
    """The first 10 hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _remembered_digest(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file, remembered on disk under the user's cache by path, size and mtime: weights can be gigabytes."""
    memory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "permafrost" / "digests"
    entry = memory / hashlib.sha256(f"{path}\0{size}\0{mtime_ns}".encode()).hexdigest()
    if size < 1 << 20:
        return file_digest(path)
    if entry.exists():
        return entry.read_text()
    digest = file_digest(path)
    memory.mkdir(parents=True, exist_ok=True)
    scratch = entry.with_suffix(f".{os.getpid()}")
    scratch.write_text(digest)
    scratch.replace(entry)
    return digest


def weights_digest(weights: Weights) -> str:
    """What identifies the weights' content: sha256 of the files, `hub@revision`, or `random:<seed>`.

    Raises:
        ParamsError: a local path that does not exist.
    """
    if weights.random is not None:
        return f"random:{weights.random}"
    if weights.hub is not None:
        return f"{weights.hub}@{weights.revision}"
    path = Path(str(weights.path))
    if not path.exists():
        raise ParamsError(
            f"weights {path} do not exist; correct the path, or see docs/real-data.md for how to get them"
        )
    # Only what a loader reads counts: a model card edited beside the weights changes nothing.
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.glob("*") if file.suffix in (".json", ".safetensors", ".txt"))
    )
    parts = {}
    for file in files:
        status = file.stat()
        parts[file.name if path.is_dir() else ""] = _remembered_digest(
            file.resolve(), status.st_size, status.st_mtime_ns
        )
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def feature_key(feature: Any) -> str:
    """The key of a feature: backbone, weights, preprocessing, sampling, decoder, batch, store layout, code version."""
    return content_key({"extractor": EXTRACTOR_VERSION, "weights": weights_digest(feature.weights), **feature.keyed})


def code_digest(*paths: str) -> str:
    """sha256 of Python sources of this package: modules or folders, named relative to it, "." for all of it."""
    package = Path(__file__).parent
    files = [
        file
        for path in paths
        for file in (
            (package / path).rglob("*.py") if (package / path).is_dir() else [(package / path).with_suffix(".py")]
        )
    ]
    digests = {str(file.relative_to(package)): file_digest(file) for file in files}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def feature_dir(params: Params, dataset: str, feature: str, root: Path = Path("features")) -> Path:
    """features/<dataset>/<feature>-<key>: where the shards of a feature of a data set lie."""
    return root / dataset / f"{feature}-{feature_key(params.features[feature])}"
