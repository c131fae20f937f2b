"""What counts as a lack of memory: what torch and the libraries below it say, by whatever class, and nothing else."""

import mmap

import numpy as np
import pytest
import torch

from pipeline.memory import first_line, is_out_of_memory

# As torch words them: its allocator, its wrappers of the runtime, cuBLAS, cuDNN and its frontend, cuSOLVER and cuFFT.
SAID = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB.",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
]
OTHERS = [
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "DataLoader worker (pid 7) is killed by signal: Killed.",
]


@pytest.mark.parametrize("said", SAID)
def test_torch_s_words_for_each_kind_of_allocation_are_known(said):
    assert is_out_of_memory(RuntimeError(said)) and is_out_of_memory(torch.AcceleratorError(said))
    assert not is_out_of_memory(ValueError(said))  # a person's text may hold the same words


@pytest.mark.parametrize("said", OTHERS)
def test_other_errors_are_none(said):
    assert not is_out_of_memory(RuntimeError(said))


def test_the_real_ones_of_this_machine_are_known():
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(of_torch.value) and is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(torch.OutOfMemoryError("of its own class"))
    with pytest.raises(OSError) as of_the_system:
        mmap.mmap(-1, 1 << 60)
    assert not is_out_of_memory(of_the_system.value)  # told by its number, with the file


def test_an_error_is_told_in_a_line():
    assert first_line(RuntimeError("\none\ntwo")) == "one" and first_line(MemoryError()) == "no more is said"
