"""Read what identifies this machine: what decides its speed, and which one of its kind it is."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from bitnet_bench.machine.environment import describe_processor
from bitnet_bench.machine.gpu_processes import read_gpu_models
from bitnet_bench.processes import count_cores
from bitnet_bench.runs.machines import ID_CHARS, Machine, make_machine

ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
"""Where an operating system keeps the identity of one machine."""
APPLICATION = b"bitnet-bench"


def read_machine() -> Machine:
    """Return the machine that this process runs on."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return make_machine(describe_processor(), count_cores(), memory_bytes, read_gpu_models(), read_node())


def read_node(files: Sequence[Path] = ID_FILES) -> str | None:
    """Return a digest of the identity of this one machine; None if the operating system gave it none.

    The identity itself must not be published (machine-id(5)): it is keyed with the name of the application.
    """
    for file in files:
        try:
            text = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return hmac.new(text.encode(), APPLICATION, hashlib.sha256).hexdigest()[:ID_CHARS]
    return None
