"""Writes toy-clinic: videos of patients, what clinicians marked in them, and the csv file of both. Knows no reader.

clinic.csv               sample,video,map,label,patient,clinician,split
videos/<sample>.mp4      H.264; all videos of a patient are in one split, and have the patient's diagnosis
maps/<sample>.npz        `map` (T, MAP_SIZE, MAP_SIZE) uint8: a spot near the affected site
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import Toyworld
from pipeline.files import whole
from pipeline.toyworld.figure import DIAGNOSES, SITE_NAMES, Patient, film, patient
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.writing import encode, make_all, prepare, write_table

SPLITS = ("train", "val", "test")
# The second word of the seeds; toy-ssv2 has 0 to 2, toy-assembly 10 and 11, toy-waterbirds 20 to 25.
STREAM = {"train": 30, "val": 31, "test": 32}
HEAD = ("sample", "video", "map", "label", "patient", "clinician", "split")
MAP_SIZE = 32
FILES = "*/*.[mn]p[4z]"
# Bumped when the same seed gives other videos or maps.
VERSION = 1


@dataclass(frozen=True)
class Clinician:
    """How somebody looks: always a little beside the site, in a spot of some width, shakily, and not all the time."""

    offset: tuple[float, float]  # (x, y), in sides
    width: float  # standard deviation of the spot, in sides
    noise: float  # standard deviation of where it is about that, in sides
    lapses: float  # share of the time that it is on another site


CLINICIANS = {
    "c1": Clinician(offset=(0.01, 0.00), width=0.06, noise=0.010, lapses=0.0),
    "c2": Clinician(offset=(0.05, -0.03), width=0.09, noise=0.015, lapses=0.1),
    "c3": Clinician(offset=(-0.03, 0.06), width=0.12, noise=0.025, lapses=0.2),
}
LAPSE = 6  # frames
CALM = 0.8  # share of its last wandering that the spot keeps from frame to frame


@dataclass(frozen=True)
class Video:
    """One video to be: split, patient and take determine it, together with the seed and the sizes."""

    split: str
    person: int
    take: int

    @property
    def patient(self) -> str:
        return f"{self.split}_{self.person:03d}"

    @property
    def sample(self) -> str:
        return f"{self.patient}_{self.take}"

    @property
    def clinician(self) -> str:
        """Each sees every diagnosis as often as the others do, and another patient's video next."""
        return tuple(CLINICIANS)[(self.person // len(DIAGNOSES) + self.take) % len(CLINICIANS)]

    @property
    def has_map(self) -> bool:
        """One in eleven has none, whatever the diagnosis."""
        return (self.person + 4 * self.take) % 11 != 5


def videos(params: Toyworld) -> list[Video]:
    """All videos, in the order of clinic.csv: of one patient of each diagnosis two, of the next of each three."""
    sizes = params.clinic
    return [
        Video(split, person, take)
        for split in SPLITS
        for person in range(getattr(sizes, split))
        for take in range(2 + person // len(DIAGNOSES) % 2)
    ]


def who(video: Video, params: Toyworld) -> Patient:
    """The patient of a video: diagnoses and sites take turns, so a larger set begins with a smaller one's."""
    turn = video.person // len(DIAGNOSES)
    # Shifted by one a round, or the site would tell how many videos there are, and whose eyes were on them.
    site = SITE_NAMES[(turn + turn // len(SITE_NAMES)) % len(SITE_NAMES)]
    rng = np.random.default_rng([params.seed, STREAM[video.split], video.person])
    return patient(rng, DIAGNOSES[video.person % len(DIAGNOSES)], site)


def stage(video: Video, params: Toyworld) -> tuple[Scene, np.ndarray]:
    """The scene of one video and, (T, 6, 2), where each site is in its frames: its ground truth."""
    rng = np.random.default_rng([params.seed, STREAM[video.split], video.person, video.take])
    shortest, longest = params.clinic.frames
    return film(rng, who(video, params), int(rng.integers(shortest, longest + 1)))


def attention(rng: np.random.Generator, clinician: Clinician, seen: np.ndarray, site: int) -> np.ndarray:
    """What a clinician marks.

    Args:
        rng: decides when and where the eye strays.
        clinician: whose eye it is.
        seen: (T, sites, 2), where each site is, (x, y) in sides.
        site: the affected one.

    Returns:
        (T, MAP_SIZE, MAP_SIZE) uint8, at most 255, rows are y.
    """
    frames, sites = seen.shape[:2]
    target = np.full(frames, site)
    for start in range(0, frames, LAPSE):
        if rng.random() < clinician.lapses:
            target[start : start + LAPSE] = rng.integers(sites)
    wander, step = np.zeros((frames, 2)), rng.standard_normal((frames, 2))
    wander[0] = step[0]
    for t in range(1, frames):
        wander[t] = CALM * wander[t - 1] + np.sqrt(1 - CALM**2) * step[t]
    spot = seen[np.arange(frames), target] + clinician.offset + clinician.noise * wander
    axis = (np.arange(MAP_SIZE) + 0.5) / MAP_SIZE
    x, y = (np.exp(-0.5 * ((axis - spot[:, i, None]) / clinician.width) ** 2) for i in range(2))
    return np.rint(255 * y[:, :, None] * x[:, None, :]).astype(np.uint8)


def _make(video: Video, params: Toyworld, root: Path) -> str:
    """Writes one video and its map, unless they are there already, and returns its diagnosis."""
    patient = who(video, params)
    scene, seen = stage(video, params)
    file, marked = root / "videos" / f"{video.sample}.mp4", root / "maps" / f"{video.sample}.npz"
    if not file.exists():
        encode(render(scene, params.clinic.size)[0], file, params.clinic.fps)
    if video.has_map and not marked.exists():
        rng = np.random.default_rng([params.seed, STREAM[video.split], video.person, video.take, 1])
        map_THW = attention(rng, CLINICIANS[video.clinician], seen, SITE_NAMES.index(patient.site))
        with whole(marked) as scratch, scratch.open("wb") as stream:
            np.savez_compressed(stream, map=map_THW)
    return patient.diagnosis


def write_clinic(params: Toyworld, root: Path, say: Callable[[str], None] = print, workers: int | None = None) -> None:
    """Writes the whole set; clinic.csv last, so that a set with it is whole.

    Can be called again after being killed: whole videos and maps are kept. Those of another seed or size are replaced.

    Args:
        params: seed and sizes.
        root: folder of the set.
        say: takes a line of progress every few seconds.
        workers: processes; as many as there are processors for us by default.

    Raises:
        ToyworldError: `root` holds a data set that this function did not write.
    """
    recipe = params.clinic.model_dump(exclude=set(SPLITS), mode="json")
    prepare(root, {"version": VERSION, "seed": params.seed, **recipe}, FILES, ["clinic.csv"])
    for folder in ("videos", "maps"):
        (root / folder).mkdir(exist_ok=True)
    todo = videos(params)
    made = make_all(_make, todo, params, root, name="toy-clinic", say=say, workers=workers)
    rows = []
    for video, diagnosis in zip(todo, made, strict=True):
        marked = f"maps/{video.sample}.npz" if video.has_map else ""
        file = f"{video.sample}.mp4"
        rows.append([video.sample, file, marked, diagnosis, video.patient, video.clinician, video.split])
    write_table(root / "clinic.csv", HEAD, rows)
