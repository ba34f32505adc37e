"""Check that a runtime computes what the checkpoint computes, before it is measured or scored.

The log-probabilities of every token of the vocabulary are compared after each token of a few Korean prompts. Runtimes
round activations by their own rules (llama.cpp by blocks of 256, BitNet by token), so they differ a little; another
activation function, norm or order of rows makes as large a difference as another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

from bitnet_bench.backends.reference import can_engine_run, source_logits
from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.checkpoints.gguf.exports import is_itself
from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.parity import PARITY_PROMPTS, encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.machine.memory import USABLE_SHARE, find_free_ram
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

MAX_ERROR_BY_PRECISION: dict[Precision, float] = {"q4_0": 0.5}
MAX_RELATIVE_ERROR = 0.15
"""Largest mean |difference| of log-probabilities, in standard deviations of the checkpoint's. A Q4_0 file rounds the
weights themselves, by up to an eighth, so `MAX_ERROR_BY_PRECISION` allows it more."""
OTHER_ACTIVATIONS = {"silu": "SiLU", "relu2": "a squared ReLU", "gelu": "GELU", "relu": "ReLU"}
LogitsFunction = Callable[[Sequence[Sequence[int]]], Tensor]
"""Function that returns logits [tokens of all prompts, V] in float32."""


def compare_runtime(
    checkpoint: Checkpoint,
    precision: Precision,
    runtime: str,
    logits: LogitsFunction,
    tokenize: Callable[[str], list[int]] | None,
    computes: str | None = None,
) -> RuntimeParity:
    """Run *checkpoint* here and in *runtime*, and return how far the two are apart.

    *computes* is the activation that the runtime is known to have for the architecture, whatever the checkpoint says.
    """
    prompts = encode_prompts(checkpoint)
    _check_memory(checkpoint)
    theirs = logits([ids.tolist() for ids in prompts])
    ours = source_logits(checkpoint, prompts)
    config = Weights(checkpoint).config
    wanted = str(config.get("hidden_act") or config.get("hidden_activation") or "silu")
    swapped = None
    if computes not in (None, wanted):
        swapped = source_logits(checkpoint, prompts, computes)
    same = (
        None
        if tokenize is None
        else all(tokenize(p) == i.tolist() for p, i in zip(PARITY_PROMPTS, prompts, strict=True))
    )
    found = compare_logits(
        ours, theirs, swapped, bound=MAX_ERROR_BY_PRECISION.get(precision, MAX_RELATIVE_ERROR), runtime=runtime
    )
    if swapped is not None and swapped.shape == theirs.shape and _distance(swapped, theirs) < _distance(ours, theirs):
        has, does = (OTHER_ACTIVATIONS.get(name or "", name) for name in (wanted, computes))
        found = found.model_copy(update={"fault": f"{runtime} computes {does} where the checkpoint has {has}"})
    return found.model_copy(update={"same_tokens": same})


def compare_logits(
    ours: Tensor, theirs: Tensor, swapped: Tensor | None, *, bound: float, runtime: str
) -> RuntimeParity:
    """Compare logits [T, V] of the checkpoint and of a runtime; *swapped* are the former with another activation."""
    if ours.shape != theirs.shape or not bool(theirs.isfinite().all()):
        broken = f"{runtime} gives no logits of the shape {tuple(ours.shape)}, or some that are not finite"
        return RuntimeParity(runtime=runtime, prompt_tokens=len(ours), bound=bound, fault=broken)
    nats, relative = _distance(ours, theirs)
    fault: str | None = None
    if not relative <= bound:
        fault = f"{runtime} computes another model: its log-probabilities are off by {nats:.2g} nats in the mean"
    return RuntimeParity(
        runtime=runtime,
        prompt_tokens=len(ours),
        mean_error=nats,
        relative_error=relative,
        bound=bound,
        fault=fault,
    )


def _distance(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Return the mean |difference| of log-probabilities in nats, and in standard deviations of *ours*."""
    source, other = ours.log_softmax(-1), theirs.log_softmax(-1)
    nats = float((source - other).abs().mean())
    return nats, nats / float(source.std())


def _check_memory(checkpoint: Checkpoint) -> None:
    floats = checkpoint.parameters - (checkpoint.ternary_parameters if can_engine_run(checkpoint) else 0)
    needed, free = 4 * floats + checkpoint.ternary_parameters, find_free_ram()
    if needed > USABLE_SHARE * free:
        raise BenchError(
            f"{checkpoint.source} cannot be run beside the runtime to compare them: that takes {needed / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB are free.",
            "Use a machine with more memory.",
        )


def find_or_compare(
    checkpoint: Checkpoint, file: GgufFile, runtime: str, compare: Callable[[], RuntimeParity]
) -> RuntimeParity:
    """Return what *compare* finds for *file* in *runtime*, from the cache if the file has not changed since.

    The weights are compared with the checkpoint's first.
    """
    kept = find_cache_folder() / "parity" / f"{_key(checkpoint, file, runtime)}.json"
    if kept.is_file():
        return RuntimeParity.model_validate_json(kept.read_text(encoding="utf-8"))
    if not is_itself(checkpoint, file):
        compare_weights(checkpoint, file)
    found = compare()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, found.model_dump_json(indent=1))
    return found


def check_parity(parity: RuntimeParity, allow_mismatch: bool) -> None:
    """Raise BenchError if the runtime computes another model and *allow_mismatch* is false."""
    if parity.fault and not allow_mismatch:
        raise BenchError(
            f"{parity.fault} ({_figures(parity)}).",
            "Its answers are not the checkpoint's. Use `backend=ternary` or `backend=hf`; `allow_mismatch` runs it "
            "anyway and marks what it gives.",
        )


def _figures(parity: RuntimeParity) -> str:
    if parity.relative_error is None or parity.bound is None:
        return "nothing could be compared"
    return f"{parity.relative_error:.2f} standard deviations on {parity.prompt_tokens} tokens, bound {parity.bound:g}"


def describe_file(file: GgufFile) -> str:
    """Return what identifies a file in its present state, without reading it: its path, size and modification time."""
    state = file.path.stat()
    return f"{file.path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _key(checkpoint: Checkpoint, file: GgufFile, runtime: str) -> str:
    """Return the cache key of a comparison: the checkpoint, the file's present state, and the runtime's version."""
    said = f"{checkpoint.weights_id} {describe_file(file)} {runtime}"
    return hashlib.sha256(said.encode()).hexdigest()[:32]
