"""Map a checkpoint to GGUF: architectures, names of tensors, order of rows, and hyper-parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bitnet_bench.checkpoints.config import SUB_NORMS_KEY
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

LLAMA_CPP_ARCHITECTURES = {
    "bitnet": "bitnet",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}
"""Architecture of llama.cpp, by model_type, that computes the same except for the activation."""
BITNET_CPP_ARCHITECTURES = {**LLAMA_CPP_ARCHITECTURES, "bitnet": "bitnet-b1.58"}
"""Architectures of bitnet.cpp: microsoft/BitNet has its own for SubLN with a squared ReLU."""
MODEL_TYPES = {name: model_type for model_type, name in LLAMA_CPP_ARCHITECTURES.items() if model_type != "mistral"} | {
    "bitnet-b1.58": "bitnet",
    "bitnet-25": "bitnet",
}
"""model_type by architecture of a file that is read; bitnet-25 is a former name (ikawrakow/ik_llama.cpp #388)."""
GEMMA_ACTIVATION = "gelu_pytorch_tanh"
GEMMA_PATTERN = 6
"""Every sixth layer of Gemma 3 attends to the whole text, the others to a window."""
GEMMA_LOCAL_BASE = 10_000.0
"""Base of the rotary frequencies of the layers with a window."""
GgufRuntime = Literal["llama.cpp", "bitnet.cpp"]

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}
OUTER_MODULES = ("model.embed_tokens", "model.norm", "lm_head")
GEMMA_NAMES = GGUF_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
SOURCE_KEY = "bitnet_bench.source_sha256"
ACTIVATION_KEY = "bitnet_bench.hidden_act"
I2S_ORDER_KEY = "bitnet_bench.i2_s_order"
PRECISION_FIELD = "bitnet_bench.precision"
"""Field that says `fp16` for a BitNet that is no ternary model, as `bitnet_bench_precision` does in config.json."""
QUANTIZES_KEY = "bitnet_bench.quantizes_activations"
"""Field that says whether a model with scales of groups rounds the inputs of its ternary layers to int8."""
ROTATED_PROJECTIONS = ("q_proj", "k_proj")


@dataclass(frozen=True)
class GgufLayout:
    """The layout of one checkpoint in GGUF for one runtime."""

    architecture: str
    config: Mapping[str, Any]

    def name(self, tensor: str) -> str:
        """Return the GGUF name of a tensor or module of transformers; BenchError if it has none."""
        module, dot, part = tensor.rpartition(".") if tensor.endswith((".weight", ".bias")) else (tensor, "", "")
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
        known = choose_names(self.architecture).get(block[2] if block else module)
        if known is None:
            raise BenchError(f"{tensor} has no place in a GGUF of {self.architecture}.", "It is not exported.")
        return f"{f'blk.{block[1]}.' if block else ''}{known}{dot}{part}"

    def rows(self, module: str, values: Tensor) -> Tensor:
        """Return *values* [N, ...] of *module* in the row order that the runtime's rotary positions need.

        For a Llama, llama.cpp rotates neighbouring values of a head, transformers halves; other architectures agree.
        """
        heads = self._count_rotated_heads(module)
        if heads is None:
            return values
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    def restore_rows(self, module: str, values: Tensor) -> Tensor:
        """Return *values* [N, ...] of *module* as transformers orders them, from the order of `rows`."""
        heads = self._count_rotated_heads(module)
        if heads is None:
            return values
        return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    def is_offset_norm(self, name: str) -> bool:
        """Return whether the file holds 1 + the weights of the norm *name*, as it does for Gemma."""
        return self.architecture == "gemma3" and name.endswith("norm.weight")

    def _count_rotated_heads(self, module: str) -> int | None:
        projection = module.rpartition(".")[2]
        if self.architecture != "llama" or projection not in ROTATED_PROJECTIONS:
            return None
        heads = int(self.config["num_attention_heads"])
        return int(self.config.get("num_key_value_heads") or heads) if projection == "k_proj" else heads

    @property
    def head_dimension(self) -> int:
        """Number of values per head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def rope_settings(self) -> Mapping[str, Any]:
        """Settings of the rotary positions, in the newer or older form of config.json; of Gemma's global layers."""
        found: Mapping[str, Any] = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        whole: Mapping[str, Any] = found.get("full_attention", found)
        return whole

    @property
    def rope_type(self) -> str:
        """Type of the rotary positions, under its newer or older name."""
        return str(self.rope_settings.get("rope_type", self.rope_settings.get("type", "default")))

    @property
    def rope_base(self) -> float:
        """Base of the rotary frequencies."""
        return float(self.rope_settings.get("rope_theta") or self.config.get("rope_theta") or 10_000.0)

    def compute_rope_factors(self) -> Tensor | None:
        """Return the divisor of each frequency in Llama 3.1's long contexts, [head dimension / 2]; None elsewhere."""
        rope = self.rope_settings
        if self.rope_type != "llama3":
            return None
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        old, factor = rope["original_max_position_embeddings"], rope["factor"]
        found = []
        for i in range(0, self.head_dimension, 2):
            turns = old / (2 * math.pi * self.rope_base ** (i / self.head_dimension))
            smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
            found.append(1 / ((1 - smooth) / factor + smooth))
        return torch.tensor(found)


