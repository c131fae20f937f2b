"""Writes toy-waterbirds in WaterBirds' layout: JPEG pictures and metadata.csv. Knows no reader and no network.

metadata.csv, <species>/<picture>.jpg    in distribution: an object on land or on water; y is the object's kind
masks/<species>/<picture>.png            255 where the object is, else 0; metadata.csv does not name them
ood/backgrounds/<background>/*.jpg       out of distribution: the same backgrounds without an object,
ood/unknown_spurious/<shape>/*.jpg       with an object of a species that there is none of above,
ood/unknown_other/<shape>/*.jpg          and such an object on a background that there is none of above
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import Toyworld
from pipeline.files import whole
from pipeline.toyworld.scene import Scene, dress, render, still
from pipeline.toyworld.shapes import COLOUR_NAMES, SHAPES
from pipeline.toyworld.writing import make_all, prepare, write_table

# By y. Landbirds have corners, waterbirds are round, and mini CLIP takes no species for one of the other kind.
SPECIES = (("square", "star", "arrow"), ("circle", "ring", "flower"))
ALL_SPECIES = tuple(species for kind in SPECIES for species in kind)
UNKNOWN = tuple(shape for shape in SHAPES if shape not in ALL_SPECIES)
# By place, as BACKGROUNDS is by name; the others are for `unknown_other`.
PLACES = (("grass", "sand"), ("water", "snow"))
SPURIOUS = tuple(background for place in PLACES for background in place)
OTHER = ("bricks", "wood", "tiles", "gravel")

SPLITS = ("train", "val", "test")
OOD = ("backgrounds", "unknown_spurious", "unknown_other")
# The second word of the pictures' seeds; toy-ssv2 has 0 to 2, toy-assembly 10 and 11.
STREAM = {"train": 20, "val": 21, "test": 22, "backgrounds": 23, "unknown_spurious": 24, "unknown_other": 25}
# One in so many objects of a class is where the other class belongs: 5 % in train, half of val and test.
STRAYS = {"train": 20, "val": 2, "test": 2}
JPEG = {"format": "JPEG", "quality": 95}
# Pictures and masks, .jpg and .png.
FILES = "**/*.[jp][pn]g"
HEAD = ("img_id", "img_filename", "y", "split", "place", "place_filename")
# Bumped when the same seed gives other pictures.
VERSION = 1


@dataclass(frozen=True)
class Picture:
    """One picture to be: its part (a split, or one of OOD) and place there determine it, with seed and size."""

    part: str
    index: int

    @property
    def y(self) -> int:
        """The class: 0 landbird, 1 waterbird. They take turns."""
        return self.index % 2

    @property
    def place(self) -> int:
        """Of a picture in distribution: 0 land, 1 water."""
        return self.y ^ (self.index // 2 % STRAYS[self.part] == STRAYS[self.part] - 1)

    @property
    def shape(self) -> str | None:
        """The object's, if there is one. Kinds take turns, so a larger set begins with the smaller one's pictures."""
        if self.part in SPLITS:
            return SPECIES[self.y][self.index // 2 % len(SPECIES[self.y])]
        return None if self.part == "backgrounds" else UNKNOWN[self.index % len(UNKNOWN)]

    def background(self, rng: np.random.Generator) -> str:
        """One of those that the part allows."""
        if self.part in SPLITS:
            return PLACES[self.place][rng.integers(2)]
        if self.part == "backgrounds":
            return SPURIOUS[self.index % len(SPURIOUS)]
        return (SPURIOUS if self.part == "unknown_spurious" else OTHER)[self.index // len(UNKNOWN) % 4]

    def file(self, background: str) -> str:
        """Its place below the root, named as in the real set, or below ood/."""
        if self.part not in SPLITS:
            return f"ood/{self.part}/{self.shape or background}/{self.index:05d}.jpg"
        name = self.shape.capitalize()
        return f"{1 + ALL_SPECIES.index(self.shape):03d}.{name}/{name}_{self.part}_{self.index:05d}.jpg"


def pictures(params: Toyworld) -> list[Picture]:
    """All pictures: those of metadata.csv in its order, then those out of distribution."""
    sizes = params.waterbirds
    counts = [(split, getattr(sizes, split)) for split in SPLITS] + [(part, sizes.ood) for part in OOD]
    return [Picture(part, index) for part, count in counts for index in range(count)]


def stage(picture: Picture, params: Toyworld) -> Scene:
    """The scene of one picture, which is its ground truth: one frame, and one object or none."""
    rng = np.random.default_rng([params.seed, STREAM[picture.part], picture.index])
    background = picture.background(rng)
    colour = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
    tracks = [still(rng, picture.shape, colour, 1, *params.waterbirds.radii)] if picture.shape else []
    return dress(rng, background, tracks, 1)


def mask_file(root: Path, img_filename: str) -> Path:
    """Where the mask of a picture in distribution lies: (size, size) uint8, 255 on its object."""
    return (root / "masks" / img_filename).with_suffix(".png")


def _make(picture: Picture, params: Toyworld, root: Path) -> tuple[str, str]:
    """Writes one picture and its mask, unless they are there already, and returns its file and background."""
    scene = stage(picture, params)
    name = picture.file(scene.background)
    mask = mask_file(root, name) if picture.part in SPLITS else None
    if not (root / name).exists() or not (mask is None or mask.exists()):
        frames, owner = render(scene, params.waterbirds.size)
        if mask is not None:
            _write_picture(mask, np.where(owner[0] >= 0, 255, 0).astype(np.uint8), format="PNG")
        _write_picture(root / name, frames[0], **JPEG)
    return name, scene.background


def _write_picture(file: Path, pixels: np.ndarray, **options: str | int) -> None:
    with whole(file) as scratch:
        Image.fromarray(pixels).save(scratch, **options)


def write_waterbirds(
    params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None
) -> None:
    """Writes the whole set; metadata.csv last, so that a set with it is whole.

    Can be called again after being killed: whole pictures are kept. Pictures of another seed or size, or of a larger
    set, are removed: what lies in a folder of pictures is what it holds.

    Args:
        params: seed and sizes.
        root: folder of the set.
        say: takes a line of progress every few seconds.
        workers: processes; as many as there are processors for us by default.

    Raises:
        ToyworldError: `root` holds a data set that this function did not write.
    """
    sizes = params.waterbirds.model_dump(include={"size", "radii"}, mode="json")
    prepare(root, {"version": VERSION, "seed": params.seed, **sizes}, FILES, ["metadata.csv"])
    todo = pictures(params)
    made = list(make_all(_make, todo, params, root, name="toy-waterbirds", say=say, workers=workers))
    _remove_others(root, {name for name, _ in made})
    rows = []
    for number, (picture, (name, background)) in enumerate(zip(todo, made, strict=True), 1):
        if picture.part in SPLITS:
            place_file = f"/{background[0]}/{background}/{number:08d}.jpg"  # as of Places; there is no such file here
            rows.append([number, name, picture.y, SPLITS.index(picture.part), picture.place, place_file])
    write_table(root / "metadata.csv", HEAD, rows)


def _remove_others(root: Path, names: set[str]) -> None:
    keep = {root / name for name in names} | {mask_file(root, name) for name in names}
    for file in root.glob(FILES):
        if file not in keep:
            file.unlink()
