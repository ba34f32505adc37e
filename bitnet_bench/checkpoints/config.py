"""Read the config.json of a checkpoint folder and its quantization settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.former_names import translate_config
from bitnet_bench.errors import BenchError

PRECISION_KEY = "bitnet_bench_precision"
"""Key that this project writes to config.json: without it, an FP16 model of `model_type: bitnet` looks like masters."""


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder as a dict; BenchError if *path* is not a checkpoint.

    One whose names transformers does not have is returned with those that it has.
    """
    file = path / "config.json"
    if not file.is_file():
        raise BenchError(
            f"{path} is not a checkpoint: it has no config.json.",
            "Give a folder with config.json, *.safetensors and a tokenizer; a hub id; or `demo` / `demo-fp16`.",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not valid JSON: {error}.", "Download or save the checkpoint again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BenchError(f"{file} names no model_type.", "It must be the config.json of a transformers causal LM.")
    return translate_config(config)


def read_generation_config(path: Path) -> dict[str, Any]:
    """Return generation_config.json of a checkpoint folder as a dict, empty if it has none."""
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not valid JSON: {error}.", "Download or save the checkpoint again.") from error
    if not isinstance(config, dict):
        raise BenchError(f"{file} holds no settings.", "Correct it, or remove it: the tokenizer's EOS ends an answer.")
    return config


def get_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization_config of *config*, empty if it has none."""
    return config.get("quantization_config") or {}


def list_float_patterns(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the `modules_to_not_convert` of *config*: patterns of the linear layers that stay float."""
    return tuple(get_quantization(config).get("modules_to_not_convert") or ())
