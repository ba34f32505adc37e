"""Choose the backend and the precision of a checkpoint if the user names none."""

from __future__ import annotations

import logging
from typing import NamedTuple, cast, get_args

from bitnet_bench import plugins
from bitnet_bench.errors import UsageError
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.runs.choices import AUTO as AUTO
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

STORED_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
ENGINE_BACKEND, FALLBACK_BACKEND = "ternary", "hf"
_log = logging.getLogger(__name__)


class RuntimeChoice(NamedTuple):
    """A backend, and the reason why `auto` chose it; None if the user named the backend."""

    backend: str
    reason: str | None = None


def default_precision(checkpoint: Checkpoint, backend: str = AUTO) -> Precision:
    """Return the default precision of *checkpoint*: ternary if it is ternary, else the fastest dtype of this machine.

    That is bfloat16 if the processor or the GPU computes in it, else float32: emulated bfloat16 is far slower. A
    *backend* that runs GGUF files runs one as it is.
    """
    from bitnet_bench.machine.fast_dtype import fastest_dtype

    if checkpoint.is_ternary:
        return "ternary"
    if own := find_own_precision(checkpoint, backend):
        return own
    gpu = find_gpu()
    if gpu is not None and not gpu.has_bf16:
        _log.warning(
            "%s runs in float32: the %s (%s) computes no bfloat16. `precision=fp16` is faster, if its values fit.",
            checkpoint.source,
            gpu.name,
            gpu.architecture,
        )
    return fastest_dtype()


def find_own_precision(checkpoint: Checkpoint, backend: str | None) -> Precision | None:
    """Return the precision at which *backend* runs a float GGUF file as it is; None if it does not run one so."""
    if not checkpoint.is_gguf or backend is None or backend == AUTO:
        return None
    if not plugins.load_plugin("backends", backend).runs_gguf:
        return None
    stored = find_stored_precision(checkpoint)
    return stored if stored in get_args(Precision) else "fp16"  # a type that only its writer's runtime reads


def find_stored_precision(checkpoint: Checkpoint) -> Precision:
    """Return the precision at which the layers of a GGUF file are stored."""
    if checkpoint.is_ternary:
        return "ternary"
    return cast("Precision", STORED_PRECISIONS.get(checkpoint.dtype, checkpoint.dtype.lower()))


def choose_backend(backend: str, checkpoint: Checkpoint, precision: Precision) -> RuntimeChoice:
    """Return *backend*, or for `auto` the fastest one that runs *checkpoint* at *precision* without approximation.

    Ternary weights run on the engine `ternary` if it fits, which needs a CPU kernel and a known architecture; all
    others run on `hf`. If ternary weights do not run on the engine, the reason is logged once.
    """
    if backend != AUTO:
        # raises for an unknown name before anything is read
        if plugins.load_plugin("backends", backend).is_remote:
            raise UsageError(
                f"The backend {backend!r} asks a model on a server, and opens no checkpoint.",
                "Score or ask it with `base_url` in `evaluate` or `chat`; what a server costs is not measured.",
            )
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
