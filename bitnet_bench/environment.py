"""Say which machine and which software a number came from."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from bitnet_bench.records import Environment

PACKAGES = (
    "bitnet-bench",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "lm-eval",
    "sacrebleu",
    "rouge-score",
    "llama-cpp-python",
)


def environment() -> Environment:
    """Return the environment of this process, now."""
    torch = sys.modules.get("torch")
    return Environment(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads() if torch else 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
