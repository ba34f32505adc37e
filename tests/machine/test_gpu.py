"""The one decision about a GPU: which one a process computes on, and why it computes on none."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitnet_bench.machine import gpu
from bitnet_bench.machine.gpu import (
    CardState,
    Gpu,
    find_gpu,
    is_gpu_failure,
    is_out_of_memory,
    why_no_gpu,
    why_no_kernels,
)
from bitnet_bench.machine.nvml import DriverVersion, read_driver

DRIVER = DriverVersion("580.65.06", (13, 0), 1)
H100 = CardState(
    "13.0", True, None, 0, "NVIDIA H100", (9, 0), 70 * 10**9, 80 * 10**9, ("sm_75", "sm_80", "sm_90"), DRIVER, "3.6.0"
)


def _other(**changes: object) -> CardState:
    return dataclasses.replace(H100, **changes)  # type: ignore[arg-type]


def test_a_card_that_torch_reaches_is_found_with_all_that_the_record_says_of_it() -> None:
    found = find_gpu(card=H100)
    assert found == Gpu(0, "NVIDIA H100", (9, 0), 70 * 10**9, 80 * 10**9, "13.0", "580.65.06", "3.6.0")
    assert found.describe() == ("NVIDIA H100 (sm_90, 80 GB), driver 580.65.06, CUDA 13.0, Triton 3.6.0, 70.0 GB free")
    assert why_no_gpu(card=H100) is None
    assert why_no_kernels(found) is None


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (CardState("13.0"), "shows no NVIDIA GPU"),
        (CardState(None, driver=DRIVER), "built for the CPU only"),
        (CardState("13.0", driver=DRIVER, hidden=True), "CUDA_VISIBLE_DEVICES hides"),
        (CardState("13.0", driver=DriverVersion("535.1", (12, 2), 1)), "the driver 535.1 runs CUDA 12.2, too old"),
        (
            CardState("13.0", driver=DRIVER, fault="CUDA unknown error"),
            "although the driver shows 1 (CUDA unknown error)",
        ),
        (_other(fault="CUDA error: out of memory"), "does not answer (CUDA error: out of memory)"),
        (_other(name="Tesla V100", capability=(7, 0)), "compiled for sm_75, sm_80, sm_90, and the Tesla V100 is sm_70"),
    ],
    ids=["none", "cpu build", "hidden", "old driver", "unknown", "full", "not compiled for"],
)
def test_a_machine_without_a_usable_gpu_says_why_in_words(card: CardState, said: str) -> None:
    assert find_gpu(card=card) is None
    assert said in str(why_no_gpu(card=card))


def test_a_card_that_is_too_full_for_the_weights_is_not_used_and_says_what_is_free() -> None:
    full = _other(free_bytes=2 * 10**9)
    assert find_gpu(card=full) is not None, "no weights were asked for"
    assert find_gpu(5e9, full) is None
    assert "has 2.0 of 80.0 GB free, and the model needs about 6.1 GB" in str(why_no_gpu(5e9, full))


def test_without_a_compiler_the_kernels_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton builds a launcher when a kernel first runs, and its own error names no package."""
    found = find_gpu(card=H100)
    assert found is not None
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "no C compiler" in str(why_no_kernels(found))


def test_a_driver_of_the_same_major_cuda_is_not_too_old() -> None:
    said = why_no_gpu(card=CardState("13.2", driver=DriverVersion("580.1", (13, 0), 1)))
    assert "too old" not in str(said)


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((10, 0), ("sm_90a",), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 1), ("sm_90", "compute_120"), True),
        ((10, 3), ("sm_100",), True),
        ((10, 0), ("sm_90", "compute_120"), False),
        ((8, 0), (), True),
        ((9, 4), ("gfx90a", "gfx942"), True),
    ],
)
def test_code_runs_on_later_cards_of_its_generation_and_on_all_later_ones_if_the_driver_compiles_it(
    capability: tuple[int, int], architectures: tuple[str, ...], runs: bool
) -> None:
    assert (find_gpu(card=_other(capability=capability, architectures=architectures)) is not None) == runs


def test_an_old_card_and_a_lack_of_triton_leave_a_gpu_without_our_kernels() -> None:
    old = find_gpu(card=_other(name="Tesla T4", capability=(7, 5)))
    assert old is not None
    assert not old.has_bf16
    assert "is sm_75, and the GPU kernels need sm_80" in str(why_no_kernels(old))
    bare = find_gpu(card=_other(triton=None))
    assert bare is not None
    assert "Triton is not installed" in str(why_no_kernels(bare))


def test_a_lost_gpu_is_told_from_one_that_is_full_and_from_our_own_errors() -> None:
    assert is_gpu_failure(RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."))
    assert is_gpu_failure(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"))
    assert is_gpu_failure(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))
    for full in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"):
        assert not is_gpu_failure(RuntimeError(full))
        assert is_out_of_memory(RuntimeError(full))
    assert not is_gpu_failure(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_gpu_failure(RuntimeError("shape mismatch"))
    assert not is_gpu_failure(ValueError("CUDA error"))


def test_asking_never_raises_where_torch_has_no_gpu() -> None:
    card = gpu.inspect_card()
    if card.available:
        pytest.skip("this machine has a GPU")
    assert find_gpu() is None
    assert why_no_gpu()


def fake_library() -> SimpleNamespace:
    """Return NVML of a machine with two GPUs."""

    def init() -> int:
        return 0

    def tell_driver(text: Any, length: Any) -> int:
        text.value = b"580.65.06"
        return 0

    def tell_cuda(cuda: Any) -> int:
        cuda._obj.value = 13010
        return 0

    def count(found: Any) -> int:
        found._obj.value = 2
        return 0

    return SimpleNamespace(
        nvmlInit_v2=init,
        nvmlSystemGetDriverVersion=tell_driver,
        nvmlSystemGetCudaDriverVersion_v2=tell_cuda,
        nvmlDeviceGetCount_v2=count,
    )


def test_the_driver_tells_its_version_the_newest_cuda_and_its_gpus() -> None:
    assert read_driver(fake_library()) == DriverVersion("580.65.06", (13, 1), 2)
