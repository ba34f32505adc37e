"""Write a checkpoint as a GGUF file, one tensor at a time.

Ternary layers keep their codes, -1, 0 and +1, and the float32 scale is stored in a tensor `.scale` next to them, which
llama.cpp multiplies the product by. Stored in the blocks of TQ1_0 and TQ2_0 it would be rounded to float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.checkpoints.config import find_activation
from bitnet_bench.checkpoints.gguf.group_types import pack_codes, split_groups
from bitnet_bench.checkpoints.gguf.naming import (
    ACTIVATION_KEY,
    I2S_ORDER_KEY,
    PRECISION_FIELD,
    QUANTIZES_KEY,
    SOURCE_KEY,
    GgufLayout,
    GgufRuntime,
    make_layout,
)
from bitnet_bench.checkpoints.gguf.types import (
    BF16,
    EMBEDDING_TYPES,
    F16,
    F32,
    Q2_0,
    Q8_0,
    TENSOR_TYPE_BY_NAME,
    TERNARY_GGUF_TYPES,
    Array,
    Form,
    TensorType,
    pack_tensor,
)
from bitnet_bench.checkpoints.gguf.vocabulary import add_vocabulary
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.files import explain_disk_errors, open_partial_folder
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.choices import EmbeddingType
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.groups import scale_groups

FILE_TYPES: dict[Form, int] = {
    "f16": 1,
    "q4_0": 2,
    "q8_0": 7,
    "bf16": 32,
    "tq1_0": 36,
    "tq2_0": 37,
    "i2_s": 40,
    "q2_0": 41,
}
"""Value of `general.file_type` (LLAMA_FTYPE) by form: the type of most tensors of a file."""


@dataclass(frozen=True)
class PlannedGgufTensor:
    """A tensor to be written, and the function that returns its bytes."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    data: Callable[[], Array]


def find_runtime(form: Form) -> GgufRuntime:
    """Return the runtime that reads files of *form*; only bitnet.cpp reads I2_S."""
    return "bitnet.cpp" if form == "i2_s" else "llama.cpp"


def write_gguf(
    checkpoint: Checkpoint, form: Form, out: Path, progress: Progress, embeddings: EmbeddingType | None = None
) -> tuple[str, ...]:
    """Write *checkpoint* to the new file *out*; return the layers stored as floats: *form* cannot hold their rows.

    *embeddings* is the type of embedding and head, by default that of `embedding_type`. BenchError for what the runtime
    cannot compute, or for a value that *form* cannot hold.
    """
    from gguf import GGUFWriter

    from bitnet_bench.checkpoints.loading import find_end_ids, load_tokenizer

    if out.exists():
        raise BenchError(f"{out} is there already.", "Give another OUT, or delete the file.")
    weights = Weights(checkpoint)
    _check_holds_codes(checkpoint, form)
    found = make_layout(checkpoint, weights.config, find_runtime(form))
    plan = list(plan_gguf_tensors(weights, found, form, embeddings))
    tokenizer = load_tokenizer(checkpoint)
    ends = find_end_ids(checkpoint, tokenizer)
    with explain_disk_errors(out), open_partial_folder(out.absolute().parent) as part:
        writer = GGUFWriter(part, found.architecture)
        _add_settings(writer, checkpoint, weights, found, form)
        add_vocabulary(writer, tokenizer, Path(checkpoint.path), weights.config["vocab_size"], ends)
        _write_tensors(writer, plan, progress)
        part.rename(out)
    return tuple(entry.name for entry in plan if form in TERNARY_GGUF_TYPES and _is_fallback(entry, found, weights))


def plan_gguf_tensors(
    weights: Weights, found: GgufLayout, form: Form, embeddings: EmbeddingType | None = None
) -> Iterator[PlannedGgufTensor]:
    """Yield every tensor of the file: floats first, then ternary layers with their scales and biases."""
    for name in weights.floats:
        yield _plan_float(weights, found, form, name, embeddings)
    for module in weights.ternary:
        yield from _plan_ternary(weights, found, form, module)
    factors = found.compute_rope_factors()
    if factors is not None:
        yield PlannedGgufTensor(
            "rope_freqs.weight", F32, tuple(factors.shape), lambda: pack_tensor(factors.numpy(), F32)
        )


