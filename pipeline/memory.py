"""What runs out: memory of a device, of this machine, what its processes share, open files, room on a disk.

Knows no tensor and no store.
"""

import errno
import mmap
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
# How libraries that read a file say that they were refused memory, beside libav's ENOMEM: Pillow, HDF5, C++ (decord).
# It is the machine's fault or that of a broken file, which asks for any amount.
REFUSED = ("out of memory when reading image file", "memory allocation failed", "std::bad_alloc")
# libav asks for no more at once, whatever a file says; nor does a file within `limits` need more in one piece.
MOST_AT_ONCE = 2 << 30

# What a machine lacks, by an error's number, and what to do.
FILES = ("open files", "raise the limit of open files (ulimit -n)")
DISK = ("disk space", "free some space")
MEMORY = ("memory", "free some, give the job more, or lower decode_workers or batch")
STORAGE = ("a disk or share that answers", "see that it is mounted and whole, or leave the sample out")
LACKS = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), FILES),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), DISK),
    errno.ENOMEM: MEMORY,
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN), STORAGE),
}


class Shortage(RuntimeError):
    """This machine lacks what it takes to read a sample, which says nothing of the sample: nothing is stored of it.

    The message names the file, what is lacking, and the remedy.
    """


def refuse_shortage(error: BaseException, reading: Path | str) -> None:
    """Raises Shortage where an error that reading a file raised is this machine's; returns where it is the file's.

    To be asked before an error becomes the failure of a sample, which is stored for good.

    Args:
        error: of any library.
        reading: the file that was read, or in words which.
    """
    if isinstance(error, Shortage):
        raise error
    if (lack := _lack(error, reading)) is not None:
        what, remedy = lack
        raise Shortage(
            f"{reading}: this machine is short of {what} ({first_line(error)}), which says nothing of the file; "
            f"{remedy}, and run again"
        ) from error


def _lack(error: BaseException, path: Path | str) -> tuple[str, str] | None:
    """What this machine lacks, and the remedy; None where the error is of the file's making."""
    said, number = str(error), getattr(error, "errno", None)
    by_libav = type(error).__module__.startswith("av.")
    if "Too many open files" in said:  # libraries that keep the number for themselves
        number = errno.EMFILE
    if (by_libav and number == errno.ENOMEM) or any(saying in said for saying in REFUSED):
        return None if _is_granted(MOST_AT_ONCE) else MEMORY
    if is_out_of_memory(error):
        return MEMORY
    if not isinstance(error, OSError) and number != errno.EMFILE:
        return None
    if by_libav and number not in (errno.EMFILE, errno.ENFILE):
        # It has these numbers for what is wrong inside of a file, too.
        return STORAGE if LACKS.get(number) is STORAGE and not _is_readable(path) else None
    return LACKS.get(number)


def _is_granted(nbytes: int) -> bool:
    """Whether the system promises so much memory at once. None of it is touched."""
    try:
        mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def _is_readable(path: Path | str) -> bool:
    """Whether all bytes of a file can be had."""
    try:
        with open(path, "rb", buffering=0) as stream:
            while stream.read(1 << 22):
                pass
    except OSError:
        return False
    return True


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
