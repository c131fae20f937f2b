"""What a job takes of a machine, cores and memory, from params alone. Knows no scheduler, and imports no torch.

A job starts no more threads and processes than it asks cores for. Memory is an upper bound of what it holds on the
host: a scheduler that enforces it should never end a job that behaves.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, NamedTuple

from pipeline.config import Compute, Params, PixelFeature
from pipeline.config.contents import Cams, Contents, Flow, Hidden, Maps, Rows, Texts, Tokens, Vectors
from pipeline.memory import BATCHES_AHEAD, DECODED_AHEAD

MB = 1 << 20
# Resident, as measured on a CPU: 1.1 GB of an extraction by a mini backbone, 1.0 of a training; with room for weights.
PROCESS = 2000 * MB
CUDA = 2000 * MB  # of a process on the host: the driver's context, pinned memory
WORKER = 400 * MB  # of a process that decodes or reads: libraries, and a video that is open
LOADERS = 2  # of training and of holdout, whose readers are kept
CHUNK = 256  # samples that are read at once where there are no batches to learn from
# A sample whose size is known only once it is extracted: tokens of eight frames by a ViT-B, or a vector.
UNKNOWN, VECTOR = 3 * MB, 8192
DECODED = (720, 1280)  # of a frame that is resized on the device
SECONDS = 1200.0  # of a video whose length params do not tell


class Share(NamedTuple):
    """What a job asks for: cores, and bytes of memory on the host."""

    cores: int
    memory: int

    @property
    def mem_mb(self) -> int:
        """Whole MB, as schedulers count."""
        return -(-self.memory // MB)


def of_extraction(params: Params, *features: str) -> Share:
    """Of an extraction of features in one pass, or of the derivation of one, which has no decode processes."""
    compute, chosen = params.compute, [params.features[name] for name in features]
    decoded = [of for of in chosen if isinstance(of, PixelFeature)]
    workers = compute.decode_workers if decoded else 0
    message = max((pixel_bytes(of) for of in decoded), default=0)
    # The ring holds AHEAD or two batches, rows are copied for the device, and what comes back is written meanwhile.
    batches = sum(2 * pixel_bytes(of) * of.batch for of in decoded)
    rows = sum(16 * batch_bytes(params, [name]) for name in features)
    waiting = max(DECODED_AHEAD, workers * message) if workers else 0
    return Share(compute.extract_threads + workers, _process(compute) + workers * WORKER + waiting + batches + rows)


def of_training(params: Params, config: Any) -> Share:
    """Of a training of a head, a process a device: cores of a node's processes together, of several nodes of each.

    Memory is a node's. The readers of the holdout are kept while those of training read, and wait: they take memory and
    no core.
    """
    compute, share = params.compute, of_evaluation(params, config)
    together = compute.devices if compute.nodes == 1 else 1
    return Share(together * share.cores, compute.devices * share.memory)


def of_evaluation(params: Params, config: Any) -> Share:
    """Of what reads the stores of a head in one process: an evaluation, an explanation, a probe, a search."""
    compute, size = params.compute, getattr(config, "batch_size", None)
    workers = compute.decode_workers if size else 0  # what has no batches is read by the process itself
    batch = (size or CHUNK) * batch_bytes(params, dict.fromkeys(read.feature for read in config.inputs.values()))
    # Of the two loaders one reads at a time.
    reading = workers * LOADERS * WORKER + min(workers * BATCHES_AHEAD * batch, int(compute.readahead_gb * 1e9))
    held = int(compute.cache_memory_gb * 1e9)
    return Share(compute.threads + workers, _process(compute) + held + reading + 4 * batch)


def most(shares: Iterable[Share]) -> Share:
    """What is enough for each of some jobs that one process runs after the other."""
    cores, memory = zip(*shares, strict=True)
    return Share(max(cores), max(memory))


def within(compute: Compute, cores: int, threads: int) -> Compute:
    """The same for a job that was given so many cores: as many decode processes or readers as these leave.

    They change no byte of what is made. Threads do, by the order of sums, so these stay as params have them.

    Args:
        compute: of params.
        cores: of the job, which has asked for as many as it uses and may have been given fewer.
        threads: those that compute in this job: `compute.threads` or `compute.extract_threads`.

    >>> within(Compute(extract_threads=4, decode_workers=12), 8, 4).decode_workers
    4
    """
    return compute.model_copy(update={"decode_workers": max(0, min(compute.decode_workers, cores - threads))})


def idle_gpus(cores: int, gpus: int, job: Share, gpus_of_job: int) -> int:
    """How many GPUs have no job, since the cores are too few for a job of this kind on each.

    >>> idle_gpus(cores=16, gpus=8, job=Share(13, 0), gpus_of_job=1)
    7
    """
    at_once = max(1, cores // job.cores)
    wanted = gpus // gpus_of_job * gpus_of_job
    return max(0, wanted - at_once * gpus_of_job)


def batch_bytes(params: Params, features: Iterable[str]) -> int:
    """Bytes of one sample of some features as they are read."""
    found = 0
    for name in features:
        contents = params.gives(name)
        try:
            found += sum(sample_bytes(contents, params.features[name], SECONDS))
        except LookupError:
            small = contents and all(isinstance(of, Texts | Vectors) for of in contents.values())
            found += VECTOR if small else UNKNOWN
    return found


def pixel_bytes(feature: PixelFeature) -> int:
    """Bytes of a sample's pixels in float32; of rows of frames, of a batch of them.

    Where a library's processor decides the size, the usual one; of frames as decoded, that of a video of 720 lines.
    """
    if feature.resized_there:
        return 3 * prod(DECODED) * feature.sampling.count
    size = feature.geometry.size if feature.geometry else (224, 224)
    return 12 * prod(size) * (feature.sampling.count or feature.batch)


def sample_bytes(contents: Contents | None, feature: Any, seconds: float | None) -> Iterator[int]:
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


def _process(compute: Compute) -> int:
    return PROCESS + (CUDA if compute.device != "cpu" else 0)


def _rows(fps: float | None, seconds: float | None) -> int | None:
    return None if fps is None or seconds is None else 1 + int(fps * seconds)


def _bytes(*sides: int | tuple[int, int] | None, size: int = 2) -> int:
    if None in sides:
        raise LookupError("a side is not known before extraction")
    return size * prod(prod(of) if isinstance(of, tuple) else of for of in sides)
