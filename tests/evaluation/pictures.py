"""A small world for NegAlign on disk: pictures in and out of distribution, classes, words; vectors instead of CLIP's.

Of the eight directions two are classes, three things that are no class, three places.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Params, override, parse_params
from pipeline.datasets.manifest import write_manifest
from pipeline.evaluation import evaluate
from pipeline.evaluation.negatives import mine_negatives
from pipeline.runs import Run
from pipeline.store import ShardWriter
from tests.training.learnable import digest, frame

CLASSES = ("gull", "sea lion")
THINGS = tuple(f"thing {i}" for i in range(12))
PLACES = tuple(f"place {i}" for i in range(9))
ADJECTIVES = ("red", "dark", "soft", "wild", "null", "nan")
WIDTH, GRID = 8, (3, 3)
SPLITS = {"train": 3, "val": 16, "test": 14}
OOD = {"empty": 20, "strange": 16}
FAILED = "test-3"
HEAD: dict[str, Any] = {
    "dataset": "birds",
    "features": {"image": "image", "cam": "cam"},
    "result": "made_ood",
    "seed": 0,
    "classes": {"dataset": "classes", "feature": "text"},
    "ood": {name: f"birds-{name}" for name in OOD},
    "words": {
        "dataset": "words",
        "feature": "text",
        "quantile": 0.95,
        "top_p": 0.9,
        "roles": {"plain": "plain", "object": "object", "background": "behind", "mode": "percentile", "value": 40.0},
    },
    "score": {"local": "p_align", "groups": 3, "scale": 6.0},
    "background": {"percentile": 60.0, "dilate": 0, "k_neg": 3},
    "lam": {"values": [0.0, 0.25, 0.5, 0.75, 1.0], "choose": "fixed", "fixed": 0.5},
    "reference_split": "val",
    "eval_split": "test",
    "bootstrap": 5,
}


class World(NamedTuple):
    """What mining and evaluating take."""

    params: Params
    root: Path
    stores: dict[str, Path]

    def changed(self, **changes: Any) -> "World":
        """Dotted params of the head replaced, __ for a dot."""
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return self._replace(params=self.params.replacing("negalign", override(self.params.head("negalign"), changes)))

    def run(self, folder: Path) -> Run:
        return Run(self.params, "negalign", self.root / "birds" / "manifest.parquet", self.stores, folder)

    def mined(self, folder: Path):
        return mine_negatives(self.run(folder))

    def evaluated(self, folder: Path, mined: bool = True) -> dict[str, Any]:
        if mined:
            self.mined(folder)
        return evaluate(self.run(folder), progress=lambda line: None)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def noisy(name: str, *directions: tuple[int, float], noise: float = 0.15) -> np.ndarray:
    """(8,) unit vector that follows from the name."""
    vector = noise * np.random.default_rng([*map(ord, name)]).normal(size=WIDTH)
    for axis, weight in directions:
        vector[axis] += weight
    return unit(vector).astype(np.float32)


def word(name: str) -> np.ndarray:
    """A text's embedding: by its number a thing (directions 2 to 4) or a place (5 to 7)."""
    if name.lower() in CLASSES:
        return noisy(name.lower(), (CLASSES.index(name.lower()), 1.0), noise=0.05)
    number = int(name.split()[1]) if " " in name else sum(map(ord, name))
    return noisy(name, ((5 if name.startswith("place") else 2) + number % 3, 1.0))


def towards(name: str, first: int) -> np.ndarray:
    """The same word in prompts that draw it to three directions."""
    return unit(word(name) + 0.8 * np.isin(np.arange(WIDTH), range(first, first + 3))).astype(np.float32)


