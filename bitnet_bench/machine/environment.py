"""Record which machine and which software a number came from."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.processes import count_cores
from bitnet_bench.runs.records import Environment

RECORDED_PACKAGES = (
    "bitnet-bench",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "lm-eval",
    "sacrebleu",
    "rouge-score",
    "xllamacpp",
)
VECTOR_INSTRUCTIONS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
)
"""Vector instructions that decide the speed of ternary, bfloat16 and float products."""


def find_compiler() -> str | None:
    """Return the name of a C compiler of this machine, None if there is none."""
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def read_environment() -> Environment:
    """Return the current environment of this process."""
    torch = sys.modules.get("torch")
    return Environment(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=describe_processor(),
        cores=count_cores(),
        threads=torch.get_num_threads() if torch else 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        packages={name: version for name in RECORDED_PACKAGES if (version := _find_version(name))},
        gpu=_describe_gpu() if torch else None,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def _describe_gpu() -> str | None:
    gpu = find_gpu()
    return gpu.identify() if gpu else None


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def parse_processor(cpuinfo: str) -> str | None:
    """Return name and vector instructions of the first processor in the text of /proc/cpuinfo; None without a name.

    Processors of one name exist with and without AVX-512, and a number from one says nothing about the other.
    """
    fields = (line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    first: dict[str, str] = {}
    for key, value in fields:
        first.setdefault(key.strip(), value.strip())
    name = first.get("model name")
    flags = (first.get("flags") or first.get("Features") or "").split()
    has = [flag for flag in VECTOR_INSTRUCTIONS if flag in flags]
    return name and (f"{name} ({' '.join(has)})" if has else name)


def describe_processor() -> str:
    """Return the name of the processor, with the vector instructions that it has."""
    try:
        found = parse_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found or platform.processor() or platform.machine()
