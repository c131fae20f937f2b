"""Asks a machine whether it is ready for a project: weights, GPUs, memory, disk, decoders, folders. Changes nothing.

Each check yields findings, and each finding that is no `ok` has its remedy. What cannot be known yet, such as the size
of features of a data set without a manifest, is said.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Compute, Dataset, Imported, Params, PixelFeature, Weights, load_params
from pipeline.config.base import shown
from pipeline.config.contents import Cams, Contents, Flow, Hidden, Maps, Rows, Texts, Tokens, Vectors
from pipeline.plan import Plan, manifest_path
from pipeline.projects import FEATURES, RUNS

State = Literal["ok", "note", "bad"]

PROBED = 20  # samples of a data set
SECONDS_OF_PROBES = 30.0  # of a data set: films of hours are decoded whole
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "prores", "mjpeg")
WRITTEN = 1 << 20  # bytes that a folder must take
SPARE = 1 << 30  # of GPU memory, and of a disk beside what is stored there
PROJECT_FOLDERS = (FEATURES, RUNS, Path("results"), Path("logs"), Path(".snakemake"))
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        state: `ok`; `note`, what works but is worth knowing; `bad`, what will fail.
        what: was looked at.
        said: what was found.
        remedy: what to do; empty of what is ok.
    """

    state: State
    what: str
    said: str
    remedy: str = ""


def examine(source: str | Path = "params.yaml") -> Iterator[Finding]:
    """Looks at a machine, and at what a params document asks of it; findings come as they are made.

    Args:
        source: a params file or a literal document, as `python -m pipeline --params` takes it. Where it is a file that
            is absent, only the machine is looked at.

    Yields:
        One finding at least of each of: programs, torch, GPUs, cores, memory, shared memory, decoders, folders; of
        params: weights, data sets, imported features, and the disk that features take.
    """
    params: Params | None = None
    literal = str(source).lstrip().startswith("{")
    if not literal and not os.path.exists(source):
        yield Finding("note", "params", f"no {source} here: only the machine is looked at", "name one with --params")
    else:
        try:
            params = load_params(source)
            said = f"{len(params.datasets)} data sets, {len(params.features)} features, {len(params.heads)} heads"
            yield Finding("ok", "params", said)
        except (ValueError, OSError) as error:
            yield Finding("bad", "params", str(error), "correct it; only the machine is looked at")
    compute = params.compute if params else Compute()
    yield from chain(programs(), torch_build(compute), leases(), cores(compute), memory(compute))
    yield from chain(shared_memory(params), codecs(params))
    yield from folders(params)
    if params:
        yield from chain(weights(params), datasets(params), imports(params), disk(params))


# --- the machine ------------------------------------------------------------------------------------------------------


def programs() -> Iterator[Finding]:
    """What jobs call by name must be what this program runs as."""
    own = Path(sys.executable).parent
    for name in ("python", "snakemake"):
        found = shutil.which(name)
        if found is None:
            yield Finding("bad", name, "not on PATH, and the jobs of a workflow call it by name", _activate(own))
        elif Path(found).parent.resolve() != own.resolve():
            yield Finding("bad", name, f"PATH gives {found}, which is of another environment", _activate(own))
        else:
            yield Finding("ok", name, found)


def _activate(folder: Path) -> str:
    return f"activate the environment of {folder}, or call what you run by `uv run`"


