"""Read the config.json of a checkpoint folder and its quantization settings, and check what is used of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitnet_bench.checkpoints.former_names import translate_config
from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.json_files import read_json_object

PRECISION_KEY = "bitnet_bench_precision"
"""Key that this project writes to config.json: without it, an FP16 model of `model_type: bitnet` looks like masters."""
MAX_CONFIG_BYTES = 16 << 20
MAX_LAYERS, MAX_HEADS, MAX_WIDTH, MAX_VOCABULARY = 1024, 2**16, 2**22, 2**24
"""Bounds of a model's shape, some ten times those of the largest published models: what is above is damage, and would
be built for hours."""
MAX_POSITIONS = 2**40
AGAIN_HINT = "Download or save the checkpoint again."

Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Heads = Annotated[int, Field(gt=0, le=MAX_HEADS)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Positions = Annotated[int, Field(gt=0, le=MAX_POSITIONS)]
TokenIds = Annotated[int, Field(ge=-1, le=MAX_VOCABULARY)] | list[Annotated[int, Field(ge=-1, le=MAX_VOCABULARY)]]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Fields(BaseModel):
    """Fields of a foreign file that are used here; others may hold anything."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Quantization(_Fields):
    """The fields of quantization_config."""

    quant_method: str | None = None
    layout: str | None = None
    version: int | str | None = None
    quantization_mode: str | None = None
    linear_class: str | None = None
    inner_norm: Literal["plain", "learned"] | None = None
    inner_norm_eps: PositiveNumber | None = None
    use_rms_norm: bool | None = None
    rms_norm_eps: PositiveNumber | None = None
    modules_to_not_convert: list[str] | None = None
    sha256: dict[str, str] | None = None


class _Shape(_Fields):
    """The numbers that a model's size follows from, under the names of the families that use them."""

    num_hidden_layers: Layers = 1
    n_layer: Layers = 1
    n_layers: Layers = 1
    num_layers: Layers = 1
    hidden_size: Width = 1
    n_embd: Width = 1
    d_model: Width = 1
    intermediate_size: Width | list[Width] | None = None
    n_inner: Width | None = None
    num_attention_heads: Heads | list[Heads] = 1
    n_head: Heads = 1
    num_key_value_heads: Heads | list[Heads] | None = None
    head_dim: Annotated[int, Field(ge=0, le=MAX_WIDTH)] | None = None
    vocab_size: Annotated[int, Field(gt=0, le=MAX_VOCABULARY)] = 1
    max_position_embeddings: Positions | None = None
    n_positions: Positions | None = None


class _Config(_Shape):
    """The fields of config.json."""

    model_type: str
    architectures: list[str] | None = None
    text_config: _Shape | None = None
    quantization_config: _Quantization | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    initializer_range: PositiveNumber | None = None
    tie_word_embeddings: bool | None = None
    hidden_act: str | None = None
    bos_token_id: TokenIds | None = None
    eos_token_id: TokenIds | None = None
    pad_token_id: TokenIds | None = None
    bitnet_bench_precision: str | None = None
    bitnet_bench_sub_norms: bool | None = None


class _GenerationConfig(_Fields):
    """The fields of generation_config.json."""

    eos_token_id: TokenIds | None = None


ACTIVATIONS_KEY = "bitnet_bench_activations"
"""Key that this project writes to config.json of a group-scaled model whose inputs are rounded to int8: `int8`."""
SUB_NORMS_KEY = "bitnet_bench_sub_norms"
"""Key that this project writes to config.json of a model that got the norms of SubLN, which its family does not have:
true."""


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder as a dict; BenchError if *path* is not a checkpoint.

    What is used of it has the right types, and a shape that a model can have. One whose names transformers does not
    have is returned with those that it has.
    """
    file = path / "config.json"
    if not file.is_file():
        raise BenchError(
            f"{path} is not a checkpoint: it has no config.json.",
            "Give a folder with config.json, *.safetensors and a tokenizer; a hub id; or `demo` / `demo-fp16`.",
        )
    config = read_json_object(file, f"{AGAIN_HINT} Its config.json names a model_type.", MAX_CONFIG_BYTES)
    if "model_type" not in config:
        raise BenchError(f"{file} names no model_type.", "It must be the config.json of a transformers causal LM.")
    check_fields(_Config, config, file)
    return translate_config(config)


def read_generation_config(path: Path) -> dict[str, Any]:
    """Return generation_config.json of a checkpoint folder as a dict, empty if it has none."""
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    config = read_json_object(file, "Correct it, or remove it: the tokenizer's EOS ends an answer.", MAX_CONFIG_BYTES)
    check_fields(_GenerationConfig, config, file)
    return config


def check_fields(model: type[BaseModel], fields: Mapping[str, Any], file: Path) -> None:
    """Raise BenchError, which names *file* and the field, unless the *fields* that *model* knows are as it says."""
    try:
        model.model_validate(fields)
    except ValidationError as error:
        raise BenchError(
            f"{file} cannot be used: {format_validation_error(error, _name_field)}.", AGAIN_HINT
        ) from error


def _name_field(place: str) -> str:
    """Return the path to a field without pydantic's names of the alternatives of its type."""
    return ".".join(part for part in place.split(".") if not part.startswith(("constrained-", "list[")))


def get_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization_config of *config*, empty if it has none."""
    return config.get("quantization_config") or {}


def find_activation(config: Mapping[str, Any]) -> str:
    """Return the activation that config.json names; `hidden_activation` is Gemma's word for it."""
    return str(config.get("hidden_activation") or config.get("hidden_act") or "silu")


def list_float_patterns(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the `modules_to_not_convert` of *config*: patterns of the linear layers that stay float."""
    return tuple(get_quantization(config).get("modules_to_not_convert") or ())