def embedding_type(form: Form, columns: int, wanted: EmbeddingType | None = None) -> TensorType:
    """Return the type of embedding and head: that of the weights, 8 bits with Q4_0, F16 with ternary weights.

    BenchError if rows of *columns* values cannot be stored as the type that is *wanted*.
    """
    if wanted is not None:
        if not EMBEDDING_TYPES[wanted].can_hold_rows(columns):
            raise BenchError(
                f"Rows of {columns:,} values are no whole blocks of {EMBEDDING_TYPES[wanted].block}: {wanted} cannot "
                "hold the embedding.",
                "Give q8_0 or f16 as `embeddings`.",
            )
        return EMBEDDING_TYPES[wanted]
    return _default_embedding_type(form, columns)


def _default_embedding_type(form: Form, columns: int) -> TensorType:
    wanted = {"bf16": BF16, "q8_0": Q8_0, "q4_0": Q8_0}.get(form, F16)
    return wanted if wanted.can_hold_rows(columns) else F16


def fallback_type(form: Form) -> TensorType:
    """Return the type of a ternary layer whose rows *form* cannot hold.

    With I2_S the scale is multiplied into the weights, since bitnet.cpp reads no `.scale`, and F16 would round them.
    """
    return F32 if form == "i2_s" else F16


def _plan_float(
    weights: Weights, found: GgufLayout, form: Form, name: str, embeddings: EmbeddingType | None
) -> PlannedGgufTensor:
    shape = weights.dtype_and_shape(name)[1]
    target = found.name(name)
    if len(shape) < 2:
        kind = F32
    elif target.startswith(("token_embd", "output.")):
        kind = embedding_type(form, shape[-1], embeddings)
    else:
        kind = TENSOR_TYPE_BY_NAME[form] if TENSOR_TYPE_BY_NAME[form].can_hold_rows(shape[-1]) else F16
    module, offset = name.rpartition(".")[0], float(found.is_offset_norm(name))

    def values() -> Array:
        rows = found.rows(module, weights.tensor(name))
        return pack_tensor(_to_checked_float32(rows.float() + offset if offset else rows, kind), kind)

    return PlannedGgufTensor(target, kind, shape, values)


def _plan_ternary(weights: Weights, found: GgufLayout, form: Form, module: str) -> Iterator[PlannedGgufTensor]:
    name, shape = found.name(module), weights.ternary[module]
    if weights.group_size:
        yield _plan_groups(weights, found, form, module)
        if weights.bias(module) is not None:
            yield PlannedGgufTensor(f"{name}.bias", F32, shape[:1], lambda: _read_bias(weights, found, module))
        return
    kind = TENSOR_TYPE_BY_NAME[form] if TENSOR_TYPE_BY_NAME[form].can_hold_rows(shape[1]) else fallback_type(form)

    def codes() -> Array:
        values, gamma = weights.codes(module)
        rows = found.rows(module, values)
        if kind == F32:
            rows = rows * gamma
        return pack_tensor(rows.numpy(), kind, float(gamma))

    yield PlannedGgufTensor(f"{name}.weight", kind, shape, codes)
    if form != "i2_s":
        yield PlannedGgufTensor(
            f"{name}.scale", F32, (1,), lambda: pack_tensor(_read_gamma(weights, module).reshape(1).numpy(), F32)
        )
    if weights.bias(module) is not None:
        yield PlannedGgufTensor(f"{name}.bias", F32, shape[:1], lambda: _read_bias(weights, found, module))


def _plan_groups(weights: Weights, found: GgufLayout, form: Form, module: str) -> PlannedGgufTensor:
    """Return a layer, embedding or head with scales of groups: as Q2_0, or its weights t * s in another type."""
    kind, shape = TENSOR_TYPE_BY_NAME[form], weights.ternary[module]
    if not kind.can_hold_rows(shape[1]):
        kind = F16

    def pack() -> Array:
        codes, scales = (found.rows(module, values) for values in weights.codes(module))
        if kind != Q2_0:
            return pack_tensor(_to_checked_float32(scale_groups(codes, scales), kind), kind)
        try:
            return pack_codes(codes.numpy(), split_groups(codes.numpy(), scales.numpy(), kind.block), kind)
        except ValueError as error:
            raise BenchError(
                f"{module} cannot be stored as Q2_0: {error}.", "Convert to packed or gguf-f16."
            ) from error

    return PlannedGgufTensor(f"{found.name(module)}.weight", kind, shape, pack)


