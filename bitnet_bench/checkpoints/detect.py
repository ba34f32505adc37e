"""Recognise the format of a checkpoint from its config and its tensors, and refuse contradictions.

The rules are in a table in `docs/decisions/005-formats.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bitnet_bench.checkpoints.baked import find_baked_layers, has_three_values
from bitnet_bench.checkpoints.config import ACTIVATIONS_KEY, PRECISION_KEY, get_quantization, list_float_patterns
from bitnet_bench.checkpoints.grouped import check_not_rotated, find_groups, mixed_layers_error, sample_groups
from bitnet_bench.checkpoints.shards import DAMAGED_HINT, Shards
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.choices import Format
from bitnet_bench.ternary.packing import CODES_PER_BYTE
from bitnet_bench.ternary.panels import panel_shape

ScaleDirection = Literal["multiply", "divide"]
PACKED_LAYOUT = "panels-16x16"
GROUPED_LAYOUT = "panels-16x16-groups"
"""The same panels, with scales [rows, groups] in place of one."""
GROUPED_MASTERS_LAYOUT = "masters-groups"
"""Float masters that a quantizer makes ternary by groups; transformers has no word for them."""
MASTERS_LAYOUT = "masters"
"""Float masters of a model with norms that transformers does not know, which it would leave out without a word."""
PACKED_VERSION = 1
PACKED_METHOD = "bitnet-bench"
LEARNED_NORM_SUFFIXES = (".rms_norm.weight", ".RMSNorm.weight")
"""Names of the weights of a norm inside a ternary layer: in transformers, and in tinyllama-bitnet."""
PROJECTION_NORM = re.compile(r".*\.layers\.\d+\..+_proj\.norm\.weight")
"""Name of the weight of a norm inside a ternary layer of BitNet-embedding, which has its block's norms as well
(microsoft/BitNet, utils/convert-bitnet-embedding-to-gguf.py: a plain RMS norm, of Gemma too, on unmarked masters)."""
INNER_NORM_SUFFIXES = (*LEARNED_NORM_SUFFIXES, ".norm.weight")
LLAMA_NORM_EPS = 1e-6
"""Default eps of LlamaRMSNorm, which tinyllama-bitnet uses whatever the config says."""
LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
TINYLLAMA_GENERATIONS = ((LAYER_NORMS[:1], False), (LAYER_NORMS, True))
"""Pairs (layer norms that are absent, whether the inner norms have weights) of github.com/pranavjad/tinyllama-bitnet,
utils.py at 8afcbb5 and at 1e08ee9."""


@dataclass(frozen=True)
class DetectedFormat:
    """The recognised format of a checkpoint; the fields are those of `bitnet_bench.runs.records.Checkpoint`."""

    format: Format
    scale_direction: ScaleDirection | None = None
    inner_norm: Literal["plain", "learned"] | None = None
    inner_norm_eps: float | None = None
    group_size: int | None = None
    ternary_tables: tuple[str, ...] = ()
    quantizes_activations: bool = True


def detect_format(path: Path, config: dict[str, Any], shards: Shards) -> DetectedFormat:
    """Return the format of a checkpoint folder; BenchError if it is unknown or contradicts itself."""
    check_not_rotated(str(path), config, shards.headers)
    method = get_quantization(config).get("quant_method")
    if method == PACKED_METHOD:
        return _detect_packed(path, get_quantization(config))
    if method not in (None, "bitnet"):
        raise BenchError(
            f"{path} is quantized with quant_method {method!r}, which bitnet-bench does not read.",
            "It reads float checkpoints and the quant_methods 'bitnet' and 'bitnet-bench'.",
        )
    packed = list_packed_layers(shards)
    if method is None:
        return _detect_unquantized(path, config, shards, packed)
    return _detect_transformers(path, get_quantization(config), packed)


def list_packed_layers(shards: Shards) -> list[str]:
    """Return the names of the modules whose weights are 8-bit, in the order of the files."""
    return [
        name.removesuffix(".weight")
        for name, header in shards.headers.items()
        if header.dtype == "U8" and name.endswith(".weight")
    ]


def _detect_packed(path: Path, quant: dict[str, Any]) -> DetectedFormat:
    found = quant.get("layout"), quant.get("version")
    if found in ((GROUPED_LAYOUT, PACKED_VERSION), (GROUPED_MASTERS_LAYOUT, PACKED_VERSION)):
        packed = found[0] == GROUPED_LAYOUT
        return DetectedFormat(
            "packed" if packed else "masters",
            "multiply" if packed else None,
            group_size=int(quant["group_size"]),
            ternary_tables=tuple(quant["ternary_tables"]),
            quantizes_activations=bool(quant["quantizes_activations"]),
        )
    if found == (MASTERS_LAYOUT, PACKED_VERSION):
        return DetectedFormat("masters")
    if found != (PACKED_LAYOUT, PACKED_VERSION):
        raise BenchError(
            f"{path} is packed as {found[0]}, version {found[1]}; "
            f"this bitnet-bench reads {PACKED_LAYOUT} and {GROUPED_LAYOUT}, version {PACKED_VERSION}.",
            "Convert the original checkpoint again with this version.",
        )
    return DetectedFormat("packed", "multiply", quant.get("inner_norm"), quant.get("inner_norm_eps"))


def _detect_transformers(path: Path, quant: dict[str, Any], packed: list[str]) -> DetectedFormat:
    online = quant.get("quantization_mode", "offline") == "online"
    if packed and online:
        raise BenchError(
            f"{path} says that its weights are quantized online, but those of {packed[0]} are 8-bit.",
            'If they are packed codes, set "quantization_mode": "offline" in config.json.',
        )
    if not packed and not online:
        raise BenchError(
            f"{path} says that its weights are packed, but no tensor of it is 8-bit.",
            'If these are masters, set "quantization_mode": "online" and "linear_class": "autobitlinear".',
        )
    norm: Literal["learned"] | None = "learned" if quant.get("use_rms_norm") else None
    eps = float(quant.get("rms_norm_eps") or LLAMA_NORM_EPS) if norm else None
    if online:
        return DetectedFormat("masters", None, norm, eps)
    linear_class = quant.get("linear_class", "bitlinear")
    if linear_class == "autobitlinear":
        return DetectedFormat("autobitlinear", "multiply", norm, eps)
    if linear_class == "bitlinear":
        return DetectedFormat("bitlinear", "divide", norm, eps)
    raise BenchError(
        f"{path} names linear_class {linear_class!r}: which way its scales work cannot be known.",
        "transformers writes 'bitlinear' (scales divide) and 'autobitlinear' (scales multiply).",
    )


def _detect_unquantized(path: Path, config: dict[str, Any], shards: Shards, packed: list[str]) -> DetectedFormat:
    if packed:
        raise BenchError(
            f"{path} has 8-bit weights such as {packed[0]}.weight but no quantization_config.",
            "Which way its scales work cannot be known; restore the quantization_config of its config.json.",
        )
    if tinyllama := _detect_tinyllama(path, config, shards):
        return tinyllama
    if config.get(PRECISION_KEY) == "fp16":
        return DetectedFormat("float")
    normed = any(PROJECTION_NORM.fullmatch(name) for name in shards.headers)
    norm: Literal["learned"] | None = "learned" if normed else None
    eps = float(config.get("rms_norm_eps") or LLAMA_NORM_EPS) if normed else None
    found = _detect_three_values(path, config, shards) or DetectedFormat(
        "masters" if normed or config["model_type"] == "bitnet" else "float"
    )
    if normed and found.format == "grouped":
        raise BenchError(
            f"{path} has scales of groups and norms inside its layers, which bitnet-bench does not compute.",
            "Use another checkpoint.",
        )
    return replace(found, inner_norm=norm, inner_norm_eps=eps)


def _detect_three_values(path: Path, config: dict[str, Any], shards: Shards) -> DetectedFormat | None:
    """Recognise float weights that are ternary already, with one scale per layer or per group.

    BenchError if only some layers are: whether the others are masters, or were kept in float, is not known.
    """
    baked = find_baked_layers(config, shards) if has_three_values(shards) else {}
    if baked and all(baked.values()):
        return DetectedFormat("baked")
    groups = find_groups(config, shards) if sample_groups(shards) else None
    if groups and not groups.odd_layer:
        return DetectedFormat(
            "grouped",
            group_size=groups.size,
            ternary_tables=groups.tables,
            quantizes_activations=config.get(ACTIVATIONS_KEY) == "int8",
        )
    odd = next((name for name, found in baked.items() if not found), None) if any(baked.values()) else None
    if odd or groups:
        raise mixed_layers_error(path, shards, odd or (groups and groups.odd_layer) or "")
    return None


def _detect_tinyllama(path: Path, config: dict[str, Any], shards: Shards) -> DetectedFormat | None:
    """Recognise tinyllama-bitnet: a Llama without input norms, because its linear layers normalize."""
    if config["model_type"] != "llama":
        return None
    learned = any(name.endswith(LEARNED_NORM_SUFFIXES) for name in shards.headers)
    if (find_dropped_norms(shards.headers), learned) not in TINYLLAMA_GENERATIONS:
        return None
    if config.get(PRECISION_KEY) != "ternary" and has_three_values(shards):
        raise BenchError(
            f"{path} is a tinyllama-bitnet checkpoint whose weights are quantized already, without their scales.",
            "Use the float weights that it was made from.",
        )
    return DetectedFormat("tinyllama", None, "learned" if learned else "plain", LLAMA_NORM_EPS)


def find_dropped_norms(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of `LAYER_NORMS` that no decoder layer has; BenchError if only some layers have one."""
    places = [re.match(r"(.*\.layers\.\d+)\.(\w+)", name) for name in names]
    layers = {place[1] for place in places if place}
    dropped = []
    for norm in LAYER_NORMS:
        lacking = sorted(layers - {place[1] for place in places if place and place[2] == norm})
        if lacking and len(lacking) < len(layers):
            raise BenchError(
                f"{lacking[0]} has no {norm}.weight and other layers have one.",
                "The weights are incomplete; get them again.",
            )
        dropped += [norm] if lacking else []
    return tuple(dropped)