def torch_build(compute: Compute) -> Iterator[Finding]:
    """Whether torch can use the GPUs that are there, and whether there are as many as params ask for."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    said = f"{torch.__version__}, built for {built}; Python {platform.python_version()}"
    driver = driver_version()
    if not torch.cuda.is_available():
        wanted = compute.device == "cuda"
        if driver is None:
            if wanted:
                yield Finding(
                    "bad",
                    "torch",
                    f"{said}; compute.device is cuda, and there is no NVIDIA driver",
                    "install the driver (nvidia-smi must list the GPU), start the container with --gpus all, or set "
                    "compute.device: auto",
                )
            else:
                yield Finding("ok", "torch", f"{said}; no GPU and no driver: everything runs on the CPU")
            return
        if compute.device == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            yield Finding("ok", "torch", f"{said}; driver {driver}; its GPUs are left out, as asked for")
            return
        why, remedy = _unusable(torch)
        yield Finding("bad", "torch", f"{said}; driver {driver} is there, but torch cannot use it: {why}", remedy)
        return
    yield Finding("ok", "torch", f"{said}; driver {driver or 'of an unknown version'}")
    yield from gpus(compute, torch)


def _unusable(torch: Any) -> tuple[str, str]:
    if not torch.version.cuda:
        return "it is built for the CPU alone", "install torch's CUDA build, as pytorch.org's selector names it"
    try:
        torch.cuda.init()
        why = "it lists no device"
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
    return why, (
        f"update the driver to one that nvidia-smi says has CUDA {torch.version.cuda} or newer, or install a torch "
        "built for the CUDA that it has"
    )


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    from pipeline.gpu import DRIVER, PLACES

    tool = shutil.which("nvidia-smi", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES)))
    if tool:
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(asked, capture_output=True, text=True, timeout=60.0, check=False)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
    with suppress(OSError):
        words = DRIVER.read_text(encoding="utf-8").split()
        return next((word for word in words if word[0].isdigit()), "of an unknown version")
    return None


def gpus(compute: Compute, torch: Any) -> Iterator[Finding]:
    """One finding a GPU: its memory, and whether it runs a kernel."""
    count = torch.cuda.device_count()
    if compute.device != "cpu" and count < compute.devices:
        yield Finding(
            "bad", "GPUs", f"compute.devices is {compute.devices}, and torch sees {count}", "lower compute.devices"
        )
    for index in range(count):
        name = f"GPU {index}"
        try:
            free, total = torch.cuda.mem_get_info(index)
            _run_kernel(torch, index)
        except RuntimeError as error:
            said = f"{torch.cuda.get_device_name(index)}: {str(error).splitlines()[0]}"
            yield Finding("bad", name, said, "install a torch that is built for this GPU, or hide it from jobs")
            continue
        said = f"{torch.cuda.get_device_name(index)}, {_size(free)} of {_size(total)} free"
        taken = free < max(SPARE, total // 10)
        remedy = "others use it: nvidia-smi says who; wait, or let CUDA_VISIBLE_DEVICES name another"
        yield Finding("bad" if free < SPARE else "note", name, said, remedy) if taken else Finding("ok", name, said)


def _run_kernel(torch: Any, index: int) -> None:
    """Raises RuntimeError where torch is not built for that GPU."""
    (torch.ones(8, device=f"cuda:{index}") * 2).sum().item()


def leases() -> Iterator[Finding]:
    """Whether jobs on this machine can lend GPUs to each other."""
    from pipeline.gpu import LeaseError, lock_folder, pool

    try:
        found = pool(os.environ)
        if found:
            yield Finding("ok", "leases", f"{len(found)} GPUs to lend, locked in {lock_folder(os.environ)}")
    except LeaseError as error:
        said, _, remedy = str(error).rpartition("; ")
        yield Finding("bad", "leases", said, remedy)


def cores(compute: Compute) -> Iterator[Finding]:
    """Cores that this process may use, against what one job takes."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        count = count if quota == "max" else min(count, max(1, int(quota) // int(period)))
    jobs = {"a training": compute.threads, "an extraction": compute.extract_threads + compute.decode_workers}
    job, wanted = max(jobs.items(), key=lambda of: of[1])
    said = f"{count} to use; {job} takes {wanted}"
    remedy = "lower compute.threads, extract_threads or decode_workers: more of them than cores is slower"
    yield Finding("note", "cores", said, remedy) if wanted > count else Finding("ok", "cores", said)


def memory(compute: Compute) -> Iterator[Finding]:
    """Memory that is available, against what a training keeps of its features."""
    free = _memory_free()
    wanted = int(compute.cache_memory_gb * 1e9)
    said = f"{_size(free)} available; compute.cache_memory_gb is {compute.cache_memory_gb:g}"
    if wanted + SPARE > free:
        yield Finding("bad", "memory", said, "lower compute.cache_memory_gb, or end what else runs here")
    else:
        yield Finding("ok", "memory", said)


