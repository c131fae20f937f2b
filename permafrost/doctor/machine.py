"""What a machine has: programs, GPUs, memory, decoders, and folders that take files."""

import fcntl
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from permafrost.doctor.findings import Finding, refused, size_of
from pipeline.config import Compute, Params, PixelFeature
from pipeline.gpu import driver_version
from pipeline.projects import FEATURES, RUNS
from pipeline.resources import pixel_bytes

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "prores", "mjpeg")
WRITTEN = 1 << 20  # bytes that a folder must take
SPARE = 1 << 30  # of GPU memory, and of a disk beside what is stored there
PROJECT_FOLDERS = (FEATURES, RUNS, Path("results"), Path("logs"), Path(".snakemake"))
CGROUP = Path("/sys/fs/cgroup")


def look(params: Params | None) -> Iterator[Finding]:
    """All that is found of it; with params, against what these take."""
    compute = params.compute if params else Compute()
    yield from chain(programs(), torch_build(compute), leases(), cores(compute), memory(compute))
    yield from chain(shared_memory(params), codecs(params), folders(params))


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

    from pipeline.accelerator import no_gpu

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    said = f"{torch.__version__}, built for {built}; Python {platform.python_version()}"
    driver = driver_version()
    if not torch.cuda.is_available():
        hidden = compute.device == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if compute.device == "cuda" or (driver is not None and not hidden):
            lack = no_gpu()
            yield Finding("bad", "torch", f"{said}; {lack.why}", f"{lack.remedy}, or set compute.device: cpu")
        elif driver is None:
            yield Finding("ok", "torch", f"{said}; no GPU and no driver: everything runs on the CPU")
        else:
            yield Finding("ok", "torch", f"{said}; driver {driver}; its GPUs are left out, as asked for")
        return
    yield Finding("ok", "torch", f"{said}; driver {driver or 'of an unknown version'}")
    yield from gpus(compute, torch)


def gpus(compute: Compute, torch: Any) -> Iterator[Finding]:
    """One finding a GPU: its memory, and whether it runs a kernel."""
    from pipeline.accelerator import no_kernels

    count = torch.cuda.device_count()
    if compute.device != "cpu" and count < compute.devices:
        yield Finding(
            "bad", "GPUs", f"compute.devices is {compute.devices}, and torch sees {count}", "lower compute.devices"
        )
    for index in range(count):
        name = f"GPU {index}"
        try:
            if lack := no_kernels(index):
                yield Finding("bad", name, lack.why, f"{lack.remedy}, or hide it from jobs by CUDA_VISIBLE_DEVICES")
                continue
            free, total = torch.cuda.mem_get_info(index)
            _run_kernel(torch, index)
        except RuntimeError as error:
            said = f"{torch.cuda.get_device_name(index)}: {str(error).splitlines()[0]}"
            yield Finding("bad", name, said, "install a torch that is built for this GPU, or hide it from jobs")
            continue
        said = f"{torch.cuda.get_device_name(index)}, {size_of(free)} of {size_of(total)} free"
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
        yield refused("leases", error, "correct CUDA_VISIBLE_DEVICES")


def cores(compute: Compute) -> Iterator[Finding]:
    """Cores that this process may use, against what one job takes."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        count = count if quota == "max" else min(count, max(1, int(quota) // int(period)))
    workers = compute.decode_workers
    jobs = {
        "a training": compute.devices * (compute.threads + workers),
        "an extraction": compute.extract_threads + workers,
    }
    job, wanted = max(jobs.items(), key=lambda of: of[1])
    said = f"{count} to use; {job} takes {wanted}"
    remedy = "lower compute.threads, extract_threads or decode_workers: more of them than cores is slower"
    yield Finding("note", "cores", said, remedy) if wanted > count else Finding("ok", "cores", said)


def memory(compute: Compute) -> Iterator[Finding]:
    """Memory that is available, against what a training keeps of its features."""
    free = _memory_free()
    wanted = int(compute.cache_memory_gb * 1e9)
    said = f"{size_of(free)} available; compute.cache_memory_gb is {compute.cache_memory_gb:g}"
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
    """Shared memory, against the least that decode processes pass through it."""
    import torch

    from pipeline.extraction.ring import SHARED_MEMORY, Slots, places_for
    from pipeline.extraction.stream import messages_ahead
    from pipeline.memory import Shortage

    compute = params.compute if params else Compute()
    decoded = [of for of in params.features.values() if isinstance(of, PixelFeature)] if params else []
    ragged = [pixel_bytes(of) for of in decoded if of.ragged] if decoded else [16 << 20]
    # Of pixels in uint8, which a preprocessor makes at the least; frames as decoded are that already.
    clips = [(pixel_bytes(of) // (1 if of.resized_there else 4), of.batch) for of in decoded if not of.ragged]
    batches = [Slots((size,), torch.uint8, batch) for size, batch in clips]
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    most = max([*ragged, *(of.batch * of.sample_bytes for of in batches)])
    told = f"{compute.decode_workers} decode processes, {size_of(most)} in a batch or a message"
    try:
        if compute.decode_workers:
            for size in ragged:
                messages_ahead(size, compute.decode_workers)
            for of in batches:
                places_for([of], 1, compute.decode_workers)
        yield Finding("ok", "shared memory", f"{size_of(free)} free in {SHARED_MEMORY}; {told}")
    except Shortage as error:
        yield refused("shared memory", error, "set fewer compute.decode_workers")


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
    yield from torchcodec(params)


def torchcodec(params: Params | None) -> Iterator[Finding]:
    """Whether torchcodec can decode here, its FFmpeg and the GPU included, where features ask for it."""
    from pipeline.video import DecoderMissing, expect_decoder

    decoders = [getattr(of, "decoder", "auto") for of in params.features.values()] if params else []
    for decoder in sorted({of for of in decoders if of.startswith("torchcodec")}):
        try:
            told = ", ".join(f"{name} {version}" for name, version in expect_decoder(decoder).items())
            yield Finding("ok", decoder, told)
        except DecoderMissing as error:
            yield refused(decoder, error, "set decoder: auto")


def _decodes(av: Any, name: str) -> bool:
    try:
        return bool(av.codec.Codec(name, "r"))
    except (av.error.FFmpegError, ValueError):  # the latter of a codec that its ffmpeg does not know
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
        there = nearest(place)
        said = f"{size_of(shutil.disk_usage(there).free)} free" + ("" if there == place else f"; {there} is to hold it")
        try:
            _write(there)
            yield Finding("ok", str(place), said)
        except OSError as error:
            what = f"cannot be written to: {error.strerror}" if error.strerror else f"cannot be written to: {error}"
            yield Finding("bad", str(place), what + ("" if there == place else f" (in {there})"), _remedy(place))


def nearest(place: Path) -> Path:
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
