"""Decide whether this process computes on a GPU, and explain why if it does not.

Every part of the program uses this module: doctor, the record, the choice of a backend, and the backends themselves.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sysconfig
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bitnet_bench.machine.nvml import DriverVersion, read_driver

BF16_CAPABILITY = (8, 0)
"""Compute capability (Ampere) from which a GPU computes in bfloat16, and for which our Triton kernels are compiled."""
BYTES_BESIDE_WEIGHTS = 2**30
"""Bytes on the card that a run needs in addition to its weights: cuBLAS workspaces, activations, key-value cache."""
FAILURE_MARKS = ("CUDA error", "CUBLAS_STATUS", "CUDA driver", "Triton Error [CUDA]")
SHORTAGE_MARKS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""Parts of the error messages of torch, cuBLAS, Triton and the CPU's allocator when memory is short."""
VISIBLE_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """The current state of a GPU on which torch computes; *index* is torch's number of it, the current device."""

    index: int
    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    torch_cuda: str = ""
    """CUDA version that torch was built with."""
    driver: str = ""
    triton: str | None = None
    """Triton's version; None if it is not installed."""

    @property
    def has_bf16(self) -> bool:
        """True if the card computes in bfloat16 without emulation."""
        return self.capability >= BF16_CAPABILITY

    @property
    def architecture(self) -> str:
        """Name of its instruction set, such as `sm_90`."""
        return "sm_{}{}".format(*self.capability)

    def identify(self) -> str:
        """Return one line about the card, its driver and the software that uses it."""
        parts = [
            f"{self.name} ({self.architecture}, {self.total_bytes / 1e9:.0f} GB)",
            f"driver {self.driver}" if self.driver else "",
            f"CUDA {self.torch_cuda}" if self.torch_cuda else "",
            f"Triton {self.triton}" if self.triton else "no Triton",
        ]
        return ", ".join(part for part in parts if part)

    def describe(self) -> str:
        """Return the line of `identify` with the free memory."""
        return f"{self.identify()}, {self.free_bytes / 1e9:.1f} GB free"


@dataclass(frozen=True)
class CardState:
    """What torch and the driver report, before it is judged."""

    torch_cuda: str | None = None
    """CUDA version that torch was built with; None for a build without CUDA."""
    available: bool = False
    """Result of `torch.cuda.is_available`."""
    fault: str | None = None
    """Error of a query of the card, or torch's warning that it has none."""
    index: int = 0
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    free_bytes: int = 0
    total_bytes: int = 0
    architectures: Sequence[str] = ()
    """Targets that torch was compiled for: `sm_80`, or `compute_120` for code that the driver compiles further."""
    driver: DriverVersion | None = None
    triton: str | None = None
    hidden: bool = False
    """True if the user hides all GPUs from CUDA."""


def inspect_card() -> CardState:
    """Query torch and the driver about the current device. Errors are returned in `fault`, and nothing is raised."""
    import torch

    hidden = os.environ.get(VISIBLE_DEVICES_VARIABLE) in ("", "-1", "NoDevFiles")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    warned = next((str(one.message).splitlines()[0] for one in said if "CUDA" in str(one.message)), None)
    if not available:
        return CardState(torch.version.cuda, fault=warned, driver=read_driver(), hidden=hidden)
    try:
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        idle = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        return CardState(
            torch.version.cuda,
            True,
            None,
            index,
            torch.cuda.get_device_name(index),
            torch.cuda.get_device_capability(index),
            free + idle,  # memory that torch's allocator holds unused is free for this process
            total,
            tuple(torch.cuda.get_arch_list()),
            read_driver(),
            find_triton_version(),
        )
    except RuntimeError as error:  # includes torch.AcceleratorError: a card that is full or broken
        return CardState(torch.version.cuda, True, first_error_line(error), driver=read_driver())


def find_gpu(needed_bytes: float = 0, card: CardState | None = None) -> Gpu | None:
    """Return the GPU that this process computes on, None if it computes on the CPU (`why_no_gpu` says why).

    *needed_bytes* is the size of the weights to be loaded; with 0, a card that answers is enough.
    """
    card = inspect_card() if card is None else card
    if why_no_gpu(needed_bytes, card) is not None:
        return None
    driver = card.driver.driver if card.driver else ""
    return Gpu(
        card.index,
        card.name,
        card.capability,
        card.free_bytes,
        card.total_bytes,
        card.torch_cuda or "",
        driver,
        card.triton,
    )


