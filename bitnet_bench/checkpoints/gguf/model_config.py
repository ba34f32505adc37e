"""Make a config.json from the metadata of a GGUF file, checked against the shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_bench.checkpoints.config import PRECISION_KEY
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.naming import (
    ACTIVATION_KEY,
    GEMMA_ACTIVATION,
    GEMMA_LOCAL_BASE,
    GEMMA_PATTERN,
    MODEL_TYPES,
    PRECISION_FIELD,
)
from bitnet_bench.checkpoints.gguf.parts import GET_AGAIN_HINT
from bitnet_bench.checkpoints.gguf.types import Array
from bitnet_bench.errors import BenchError

ARCHITECTURES = {
    "bitnet": "BitNetForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
"""Class of transformers by model_type."""
GEMMA_27B_LAYERS = 62
"""Layers of the Gemma 3 whose queries are scaled by its width per head and not by `head_dim` (llama.cpp,
`src/models/gemma3.cpp`)."""
END_FIELDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Fields under `tokenizer.ggml` with tokens that end an answer."""
ROPE_TOLERANCE = 1e-5
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a file, by its name there."""


def make_config(files: list[GgufFile], shapes: Shapes) -> dict[str, Any]:
    """Return the config.json of the model in *files*, without quantization_config; BenchError if it is not read here.

    The counts of the header are compared with the tensors, so that a wrong one cannot ask for more than the file holds.
    """
    header = _Header(files[0])
    model_type = MODEL_TYPES.get(header.architecture)
    if model_type is None:
        raise BenchError(
            f"{header.path} is of the architecture {header.architecture}, which is not read.",
            f"Read are {', '.join(MODEL_TYPES)}. For another, use the folder that the file was made from.",
        )
    heads = header.count("attention.head_count")
    hidden, vocabulary = _find_table(header, shapes)
    layers = _check_layers(header, shapes)
    dimension = header.fields.get(
        f"{header.architecture}.attention.key_length",
        header.fields.get(f"{header.architecture}.rope.dimension_count", hidden // heads),
    )
    kv_heads = header.fields.get(f"{header.architecture}.attention.head_count_kv", heads)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": header.count("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": dimension,
        "rms_norm_eps": header.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": vocabulary,
        "max_position_embeddings": header.count("context_length"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "rope_parameters": _make_rope(header, files, dimension),
        **_list_special_ids(header.fields),
    }
    _check_shapes(header, config, shapes)
    return config | _list_family_settings(model_type, header, config, shapes)


def make_generation_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation_config.json: every token that ends an answer."""
    found = _list_special_ids(fields)
    ends = list(dict.fromkeys(fields[name] for end in END_FIELDS if (name := f"tokenizer.ggml.{end}") in fields))
    return found | ({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {})


class _Header:
    """The settings of a file, read under its architecture's name."""

    def __init__(self, file: GgufFile) -> None:
        self.path: Path = file.path
        self.fields = file.fields
        self.architecture = file.architecture

    def number(self, name: str) -> float:
        """Return the setting *name*; BenchError if the file has none."""
        key = f"{self.architecture}.{name}"
        found = self.fields.get(key)
        if not isinstance(found, int | float) or isinstance(found, bool) or not found > 0 or not math.isfinite(found):
            raise BenchError(f"{self.path} says {found} for {key}, which must be a number above 0.", GET_AGAIN_HINT)
        return found

    def count(self, name: str) -> int:
        """Return the whole number *name*; BenchError if the file has none."""
        found = self.number(name)
        if not isinstance(found, int):
            raise BenchError(f"{self.path} says {found} for {self.architecture}.{name}.", GET_AGAIN_HINT)
        return found


def _find_table(header: _Header, shapes: Shapes) -> tuple[int, int]:
    """Return (hidden size, size of the vocabulary), which the embedding shows."""
    shape = shapes.get("token_embd.weight", ())
    if len(shape) != 2 or 0 in shape:
        raise BenchError(f"{header.path} has no token_embd.weight: it holds no whole model.", GET_AGAIN_HINT)
    if header.count("embedding_length") != shape[1]:
        raise _make_lie(header, "embedding_length", "token_embd.weight", shape)
    return shape[1], shape[0]


def _check_layers(header: _Header, shapes: Shapes) -> int:
    found = {int(place[1]) for name in shapes if (place := re.match(r"blk\.(\d{1,9})\.", name))}
    layers = header.count("block_count")
    if layers != len(found) or found != set(range(len(found))):
        raise BenchError(
            f"{header.path} says that it has {layers} layers, and holds tensors of {len(found)}.", GET_AGAIN_HINT
        )
    return layers


def _check_shapes(header: _Header, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise BenchError if the counts of *config* are not those of the tensors of the first layer."""
    dimension = config["head_dim"]
    wanted = {
        "attention.head_count": ("blk.0.attn_q.weight", config["num_attention_heads"], dimension),
        "attention.head_count_kv": ("blk.0.attn_k.weight", config["num_key_value_heads"], dimension),
        "feed_forward_length": ("blk.0.ffn_up.weight", config["intermediate_size"], 1),
    }
    for setting, (tensor, count, width) in wanted.items():
        shape = shapes.get(tensor, ())
        if not isinstance(count, int) or not isinstance(width, int) or len(shape) != 2 or shape[0] != count * width:
            raise _make_lie(header, setting, tensor, shape)


def _make_lie(header: _Header, setting: str, tensor: str, shape: tuple[int, ...]) -> BenchError:
    said = header.fields.get(f"{header.architecture}.{setting}")
    what = f"is {' x '.join(map(str, shape))}" if shape else "is missing"
    return BenchError(
        f"{header.path} says {said} for {header.architecture}.{setting}, and its tensor {tensor} {what}.",
        GET_AGAIN_HINT,
    )


def _list_special_ids(fields: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {ours: fields.get(f"tokenizer.ggml.{theirs}") for ours, theirs in names.items()}
    return {name: index for name, index in found.items() if isinstance(index, int)}


def _list_family_settings(
    model_type: str, header: _Header, config: Mapping[str, Any], shapes: Shapes
) -> dict[str, Any]:
    """Return the settings that only one family has, or whose defaults in transformers are another model's."""
    activation = header.fields.get(ACTIVATION_KEY)
    if model_type == "gemma3_text":
        return _list_gemma_settings(header, config)
    # llama.cpp computes SiLU for `bitnet`, as the models of 1bitLLM have it; bitnet.cpp's own is the squared ReLU
    default = "silu" if model_type != "bitnet" or header.architecture == "bitnet" else "relu2"
    found: dict[str, Any] = {"hidden_act": activation or default}
    if model_type == "llama":
        found["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    said = header.fields.get(PRECISION_FIELD)
    return found | ({PRECISION_KEY: said} if said else {})


def _list_gemma_settings(header: _Header, config: Mapping[str, Any]) -> dict[str, Any]:
    layers, hidden, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    kinds = ["full_attention" if (i + 1) % GEMMA_PATTERN == 0 else "sliding_attention" for i in range(layers)]
    base = header.fields.get("gemma3.rope.freq_base_swa", GEMMA_LOCAL_BASE)
    return {
        "hidden_activation": GEMMA_ACTIVATION,
        "layer_types": kinds,
        "sliding_window": header.count("attention.sliding_window"),
        "query_pre_attn_scalar": hidden // heads if layers == GEMMA_27B_LAYERS else config["head_dim"],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": base},
        },
    }


def _make_rope(header: _Header, files: list[GgufFile], dimension: int) -> dict[str, Any]:
    """Return the `rope_parameters` of transformers; BenchError for rotary positions that cannot be said in them."""
    name = header.architecture
    theta = float(header.fields.get(f"{name}.rope.freq_base", 10_000.0))
    holder = next((file for file in files if "rope_freqs.weight" in file.tensors), None)
    if holder is not None:
        return {"rope_theta": theta} | fit_llama3_rope(
            holder.path, holder.values("rope_freqs.weight"), theta, dimension
        )
    kind = header.fields.get(f"{name}.rope.scaling.type", "none")
    factor = float(header.fields.get(f"{name}.rope.scaling.factor", 1.0))
    if kind in ("none", "") or factor in (0.0, 1.0):
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor, "rope_theta": theta}
    if kind == "yarn":
        old = header.count("rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": old, "rope_theta": theta}
    raise BenchError(
        f"{header.path} has rotary positions of type {kind}, which are not read.",
        "Use the folder that the file was made from.",
    )


def fit_llama3_rope(path: Path, divisors: Array, theta: float, dimension: int) -> dict[str, Any]:
    """Return the settings of rope type llama3 whose divisors of the frequencies are *divisors* [dimension / 2].

    1 / divisor = (1 - s) / factor + s, where s, cut to [0, 1], is (old / wavelength - low) / (high - low): a line over
    1 / wavelength. Only old / low and old / high show, so low is 1, which it is in every published model.
    """
    turns = 1 / (2 * np.pi * theta ** (np.arange(0, dimension, 2) / dimension))
    factor = float(divisors.max())
    smooth = (1 / divisors.astype(np.float64) - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(len(turns))
    between = np.flatnonzero((smooth > 1e-4) & (smooth < 1 - 1e-4))
    if len(divisors) == len(turns) and len(between) >= 2:
        slope, offset = np.polyfit(turns[between], smooth[between], 1)
        high = 1 - 1 / offset
        old = round(slope * (high - 1))
        found = {
            "rope_type": "llama3",
            "factor": round(factor, 6),
            "low_freq_factor": 1.0,
            "high_freq_factor": round(float(high), 4),
            "original_max_position_embeddings": old,
        }
        exact = np.clip((old * turns - 1) / (found["high_freq_factor"] - 1), 0, 1)
        again = 1 / ((1 - exact) / found["factor"] + exact)
        if np.allclose(again, divisors, rtol=ROPE_TOLERANCE):
            return found
    raise BenchError(
        f"{path} divides its rotary frequencies by rope_freqs.weight, and not as Llama 3 does.",
        "Use the folder that the file was made from.",
    )
