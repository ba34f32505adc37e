"""Choose the backend and the precision that a checkpoint runs with when the user names none."""

from __future__ import annotations

import logging
from typing import NamedTuple

from bitnet_bench import plugins
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.runs.choices import AUTO as AUTO
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

ENGINE_BACKEND, FALLBACK_BACKEND = "ternary", "hf"
_log = logging.getLogger(__name__)


class RuntimeChoice(NamedTuple):
    """A backend, and why `auto` chose it; the reason is None where the user named the backend."""

    backend: str
    reason: str | None = None


def default_precision(checkpoint: Checkpoint) -> Precision:
    """Return how *checkpoint* runs unless told otherwise: ternary as ternary, floats in the fastest dtype here.

    That is bfloat16 where the processor or the GPU computes in it, else float32: emulated bfloat16 is far slower.
    """
    from bitnet_bench.machine.fast_dtype import fastest_dtype

    if checkpoint.is_ternary:
        return "ternary"
    gpu = find_gpu()
    if gpu is not None and not gpu.has_bf16:
        _log.warning(
            "%s runs in float32: the %s (%s) computes no bfloat16. `precision=fp16` is faster, if its values fit.",
            checkpoint.source,
            gpu.name,
            gpu.architecture,
        )
    return fastest_dtype()


def choose_backend(backend: str, checkpoint: Checkpoint, precision: Precision) -> RuntimeChoice:
    """Return *backend*, or for `auto` the fastest one that runs *checkpoint* at *precision* without approximation.

    Ternary weights run on the engine `ternary` where it fits, which needs a CPU kernel and a known architecture; all
    else runs on `hf`. The reason is logged once, where ternary weights do not get their engine.
    """
    if backend != AUTO:
        plugins.load_plugin("backends", backend)  # an unknown name is an error before anything is read
        return RuntimeChoice(backend)
    if precision != "ternary":
        return RuntimeChoice(FALLBACK_BACKEND, f"{precision} weights run on transformers")
    obstacle = plugins.load_plugin("backends", ENGINE_BACKEND).find_obstacle(checkpoint)
    if obstacle is None:
        return RuntimeChoice(ENGINE_BACKEND, "the ternary engine fits this checkpoint")
    _log.warning(
        "%s runs on the backend `%s`, not on the faster `%s`: %s.",
        checkpoint.source,
        FALLBACK_BACKEND,
        ENGINE_BACKEND,
        obstacle,
    )
    return RuntimeChoice(FALLBACK_BACKEND, obstacle)
