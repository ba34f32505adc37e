"""Check that a runtime computes what the checkpoint computes, before it is measured or scored.

The log-probabilities of every token of the vocabulary are compared after each token of a few Korean prompts. Runtimes
round activations by their own rules (llama.cpp by blocks of 256, BitNet by token), so they differ a little; another
activation function, norm or order of rows makes as large a difference as another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress

from pydantic import ValidationError
from torch import Tensor

from bitnet_bench.backends.reference import (
    can_engine_run,
    fits_transformers,
    run_in_transformers,
    run_variants,
    source_logits,
)
from bitnet_bench.backends.variants import (
    LIKELY_ACTIVATIONS,
    is_bitnet_like,
    list_activations,
    list_variants,
)
from bitnet_bench.checkpoints.config import find_activation
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
GATE_VERSION = 2
"""Part of the key of kept comparisons; another number makes all of them anew."""
TRIED_FROM = 0.05
"""Distance from which changes of the model are tried: rounding stays below it, but for coarse types of weights."""
EXPLAINED_SHARE = 0.5
"""Share of the checkpoint's own distance below which a change explains it. What rounding adds, it adds to both."""
LogitsFunction = Callable[[Sequence[Sequence[int]]], Tensor]
"""Function that returns logits [tokens of all prompts, V] in float32."""
Tokenize = Callable[[str], list[int]]


def compare_runtime(
    checkpoint: Checkpoint, precision: Precision, runtime: str, logits: LogitsFunction, tokenize: Tokenize | None
) -> RuntimeParity:
    """Run *checkpoint* here and in *runtime*, and return how far the two are apart, and what explains it.

    Changes of the model are computed only where the runtime is further away than most rounding: a wrong rotation can be
    nearer than the bound. Another activation is tried on every model like BitNet.
    """
    prompts = encode_prompts(checkpoint)
    _check_memory(checkpoint)
    ids = [prompt.tolist() for prompt in prompts]
    theirs = logits(ids)
    ours = source_logits(checkpoint, prompts)
    bound = MAX_ERROR_BY_PRECISION.get(precision, MAX_RELATIVE_ERROR)
    found = compare_logits(ours, theirs, bound=bound, runtime=runtime)
    own_ids = [tokenize(text) for text in PARITY_PROMPTS] if tokenize else ids
    remark = describe_tokens(ids, own_ids)
    if _are_comparable(ours, theirs):
        found = _name_difference(checkpoint, prompts, theirs, found)
        if found.fault and remark and _is_renumbered(ids, own_ids, ours, logits, bound):
            fault = f"{runtime} has another vocabulary: it computes the same with other ids for the same tokens"
            found = found.model_copy(update={"fault": fault})
    return found.model_copy(update={"same_tokens": remark is None if tokenize else None, "remark": remark})


def compare_logits(ours: Tensor, theirs: Tensor, *, bound: float, runtime: str) -> RuntimeParity:
    """Compare logits [T, V] of the checkpoint and of a runtime."""
    if not _are_comparable(ours, theirs):
        return RuntimeParity(
            runtime=runtime, prompt_tokens=len(ours), bound=bound, fault=f"{runtime} {_describe_logits(ours, theirs)}"
        )
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


def _are_comparable(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool(theirs.isfinite().all())


def _describe_logits(ours: Tensor, theirs: Tensor) -> str:
    """Return what is wrong with the logits of a runtime that cannot be compared."""
    if len(ours) == len(theirs) and ours.shape[-1] != theirs.shape[-1]:
        return f"has a vocabulary of {theirs.shape[-1]:,} tokens where the checkpoint has {ours.shape[-1]:,}"
    return f"gives no logits of the shape {tuple(ours.shape)}, or some that are not finite"


def _name_difference(
    checkpoint: Checkpoint, prompts: Sequence[Tensor], theirs: Tensor, found: RuntimeParity
) -> RuntimeParity:
    """Return *found* with the activation that comes nearest to *theirs*, and with the change that explains a fault."""
    config = Weights(checkpoint).config
    likely = list_activations(config, LIKELY_ACTIVATIONS) if is_bitnet_like(config) else []
    own, bound = found.relative_error or 0.0, found.bound or 0.0
    variants = list_variants(config) if not own <= TRIED_FROM else likely
    distances = {v: _distance(logits, theirs)[1] for v, logits in run_variants(checkpoint, prompts, variants)}
    rest = [variant for variant in variants if variant not in distances]
    unexplained = min(distances.values(), default=own) > min(bound, EXPLAINED_SHARE * own)
    # one activation can be near another that only transformers computes: GELU is to a ReLU where values are large
    unexplained = unexplained or bool(min(distances, key=distances.__getitem__).activation)
    if rest and found.fault and unexplained and fits_transformers(checkpoint):
        distances |= {v: _distance(logits, theirs)[1] for v, logits in run_in_transformers(checkpoint, prompts, rest)}
    if not distances:
        return found
    variant, nearest = min(distances.items(), key=lambda pair: pair[1])
    explains = nearest <= bound and (nearest < EXPLAINED_SHARE * own or (variant in likely and nearest < own))
    fault = found.fault
    if explains:
        fault = f"{found.runtime} {variant.says}"
    elif nearest < EXPLAINED_SHARE * own:
        fault = f"{found.fault}; the nearest is a model that {variant.says}"
    computes = variant.activation if explains and variant.activation else find_activation(config)
    is_known = explains or (bool(likely) and found.fault is None)
    return found.model_copy(update={"fault": fault, "activation": computes if is_known else None})


def describe_tokens(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> str | None:
    """Return how a runtime's ids of `PARITY_PROMPTS` differ from the checkpoint's; None if they do not."""
    differing = [(text, a, b) for text, a, b in zip(PARITY_PROMPTS, ours, theirs, strict=True) if list(a) != list(b)]
    if not differing:
        return None
    text, a, b = differing[0]
    where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    said = f"its tokenizer gives other ids for {len(differing)} of {len(PARITY_PROMPTS)} prompts: "
    if list(b[1:]) == list(a):
        return f"{said}it puts {b[0]} before the text"
    if list(a[1:]) == list(b):
        return f"{said}it leaves out {a[0]} before the text"
    return f"{said}{len(b)} instead of {len(a)} for “{text[:12]}…”, from the id at {where} on"


def _is_renumbered(
    ids: Sequence[Sequence[int]],
    own_ids: Sequence[Sequence[int]],
    ours: Tensor,
    logits: LogitsFunction,
    bound: float,
) -> bool:
    """Return whether the runtime computes the checkpoint when it is asked with the ids of its own tokenizer.

    The tokens of the prompts are compared, whose numbers in both vocabularies are known.
    """
    if [len(row) for row in ids] != [len(row) for row in own_ids]:
        return False
    numbers = {a: b for row, other in zip(ids, own_ids, strict=True) for a, b in zip(row, other, strict=True)}
    theirs = logits(own_ids)
    if not _are_comparable(ours, theirs) or len(set(numbers.values())) < len(numbers):
        return False
    source = ours.log_softmax(-1)[:, list(numbers)]
    other = theirs.log_softmax(-1)[:, list(numbers.values())]
    return bool((source - other).abs().mean() <= bound * ours.log_softmax(-1).std())


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
    with suppress(OSError, ValidationError):  # there is none, or it is damaged: it is found again
        return RuntimeParity.model_validate_json(kept.read_bytes())
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
    said = f"{checkpoint.weights_id} {describe_file(file)} {runtime} {GATE_VERSION}"
    return hashlib.sha256(said.encode()).hexdigest()[:32]
