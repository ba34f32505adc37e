"""Find out what this machine can run and measure, and how to enable the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import find_compiler, read_environment
from bitnet_bench.machine.gpu import CardState, find_gpu, inspect_card, why_no_gpu, why_no_kernels
from bitnet_bench.measurement.machine_state import read_moment
from bitnet_bench.measurement.peak_memory import read_memory_bytes
from bitnet_bench.runs.value import Value


class Finding(Value):
    """Result of one check of the machine."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(data_variable: str) -> list[Finding]:
    """Return findings about software, arithmetic, meters, runtimes, Korean tokenizers, data and disk, in that order."""
    return [*_inspect_machine(), *_inspect_meters(), *_inspect_runtimes(), *_inspect_data_and_disk(data_variable)]


def _inspect_machine() -> Iterator[Finding]:
    import torch

    here = read_environment()
    yield Finding(what="software", ok=True, found=", ".join(f"{n} {v}" for n, v in here.packages.items()))
    yield Finding(what="processor", ok=True, found=f"{here.cpu}, {here.cores} cores, {here.memory_bytes / 1e9:.0f} GB")
    vnni = torch.cpu._is_vnni_supported()
    slow = "Ternary layers run on float32 products or AVX2: exact, several times slower."
    yield _make_finding("int8 dot products (VNNI)", vnni, "yes", "no", slow)
    yield _inspect_kernel()
    yield from _inspect_gpu(inspect_card())


def _inspect_gpu(card: CardState) -> Iterator[Finding]:
    """Yield findings on whether there is a working GPU, and whether our kernels run on it."""
    gpu = find_gpu(card=card)
    if gpu is None:
        yield Finding(what="GPU", ok=False, found=str(why_no_gpu(card=card)), remedy="Everything runs on the CPU.")
        return
    yield Finding(what="GPU", ok=True, found=gpu.describe())
    yield _make_finding("bfloat16 on the GPU", gpu.has_bf16, "yes", "emulated", "Float models run in float32 there.")
    why = why_no_kernels(gpu)
    yield _make_finding(
        "GPU kernels (Triton)", why is None, "yes", str(why), "`hf` runs ternary weights there, slower."
    )


def _inspect_meters() -> Iterator[Finding]:
    """Yield findings on the meters that can be read while candidates run; records give the reason for missing ones."""
    rapl, nvml = (plugins.load_plugin("meters", name).why_absent() for name in ("rapl", "nvml"))
    yield _make_finding("energy of the CPU (RAPL)", rapl is None, "yes", str(rapl), _suggest_meter(rapl))
    yield _make_finding(
        "energy of GPUs (NVML)", nvml is None, "yes", str(nvml), "Install NVIDIA's driver, on such a machine."
    )
    others = {name: find_spec(name) is not None for name in ("zeus", "codecarbon")}
    missing = ", ".join(name for name, there in others.items() if not there)
    yield _make_finding(
        "other meters",
        not missing,
        "zeus, codecarbon (a model)",
        f"without {missing}",
        "pip install 'bitnet-bench[zeus,codecarbon]'; or `measure --model-energy`, which is modelled",
    )
    pss = read_memory_bytes() is not None
    yield _make_finding(
        "memory without shared pages (PSS)", pss, "yes", "no", "The largest resident memory stands in for it."
    )
    moment = read_moment()
    known = {"clock": moment.frequency_hz, "heat": moment.throttled, "swapping": moment.swapped_bytes}
    unknown = ", ".join(name for name, value in known.items() if value is None)
    yield _make_finding(
        "clock, heat, swapping",
        not unknown,
        "yes",
        f"no {unknown}",
        "A virtual machine does not show it; use a real one.",
    )


def _suggest_meter(reason: str | None) -> str:
    if reason and "root only" in reason:
        return "The command in brackets lets everybody read them."
    return "Measure on bare metal with Intel or AMD RAPL; joules of a model are called modelled."


def _inspect_runtimes() -> Iterator[Finding]:
    built_by = find_compiler()
    builders = [name for name in (built_by, "cmake" if shutil.which("cmake") else None) if name]
    yield _make_finding(
        "compiler",
        built_by is not None,
        ", ".join(builders),
        "none",
        "apt-get install gcc: the kernel is built with it",
    )
    yield _inspect_libllama("llama.cpp", "llamacpp")
    yield _inspect_libllama("bitnet.cpp", "bitnetcpp")


def _inspect_libllama(what: str, backend: str) -> Finding:
    try:
        found: str = plugins.load_plugin("backends", backend).find_build().version
    except BenchError as error:
        return Finding(what=what, ok=False, found=error.problem, remedy=error.hint)
    return Finding(what=what, ok=True, found=found)


def _inspect_data_and_disk(data_variable: str) -> Iterator[Finding]:
    mecab = find_spec("mecab_ko") is not None
    yield _make_finding("Korean morphemes (mecab-ko)", mecab, "yes", "no", "pip install 'sacrebleu[ko]'")
    data = os.environ.get(data_variable, "")
    there = bool(data) and Path(data).is_dir()
    remedy = "Give --data-dir, or rows come from the hub."
    yield _make_finding(f"local data ({data_variable})", there, data, data or "not set", remedy)
    free = shutil.disk_usage(Path.cwd()).free
    yield _make_finding("free disk here", free > 2e9, f"{free / 1e9:.0f} GB", f"{free / 1e9:.1f} GB", "Make room.")


def _make_finding(what: str, ok: bool, yes: str, no: str, remedy: str) -> Finding:
    return Finding(what=what, ok=ok, found=yes if ok else no, remedy="" if ok else remedy)


def _inspect_kernel() -> Finding:
    from bitnet_bench.ternary import kernel

    what = "ternary CPU kernel"
    if kernel.load_library() is None:
        remedy = (
            f"Reinstall with a C compiler, or unset {kernel.KERNEL_VARIABLE}; --backend hf runs without it, slower."
        )
        return Finding(what=what, ok=False, found="not built, or turned off", remedy=remedy)
    return Finding(what=what, ok=True, found=kernel.get_instruction_set(), remedy="")