def choose_names(architecture: str) -> Mapping[str, str]:
    """Return the names in a file of *architecture* by the names of modules in transformers, without their layer."""
    return GEMMA_NAMES if architecture == "gemma3" else GGUF_NAMES


def find_model_name(name: str, architecture: str) -> str | None:
    """Return the name in transformers of the tensor *name* of a file; None if it has none."""
    found = re.fullmatch(r"(blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    modules = {stored: module for module, stored in choose_names(architecture).items()}
    module = modules.get(found[3]) if found else None
    if found is None or module is None or (found[1] is None) != (module in OUTER_MODULES):
        return None
    return f"model.layers.{found[2]}.{module}.{found[4]}" if found[1] else f"{module}.{found[4]}"


def make_layout(checkpoint: Checkpoint, config: Mapping[str, Any], runtime: GgufRuntime) -> GgufLayout:
    """Return the layout of *checkpoint* in GGUF for *runtime*; BenchError for what that runtime cannot compute."""
    known = BITNET_CPP_ARCHITECTURES if runtime == "bitnet.cpp" else LLAMA_CPP_ARCHITECTURES
    model_type = config["model_type"]
    reason = None
    if model_type not in known:
        reason = f"model_type {model_type}"
    elif checkpoint.inner_norm:
        reason = "a norm inside its ternary layers"
    elif config.get(SUB_NORMS_KEY):
        reason = "the norms of SubLN, which its family does not have"
    elif config.get("use_sliding_window") or (model_type == "mistral" and config.get("sliding_window")):
        reason = "sliding-window attention"
    elif config.get("attention_bias") and model_type == "bitnet":
        reason = "biases beside SubLN"
    elif model_type == "gemma3_text":
        reason = _why_not_gemma(config)
    found = GgufLayout(known.get(model_type, ""), config)
    kind = found.rope_type
    if reason is None and kind not in ("default", "linear", "llama3"):
        reason = f"rotary positions of type {kind}"
    if reason:
        raise BenchError(
            f"{checkpoint.source} has {reason}, which {runtime} does not compute.",
            "Use the backend ternary or hf; GGUF is written for BitNet, Llama, Mistral, Qwen2, Qwen3 and Gemma 3.",
        )
    return found


def _why_not_gemma(config: Mapping[str, Any]) -> str | None:
    """Return what of a Gemma 3 llama.cpp does not compute; its constants are in `src/models/gemma3.cpp`."""
    kinds = config.get("layer_types") or []
    if any((kind == "full_attention") != ((layer + 1) % GEMMA_PATTERN == 0) for layer, kind in enumerate(kinds)):
        return f"global attention in other layers than each {GEMMA_PATTERN}th"
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if local.get("rope_theta", GEMMA_LOCAL_BASE) != GEMMA_LOCAL_BASE or config.get("use_bidirectional_attention"):
        return "other rotary positions or masks than Gemma 3"
    return None