def picture(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image (8,), map (9,) and patch_embed (9, 8) of a picture: what it shows in the middle, its place around."""
    random = np.random.default_rng([3, *map(ord, name)])
    kind, number = name.rsplit("/", 1)[0].split("-")[0], int(name.rsplit("-", 1)[1].split(".")[0])
    place = 5 + number % 3
    shown = {"empty": None, "strange": 2 + number % 3}.get(kind, number % 2)
    # An empty place reminds of a class now and then: what P_align is there to explain away.
    seen = [(number % 2, random.uniform(0.2, 0.7))] if shown is None else [(shown, random.uniform(0.5, 1.0))]
    image = noisy(name, *seen, (place, random.uniform(0.4, 0.8)))
    shape = np.array([noisy(f"{name}{i}", (place, 1.0), noise=0.3) for i in range(9)])
    shape[4] = image
    heat = random.normal(size=9) * 0.1
    heat[4] += 1
    return image, heat, shape


def write_store(
    directory: Path, feature: str, of: Mapping[str, Mapping[str, np.ndarray]], failed: Sequence[str] = (), **made: Any
) -> Path:
    """A finished store of one shard: sample -> field -> array."""
    samples = list(of)
    dtypes = {"text_embed": "float32", "image_embed": "float32"}
    fields = {name: (array.shape, dtypes.get(name, "float16")) for name, array in of[samples[0]].items()}
    origin = {"key": f"key{feature}", "feature": feature, "config": {"backbone": "made"}, "weights": "x", **made}
    with ShardWriter(directory / "shard-000", [(name, digest(name)) for name in samples], fields, origin) as writer:
        for name, arrays in of.items():
            writer.fail(name, f"no {feature}") if name in failed else writer.put(name, dict(arrays), {})
        writer.commit()
        writer.finish()
    return directory


def write_table(path: Path, samples: Sequence[str], labels: Sequence[str | None], splits: Sequence[str]) -> None:
    """A manifest of samples that are all ok."""
    made = frame({"train": 1}).head(1)
    made = made.loc[made.index.repeat(len(samples))].reset_index(drop=True)
    made["sample"], made["split"], made["label"] = list(samples), list(splits), list(labels)
    made["digest"] = [digest(sample) for sample in samples]
    write_manifest(made, path)


def params() -> Params:
    texts = {"backbone": "clip_text", "weights": {"random": 0}, "prompts": ["{}"]}
    clip = {"backbone": "clip", "weights": {"random": 0}, "sampling": {"frames": 1}, "preprocess": {"resize": [32, 32]}}
    datasets = {name: {"layout": "images", "root": name} for name in ("birds", *(f"birds-{name}" for name in OOD))}
    datasets |= {"classes": {"layout": "texts", "root": "c"}, "words": {"layout": "words", "root": "w"}}
    features = {name: texts for name in ("text", "plain", "object", "behind")}
    features |= {"image": clip | {"output": "image_embed"}, "tokens": clip | {"output": "cam_tokens"}}
    features["cam"] = {
        "backbone": "clip_cam", "source": "tokens", "texts": {"dataset": "classes", "feature": "text"}
    }  # fmt: skip
    compute = {"device": "cpu", "threads": 1, "decode_workers": 0}
    heads = {"negalign": {"kind": "negalign", **HEAD}}
    return parse_params({"compute": compute, "datasets": datasets, "features": features, "heads": heads})


def make(root: Path, show: Callable = picture, failed: Sequence[str] = (FAILED,)) -> World:
    """Everything on disk; `show` makes the pictures, and of those in `failed` there is no map."""
    stores = {}
    sets = {"birds": [f"{split}-{i}" for split, count in SPLITS.items() for i in range(count)]}
    sets |= {f"birds-{name}": [f"{name}-{i}.png" for i in range(count)] for name, count in OOD.items()}
    for dataset, ids in sets.items():
        splits = [name.split("-")[0] if dataset == "birds" else "all" for name in ids]
        write_table(root / dataset / "manifest.parquet", ids, [None] * len(ids), splits)
        prefix, shown = "" if dataset == "birds" else f"ood.{dataset[6:]}.", {name: show(name) for name in ids}
        images = {name: {"image_embed": of[0]} for name, of in shown.items()}
        cams = {name: {"map": of[1], "patch_embed": of[2]} for name, of in shown.items()}
        stores[f"{prefix}image"] = write_store(root / dataset / "image", "image", images)
        stores[f"{prefix}cam"] = write_store(root / dataset / "cam", "cam", cams, failed, grid=(1, *GRID))

    nouns = [*THINGS[:6], "Gull", *PLACES, *THINGS[6:], "sea lion"]
    words, kinds = [*nouns, *ADJECTIVES], ["noun"] * len(nouns) + ["adjective"] * len(ADJECTIVES)
    write_table(root / "words" / "manifest.parquet", words, kinds, ["all"] * len(words))
    write_table(root / "classes" / "manifest.parquet", CLASSES, [None] * len(CLASSES), ["all"] * len(CLASSES))
    stores["classes"] = write_store(root / "classes" / "text", "text", {c: {"text_embed": word(c)} for c in CLASSES})
    embedded = {
        "words": ("text", word, ()),
        "words.plain": ("plain", word, (THINGS[0],)),
        "words.object": ("object", lambda name: towards(name, 2), ()),
        "words.background": ("behind", lambda name: towards(name, 5), (PLACES[0],)),
    }
    for role, (feature, embed, unread) in embedded.items():
        texts = {name: {"text_embed": embed(name)} for name in words}
        stores[role] = write_store(root / "words" / feature, feature, texts, unread)
    return World(params(), root, stores)
