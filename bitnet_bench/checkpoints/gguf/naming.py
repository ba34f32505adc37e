"""Map a checkpoint to GGUF: architectures, names of tensors, order of rows, and hyper-parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

LLAMA_CPP_ARCHITECTURES = {"bitnet": "bitnet", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Architecture of llama.cpp, by model_type, that computes the same except for the activation."""
BITNET_CPP_ARCHITECTURES = {**LLAMA_CPP_ARCHITECTURES, "bitnet": "bitnet-b1.58"}
"""Architectures of bitnet.cpp: microsoft/BitNet has its own for SubLN with a squared ReLU."""
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
        known = GGUF_NAMES.get(block[2] if block else module)
        if known is None:
            raise BenchError(f"{tensor} has no place in a GGUF of {self.architecture}.", "It is not exported.")
        return f"{f'blk.{block[1]}.' if block else ''}{known}{dot}{part}"

    def rows(self, module: str, values: Tensor) -> Tensor:
        """Return *values* [N, ...] of *module* in the row order that the runtime's rotary positions need.

        For a Llama, llama.cpp rotates neighbouring values of a head, transformers halves; other architectures agree.
        """
        projection = module.rpartition(".")[2]
        if self.architecture != "llama" or projection not in ROTATED_PROJECTIONS:
            return values
        heads = self.config["num_attention_heads"]
        if projection == "k_proj":
            heads = self.config.get("num_key_value_heads") or heads
        half = values.shape[0] // heads // 2
        return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    @property
    def head_dimension(self) -> int:
        """Number of values per head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def rope_settings(self) -> Mapping[str, Any]:
        """Settings of the rotary positions, in the newer or older form of config.json."""
        return self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}

    @property
    def rope_base(self) -> float:
        """Base of the rotary frequencies."""
        return float(self.rope_settings.get("rope_theta") or self.config.get("rope_theta") or 10_000.0)

    def compute_rope_factors(self) -> Tensor | None:
        """Return the divisor of each frequency in Llama 3.1's long contexts, [head dimension / 2]; None elsewhere."""
        rope = self.rope_settings
        if rope.get("rope_type", rope.get("type")) != "llama3":
            return None
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        old, factor = rope["original_max_position_embeddings"], rope["factor"]
        found = []
        for i in range(0, self.head_dimension, 2):
            turns = old / (2 * math.pi * self.rope_base ** (i / self.head_dimension))
            smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
            found.append(1 / ((1 - smooth) / factor + smooth))
        return torch.tensor(found)


def make_layout(checkpoint: Checkpoint, config: Mapping[str, Any], runtime: GgufRuntime) -> GgufLayout:
    """Return the layout of *checkpoint* in GGUF for *runtime*; BenchError for what that runtime cannot compute."""
    known = BITNET_CPP_ARCHITECTURES if runtime == "bitnet.cpp" else LLAMA_CPP_ARCHITECTURES
    model_type = config["model_type"]
    reason = None
    if model_type not in known:
        reason = f"model_type {model_type}"
    elif checkpoint.inner_norm:
        reason = "a norm inside its ternary layers"
    elif config.get("use_sliding_window") or (model_type == "mistral" and config.get("sliding_window")):
        reason = "sliding-window attention"
    elif config.get("attention_bias") and model_type == "bitnet":
        reason = "biases beside SubLN"
    found = GgufLayout(known.get(model_type, ""), config)
    kind = found.rope_settings.get("rope_type", found.rope_settings.get("type", "default"))
    if reason is None and kind not in ("default", "linear", "llama3"):
        reason = f"rotary positions of type {kind}"
    if reason:
        raise BenchError(
            f"{checkpoint.source} has {reason}, which {runtime} does not compute.",
            "Use the backend ternary or hf; GGUF is written for BitNet, Llama, Mistral, Qwen2 and Qwen3.",
        )
    return found