def why_no_gpu(needed_bytes: float = 0, card: CardState | None = None) -> str | None:
    """Return why this process computes on the CPU, as the end of a sentence; None if it has a GPU."""
    card = inspect_card() if card is None else card
    if not card.available:
        return _why_unavailable(card)
    if card.fault:
        return f"the GPU does not answer ({card.fault})"
    if not _is_compiled_for(card.capability, card.architectures):
        return (
            f"this torch is compiled for {', '.join(card.architectures)}, and the {card.name} is sm_{{}}{{}}".format(
                *card.capability
            )
            + " (another build of torch may have it)"
        )
    wanted = needed_bytes + BYTES_BESIDE_WEIGHTS if needed_bytes else 0
    if card.free_bytes < wanted:
        return (
            f"the {card.name} has {card.free_bytes / 1e9:.1f} of {card.total_bytes / 1e9:.1f} GB free, and the model "
            f"needs about {wanted / 1e9:.1f} GB there (`nvidia-smi` shows who holds the rest)"
        )
    return None


def choose_gpu(what: str, needed_bytes: float) -> Gpu | None:
    """Return the GPU for *what*, whose weights take *needed_bytes*; else None, with a warning if there is a GPU."""
    card = inspect_card()
    why = why_no_gpu(needed_bytes, card)
    if why is None:
        return find_gpu(needed_bytes, card)
    if card.driver is not None and card.driver.gpus and not card.hidden:
        _log.warning("%s runs on the CPU: %s.", what, why)
    return None


def why_no_kernels(gpu: Gpu) -> str | None:
    """Return why our Triton kernels do not run on *gpu*, as the end of a sentence; None if they do."""
    if not gpu.has_bf16:
        oldest = "sm_{}{}".format(*BF16_CAPABILITY)
        return f"the {gpu.name} is {gpu.architecture}, and the GPU kernels need {oldest} (Ampere) or newer"
    if gpu.triton is None:
        return "Triton is not installed, and the GPU kernels need it (pip install triton)"
    return why_no_launchers()


def why_no_launchers() -> str | None:
    """Return why Triton cannot build the launchers of its kernels, as the end of a sentence; None if it can."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler, with which Triton builds what starts its kernels (apt-get install gcc)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's headers are missing, which Triton needs to start its kernels (apt-get install python3-dev)"
    return None


def find_gpu_uuid() -> str | None:
    """Return the driver's UUID of the GPU that this process computes on; None without one, or if torch has no UUID."""
    import torch

    gpu = find_gpu()
    uuid = getattr(torch.cuda.get_device_properties(gpu.index), "uuid", None) if gpu else None
    return f"GPU-{uuid}" if uuid else None


def find_triton_version() -> str | None:
    """Return the version of Triton; None if it is not installed."""
    for package in ("triton", "pytorch-triton", "triton-windows"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def is_gpu_failure(error: BaseException) -> bool:
    """Return whether *error* says that the GPU itself failed, after which this process cannot use it any more."""
    import torch

    if is_out_of_memory(error):
        return False
    lost = getattr(torch, "AcceleratorError", None)  # since torch 2.8; earlier versions raise RuntimeError
    said = str(error)
    return (lost is not None and isinstance(error, lost)) or (
        isinstance(error, RuntimeError) and any(mark in said for mark in FAILURE_MARKS)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether *error* says that memory of a GPU or of the machine was insufficient."""
    import torch

    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(mark in said for mark in SHORTAGE_MARKS)
    )


def first_error_line(error: BaseException) -> str:
    """Return the first line of an error's message; CUDA appends advice for debugging."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _why_unavailable(card: CardState) -> str:
    if card.driver is None or not card.driver.gpus:
        return "this machine shows no NVIDIA GPU"
    if card.torch_cuda is None:
        return "this torch is built for the CPU only (install one with CUDA)"
    if card.hidden:
        return f"{VISIBLE_DEVICES_VARIABLE} hides the GPU"
    needed = tuple(int(part) for part in card.torch_cuda.split(".")[:2])
    if card.driver.cuda < (*needed[:1], 0):  # a driver runs every CUDA of its own major version
        return (
            f"the driver {card.driver.driver} runs CUDA {card.driver.cuda[0]}.{card.driver.cuda[1]}, too old for this "
            f"torch, which is built with {card.torch_cuda} (install a newer driver, or a torch for an older CUDA)"
        )
    return f"torch finds no GPU although the driver shows {card.driver.gpus}" + (
        f" ({card.fault})" if card.fault else ""
    )


def _is_compiled_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether code for one of *architectures* runs on a card: of its generation, or compiled by the driver."""
    known = [found for name in architectures if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name))]
    for found in known:
        kind, built_for = found[1], (int(found[2]), int(found[3]))
        if (kind == "compute" and built_for <= capability) or built_for == capability:
            return True
        if kind == "sm" and found[4] != "a" and built_for[0] == capability[0] and built_for[1] <= capability[1]:
            return True
    return not known  # torch does not say, or it is a build without CUDA