def _read_gamma(weights: Weights, module: str) -> Tensor:
    """Return only the scale, without unpacking the codes if it is stored."""
    return weights.gamma(module) if weights.checkpoint.has_codes_only else weights.codes(module)[1]


def _read_bias(weights: Weights, found: GgufLayout, module: str) -> Array:
    bias = weights.bias(module)
    assert bias is not None
    return pack_tensor(found.rows(module, bias).numpy(), F32)


def _to_checked_float32(values: Tensor, kind: TensorType) -> Array:
    """Return *values* in float32; BenchError if F16 cannot hold one of them."""
    floats = values.float()
    if kind == F16 and floats.abs().max() > torch.finfo(torch.float16).max:
        raise BenchError(
            f"A weight of {float(floats.abs().max()):.3g} is beyond the range of F16.", "Convert to gguf-bf16."
        )
    found: Array = floats.numpy()
    return found


def _check_holds_codes(checkpoint: Checkpoint, form: Form) -> None:
    if checkpoint.is_ternary and bool(checkpoint.group_size) != (form == "q2_0") and form in TERNARY_GGUF_TYPES:
        held = "scales of groups" if checkpoint.group_size else "one scale per layer"
        wanted = "gguf-q2_0, or gguf-f16" if checkpoint.group_size else "gguf-tq2_0, gguf-tq1_0 or gguf-i2_s"
        raise BenchError(f"{checkpoint.source} has {held}, which {form} does not hold.", f"Convert it to {wanted}.")
    if form in TERNARY_GGUF_TYPES and not checkpoint.is_ternary:
        raise BenchError(
            f"{checkpoint.source} holds plain float weights, and {form} holds ternary codes only.",
            "Convert it to gguf-f16, gguf-bf16, gguf-q8_0 or gguf-q4_0.",
        )


def _is_fallback(entry: PlannedGgufTensor, found: GgufLayout, weights: Weights) -> bool:
    return entry.kind in (F16, F32) and entry.name in {f"{found.name(module)}.weight" for module in weights.ternary}


def _add_settings(writer: Any, checkpoint: Checkpoint, weights: Weights, found: GgufLayout, form: Form) -> None:
    config = weights.config
    writer.add_name(Path(checkpoint.source).name)
    writer.add_file_type(FILE_TYPES[form])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_dimension_count(found.head_dimension)
    writer.add_key_length(found.head_dimension)
    writer.add_value_length(found.head_dimension)
    writer.add_rope_freq_base(found.rope_base)
    if found.rope_type == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(found.rope_settings["factor"]))
    writer.add_string(SOURCE_KEY, checkpoint.sha256)
    writer.add_string(ACTIVATION_KEY, find_activation(config))
    if checkpoint.group_size:
        writer.add_bool(QUANTIZES_KEY, checkpoint.quantizes_activations)
    if form == "i2_s":
        writer.add_string(I2S_ORDER_KEY, "x86")
    if not checkpoint.is_ternary and config["model_type"] == "bitnet":
        writer.add_string(PRECISION_FIELD, "fp16")
    if found.architecture == "gemma3":
        writer.add_sliding_window(config["sliding_window"])


def _write_tensors(writer: Any, plan: list[PlannedGgufTensor], progress: Progress) -> None:
    from gguf.gguf_writer import TensorInfo

    for entry in plan:  # gguf's own `add_tensor_info` does not support I2_S
        size = entry.kind.bytes(int(torch.Size(entry.shape).numel()))
        writer.tensors[-1][entry.name] = TensorInfo(entry.shape, entry.kind.number, size)  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, entry in enumerate(plan, 1):
        writer.write_tensor_data(entry.data())
        progress(done, len(plan))
    writer.close()
