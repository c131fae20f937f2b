"""What runs out: memory of a device, of this machine, and what its processes share. Knows no tensor and no store."""

import shutil
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# What processes have ready and nobody has taken yet: pixels that an extraction decoded, over all of its processes,
# unless one message is more; and batches of features, of each reader, as far as `readahead_gb` goes.
DECODED_AHEAD = 256 << 20
BATCHES_AHEAD = 2

# How torch and the libraries below it say that an allocation failed, beside torch.OutOfMemoryError: the CUDA runtime
# (a context, pinned memory, a copy), cuBLAS, cuSOLVER, cuFFT and cuDNN (handles, workspaces), cuDNN 9 by its own words,
# the search for a convolution whose workspace fits, and the allocator of the CPU.
SAYINGS = (
    "out of memory",
    "_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of a device or of this machine could not be had, by whatever library.

    Torch's own class is known by its name, since its import would cost a command line a second.

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    >>> is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip().splitlines() or ["no more is said"])[0]


def megabytes(size: float) -> str:
    """Bytes, as people read them.

    >>> megabytes(2_345_678_901), megabytes(20_400)
    ('2,345.7 MB', '20.4 kB')
    """
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def shared_memory_left(folder: Path = SHARED_MEMORY) -> int | None:
    """Bytes that processes may still share; None where the system has no such place, and no bound."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None