def _memory_free() -> int:
    """Bytes: of the machine, or of the container where that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # a container without a limit says max, or nothing
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((CGROUP / "memory.current").read_text(encoding="ascii")))
    return free


def shared_memory(params: Params | None) -> Iterator[Finding]:
    """Shared memory, against what decode processes pass through it."""
    from pipeline.extraction.progress import ExtractionError
    from pipeline.extraction.stream import SHARED_MEMORY, messages_ahead

    compute = params.compute if params else Compute()
    decoded = [of for of in params.features.values() if isinstance(of, PixelFeature)] if params else []
    # A message has one sample at least, in float32; where a library's processor decides, of the usual size.
    sides = ((of.geometry.size if of.geometry else (224, 224), of.sampling.count or of.batch) for of in decoded)
    most = max((12 * prod(size) * count for size, count in sides), default=16 << 20)
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    said = (
        f"{_size(free)} free in {SHARED_MEMORY}; {compute.decode_workers} decode processes of {_size(most)} a message"
    )
    try:
        if compute.decode_workers:
            messages_ahead(most, compute.decode_workers)
        yield Finding("ok", "shared memory", said)
    except ExtractionError as error:
        yield Finding("bad", "shared memory", said, str(error).partition("; ")[2])


def codecs(params: Params | None) -> Iterator[Finding]:
    """Decoders of video that the libraries were built with."""
    import av

    lacking = [name for name in CODECS if not _decodes(av, name)]
    said = f"PyAV {av.__version__}"
    if lacking:
        remedy = "install PyAV's own wheel (pip install --only-binary av av), which has them"
        yield Finding("bad", "decoders", f"{said} has none of {', '.join(lacking)}: such videos will fail", remedy)
    else:
        yield Finding("ok", "decoders", f"{said} decodes {', '.join(CODECS)}")
    asked = [name for name, of in params.features.items() if getattr(of, "decoder", "") == "decord"] if params else []
    if asked:
        try:
            import decord

            yield Finding("ok", "decord", decord.__version__)
        except (ImportError, OSError, RuntimeError) as error:
            remedy = "install decord, or set decoder: auto, which gives the same frames"
            yield Finding("bad", "decord", f"{', '.join(asked)} ask for it: {error}", remedy)


def _decodes(av: Any, name: str) -> bool:
    try:
        return bool(av.codec.Codec(name, "r"))
    except av.error.FFmpegError:
        return False
    except ValueError:  # what PyAV raises of a codec that its ffmpeg does not know
        return False


# --- folders ----------------------------------------------------------------------------------------------------------


def folders(params: Params | None) -> Iterator[Finding]:
    """Whether each folder that jobs write to takes a file, keeps it, and locks it."""
    places = dict.fromkeys((*PROJECT_FOLDERS, Path(tempfile.gettempdir())))
    if params:
        made = (of for of in params.datasets.values() if of.made_by == "toyworld")
        places |= dict.fromkeys(Path(of.root) for of in made)
        if any(of.hub for feature in params.features.values() for of in feature.sources.values()):
            from huggingface_hub.constants import HF_HUB_CACHE

            places[Path(HF_HUB_CACHE)] = None
    for place in places:
        there = _nearest(place)
        said = f"{_size(shutil.disk_usage(there).free)} free" + ("" if there == place else f"; {there} is to hold it")
        try:
            _write(there)
            yield Finding("ok", str(place), said)
        except OSError as error:
            what = f"cannot be written to: {error.strerror}" if error.strerror else f"cannot be written to: {error}"
            yield Finding("bad", str(place), what + ("" if there == place else f" (in {there})"), _remedy(place))


def _nearest(place: Path) -> Path:
    """A folder, or that in which it would be made."""
    return next(of for of in (place, *place.absolute().parents) if of.exists())


def _remedy(place: Path) -> str:
    if place == Path(tempfile.gettempdir()):
        return "free some space there, or let TMPDIR name another folder"
    return "free some space, get the right to write there, or make it a link to a folder on another disk"


def _write(folder: Path) -> None:
    """Writes a file as jobs do, syncs, locks and renames it, and removes it. Raises OSError."""
    number, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    try:
        with open(number, "wb") as file:
            file.write(bytes(WRITTEN))
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(name, name := f"{name}-moved")
    finally:
        Path(name).unlink(missing_ok=True)


# --- what params ask for ----------------------------------------------------------------------------------------------


def weights(params: Params) -> Iterator[Finding]:
    """Whether each checkpoint is there and whole; of one on a hub, whether it may be downloaded."""
    used: dict[tuple[Any, ...], tuple[Weights, list[str]]] = {}
    for name, feature in params.features.items():
        for of in feature.sources.values():
            used.setdefault((of.path, of.hub, of.revision, of.random), (of, []))[1].append(name)
    for of, names in used.values():
        what = f"weights of {', '.join(dict.fromkeys(names))}"
        if of.random is not None:
            yield Finding(
                "note", what, f"random, of seed {of.random}: every result says so", "give weights.path or weights.hub"
            )
            continue
        try:
            yield Finding("ok", what, _in_hub(of) if of.hub else _on_disk(Path(str(of.path))))
        except (ValueError, OSError) as error:
            said, _, remedy = str(error).rpartition("; ")
            yield Finding("bad", what, said or remedy, remedy if said else "download it again, or correct its path")


def _on_disk(path: Path) -> str:
    from pipeline.backbones.checkpoints import expect_whole

    files = expect_whole(path)
    return f"{path}, {_size(sum(file.stat().st_size for file in files))}"


def _in_hub(of: Weights) -> str:
    from pipeline.backbones.checkpoints import cached, expect_reachable

    name = f"{of.hub}@{of.revision}"
    if str(of.hub).startswith("torchvision/"):
        return f"{name}: torchvision's, downloaded when it is first used"
    if (folder := cached(str(of.hub), str(of.revision))) is not None:
        return f"{name}: {_on_disk(folder)}"
    return f"{name}: not here yet; {_size(expect_reachable(str(of.hub), str(of.revision)))} to download"


def datasets(params: Params) -> Iterator[Finding]:
    """Decodes some samples of each data set of videos or pictures, spread over all of it."""
    from pipeline.datasets import read_annotations
    from pipeline.datasets.build import Job, examine
    from pipeline.datasets.folders import check_folder, home_of

    plan = Plan(params)
    for name, dataset in params.datasets.items():
        what = f"data set {name}"
        if plan.rendered_with(name) and not Path(dataset.root).exists():
            yield Finding("ok", what, "rendered by the workflow when it is first asked for")
            continue
        try:
            annotations = read_annotations(dataset)
            if dataset.kind == "text" or dataset.videos is None:
                yield Finding("ok", what, f"{len(annotations)} samples, none of them to decode")
                continue
            folder, home, still = check_folder(dataset), home_of(dataset), dataset.kind == "image"
            paths = _some(dataset, annotations)
            jobs = [Job(os.path.join(folder, path), home, None, still) for path in paths]
        except (ValueError, OSError) as error:
            said, _, remedy = str(error).rpartition("; ")
            yield Finding("bad", what, said or remedy, remedy if said else "correct its root in params")
            continue
        began, found = time.monotonic(), []
        for job in jobs:
            if found and time.monotonic() - began > SECONDS_OF_PROBES:
                break
            found.append(examine(job))
        yield _decoded(what, paths, found, len(annotations))


def _some(dataset: Dataset, annotations: Any) -> list[str]:
    """Paths of at most PROBED samples, in no order that the table has: the first ones may be all of one class."""
    from pipeline.datasets.annotations import video_paths

    chosen = annotations.iloc[:: max(1, -(-len(annotations) // PROBED))]
    folder = Path(dataset.root, str(dataset.videos))
    found = []
    for sample, path in chosen[["sample", "path"]].itertuples(index=False):
        places = video_paths(dataset, sample) or (path,)
        found.append(next((place for place in places if (folder / place).exists()), places[0]))
    return found


def _decoded(what: str, paths: list[str], found: list[Any], samples: int) -> Finding:
    wrong = [(path, of) for path, of in zip(paths, found, strict=False) if of.status != "ok"]
    said = f"{len(found) - len(wrong)} of {len(found)} probed samples decode ({samples} in all)"
    if not wrong:
        return Finding("ok", what, said)
    path, first = wrong[0]
    remedy = "`manifest` lists all of them in quality.md; fetch them again, or encode them anew"
    said += f"; {path}: {first.status}: {first.detail.partition('; ')[0]}"
    return Finding("bad" if len(wrong) == len(found) else "note", what, said, remedy)


def imports(params: Params) -> Iterator[Finding]:
    """Whether the files of features that were computed elsewhere hold the samples of the data sets that read them."""
    from pipeline.datasets import read_annotations
    from pipeline.datasets.imported import Held

    plan = Plan(params)
    for name, dataset in params.datasets.items():
        try:
            read = [of for of in plan.features(name) if isinstance(params.features[of], Imported)]
            ids = read_annotations(dataset)["sample"].tolist() if read else []
        except (OSError, ValueError):  # said where data sets and weights are looked at
            continue
        for feature in read:
            held = Held(params.features[feature])
            yield _held(f"feature {feature} of {name}", held, ids)


def _held(what: str, held: Any, ids: list[str]) -> Finding:
    place = held.feature.root
    try:
        sources, damage = held.sources(ids), held.found.damage
    except (OSError, ValueError) as error:
        return Finding("bad", what, f"{place} cannot be read: {error}", "correct the feature's root, or fetch it again")
    lacking = [sample for sample in ids if sample not in sources or not sources[sample].exists()]
    said = f"{place} holds {len(ids) - len(lacking)} of {len(ids)} samples"
    if not lacking:
        return Finding("ok", what, said)
    said += f", not {shown(lacking[0])}" + (f" ({damage})" if damage else "")
    remedy = "correct the feature's root or extension; samples that it does not hold are failed ones"
    return Finding("bad" if len(lacking) == len(ids) else "note", what, said, remedy)


def disk(params: Params) -> Iterator[Finding]:
    """What features that are not there yet will take, against what is free."""
    plan, size, unknown = Plan(params), 0, {}
    for dataset in params.datasets:
        try:
            for feature in plan.features(dataset):
                try:
                    size += _to_store(plan, dataset, feature)
                except LookupError:
                    unknown.setdefault(dataset, []).append(feature)
        except (OSError, ValueError):  # said where data sets and weights are looked at
            unknown[dataset] = ["all features"]
    place = _nearest(FEATURES)
    free = shutil.disk_usage(place).free
    said = f"{_size(size)} of features to store, {_size(free)} free"
    if unknown:
        told = (f"{', '.join(features)} of {dataset}" for dataset, features in unknown.items())
        said += f"; not known before `manifest` and `extract`: {'; '.join(told)}"
    if size + SPARE > free:
        remedy = "free some space, or make features/ a link to a folder on a larger disk"
        yield Finding("bad", "disk", said, remedy)
    else:
        yield Finding("ok", "disk", said)


def _to_store(plan: Plan, dataset: str, feature: str) -> int:
    """Bytes of the shards that are not there yet, before compression.

    Raises:
        LookupError: what a sample takes is not known before extraction.
    """
    from pipeline.datasets import read_annotations, read_manifest

    contents, chosen, manifest = plan.params.gives(feature), plan.params.features[feature], manifest_path(dataset)
    if not manifest.exists():
        return len(read_annotations(plan.params.datasets[dataset])) * sum(_sample_bytes(contents, chosen, None))
    lacking = [of for of in plan.shards(dataset) if not Path(plan.shard_path(dataset, feature, of)).exists()]
    frame = read_manifest(manifest)
    durations = frame.loc[frame["shard"].isin(lacking), "duration"].fillna(0.0).tolist()
    return sum(sum(_sample_bytes(contents, chosen, seconds)) for seconds in durations)


def _sample_bytes(contents: Contents | None, feature: Any, seconds: float | None) -> Iterator[int]:
    """Bytes of each field of a sample that lasts so long. Raises LookupError where a shape is not known."""
    small = getattr(feature, "storage", "float16") == "int8"
    for of in (contents or {None: None}).values():
        match of:
            case Tokens(steps=steps, grid=grid, width=width):
                yield _bytes(steps, grid, width, size=1 if small else 2)
            case Vectors(steps=steps, width=width):
                yield _bytes(steps or 1, width)
            case Texts(width=width):
                yield _bytes(width)
            case Cams(grid=grid, width=width):
                yield _bytes(grid, width and width + 1)
            case Hidden(steps=steps, grid=grid, width=width):
                yield _bytes(steps, grid and (1, prod(grid) + 1), width)
            case Maps(channels=channels, steps=steps, grid=grid):
                yield _bytes(channels, steps, grid)
            case Rows(width=width, fps=fps):
                yield _bytes(_rows(fps, seconds), width)
            case Flow():
                yield _bytes(_rows(feature.sampling.fps, seconds), feature.preprocess.size, 2, size=1)
            case _:
                raise LookupError("nothing is said of it")


def _rows(fps: float | None, seconds: float | None) -> int | None:
    return None if fps is None or seconds is None else 1 + int(fps * seconds)


def _bytes(*sides: int | tuple[int, int] | None, size: int = 2) -> int:
    if None in sides:
        raise LookupError("a side is not known before extraction")
    return size * prod(prod(of) if isinstance(of, tuple) else of for of in sides)


def _size(count: float) -> str:
    """Bytes for people, in powers of ten.

    >>> _size(3_300_000_000), _size(12)
    ('3.3 GB', '12 B')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    place = 0
    while count >= 1000 and place < len(units) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.3g} {units[place]}"
