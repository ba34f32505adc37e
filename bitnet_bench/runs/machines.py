"""Define what identifies the machine that a cost was measured on, and what else worked there meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from bitnet_bench.runs.value import Value

ID_CHARS = 12


class Machine(Value):
    """A machine by what decides the speed of a model on it, without its name."""

    id: str
    """Digest of the fields up to `gpus`: machines with the same one are of one kind, and their costs compare."""
    cpu: str
    """Name of the processor, and the vector instructions that it has."""
    cores: int
    """Cores that the measurement was allowed to use."""
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    """Models of its GPUs, each once."""
    node: str | None = None
    """Digest of the identity that the operating system gave this one machine, which tells two of one kind apart; None
    if it gave none."""


class Neighbour(Value):
    """A process of others that computed on the machine while something was measured."""

    name: str
    pid: int
    cores: float
    """Mean number of cores that it used over the whole measurement."""
    gpu_bytes: int | None = None
    """Bytes of GPU memory that it held; None if it was on no GPU, or the driver does not say how many."""


class Neighbours(Value):
    """What else worked on the machine from before a measurement until after it."""

    load_before: float | None
    """Mean number of runnable processes over the minute before, as the kernel counts it; None if it does not."""
    load_after: float | None
    busy: tuple[Neighbour, ...] = ()
    """The processes that used most of the processor, the busiest first."""
    on_gpu: tuple[Neighbour, ...] = ()
    """Processes that had work on a GPU before, during or after it."""
    waited_s: float = 0.0
    """Seconds that the measurement waited until others on this machine had ended."""


def make_machine(cpu: str, cores: int, memory_bytes: int, gpus: Iterable[str] = (), node: str | None = None) -> Machine:
    """Return a machine with its id.

    Memory counts in whole GiB, because kernels reserve different parts of it; how many GPUs there are does not, because
    a candidate runs on one.
    """
    models = tuple(sorted(set(gpus)))
    parts = "\n".join((cpu, str(cores), str(round(memory_bytes / 2**30)), *models))
    found = hashlib.sha256(parts.encode()).hexdigest()[:ID_CHARS]
    return Machine(id=found, cpu=cpu, cores=cores, memory_bytes=memory_bytes, gpus=models, node=node)