def list_ternary_layers(
    form: Format, config: dict[str, Any], shards: Shards, tables: Sequence[str] = ()
) -> dict[str, tuple[int, int]]:
    """Return {module name: (rows, columns)} of every ternary layer: from the files if packed, else from the model.

    *tables* are the names of embedding and head, where they are ternary and it is not the files that say so.
    """
    from bitnet_bench.checkpoints.building import list_ternary_shapes

    if form == "float":
        return {}
    if form in ("masters", "tinyllama", "baked", "grouped"):
        found = list_ternary_shapes(config)
        for name in tables:
            rows, columns = shards.headers[f"{name}.weight"].shape
            found[name] = rows, columns
        return found
    names = list_packed_layers(shards)
    _check_kept_layers(names, list_float_patterns(config))
    if form == "packed":
        return _read_noted_shapes(shards, names)
    shapes = {name: shards.headers[f"{name}.weight"].shape for name in names}
    if odd := next((name for name, shape in shapes.items() if len(shape) != 2), None):
        raise BenchError(
            f"{shards.locate_tensor(f'{odd}.weight')} has {len(shapes[odd])} dimensions instead of 2.", DAMAGED_HINT
        )
    return {name: (CODES_PER_BYTE * shape[0], shape[1]) for name, shape in shapes.items()}


def _check_kept_layers(packed: list[str], kept: tuple[str, ...]) -> None:
    if not kept:
        return
    from transformers.quantizers.quantizers_utils import should_convert_module

    for name in packed:
        if not should_convert_module(name, list(kept)):
            raise BenchError(
                f"The config keeps {name} out of quantization (modules_to_not_convert), but its weights are packed.",
                "config.json and the weights belong to different checkpoints.",
            )


def _read_noted_shapes(shards: Shards, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return the shapes that the packed format stores in the metadata, because its panels are padded."""
    try:
        noted = {name: (int(rows), int(cols)) for name, (rows, cols) in json.loads(shards.metadata["shapes"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BenchError(f"{shards.files[0]} does not note the shapes of its layers.", DAMAGED_HINT) from error
    for name in names:
        if name not in noted or shards.headers[f"{name}.weight"].shape != panel_shape(*noted[name]):
            raise BenchError(
                f"{shards.locate_tensor(f'{name}.weight')} has not the shape that is noted for it.", DAMAGED_HINT
            )
    return {name: noted[name] for name in names}
