"""Define what each format stores: the tensors and the config.json of a ternary model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from bitnet_bench.checkpoints.config import ACTIVATIONS_KEY, PRECISION_KEY, SUB_NORMS_KEY, list_float_patterns
from bitnet_bench.checkpoints.detect import (
    GROUPED_LAYOUT,
    GROUPED_MASTERS_LAYOUT,
    MASTERS_LAYOUT,
    PACKED_LAYOUT,
    PACKED_METHOD,
    PACKED_VERSION,
    find_dropped_norms,
)
from bitnet_bench.checkpoints.streaming import PlannedTensor
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.choices import Format
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.groups import masters_from_groups, scale_groups
from bitnet_bench.ternary.packing import CODES_PER_BYTE, pack
from bitnet_bench.ternary.panels import panel_shape, to_panels
from bitnet_bench.ternary.quantizer import masters_from_codes

if TYPE_CHECKING:
    from bitnet_bench.checkpoints.weights import Weights

TRANSFORMERS_FORMATS = ("bitlinear", "autobitlinear")
NORMLESS_FORMATS = ("packed", "tinyllama")
"""Formats that can express that a layer's norm is absent because its linear layers normalize."""
GROUP_FORMATS = ("packed", "grouped", "masters")
"""Formats that can hold a scale per group."""

SUB_NORM_FORMATS = ("packed", "masters")
"""Formats of a model with norms that its family does not have.

transformers does not know their quant_method: it cannot open packed codes, and warns of masters.
"""


class WeightSource(Protocol):
    """A ternary model to write: `bitnet_bench.checkpoints.weights.Weights`, or one generated as it is written."""

    config: dict[str, Any]
    inner_norm_kind: Literal["plain", "learned"] | None
    inner_norm_eps: float | None
    group_size: int | None
    ternary_tables: tuple[str, ...]
    quantizes_activations: bool

    @property
    def ternary(self) -> dict[str, tuple[int, int]]:
        """Shape (rows, columns) of every ternary layer, by module name."""

    @property
    def floats(self) -> tuple[str, ...]:
        """Names of all tensors that do not belong to a ternary layer."""

    def dtype_and_shape(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return (dtype, shape) of a float tensor."""

    def tensor(self, name: str) -> Tensor:
        """Return a float tensor."""

    def codes(self, module: str) -> tuple[Tensor, Tensor]:
        """Return (codes, gamma): int8 [N, K] and the float32 scalar that multiplies, or [N, K / G] of groups."""

    def scale_dtype(self, module: str) -> torch.dtype:
        """Return the dtype that holds the scales of a layer's groups."""

    def bias(self, module: str) -> Tensor | None:
        """Return the float32 bias [N] that is added after scaling, or None."""

    def inner_norm(self, module: str) -> Tensor | None:
        """Return the learned weight [K] of the norm inside the layer, or None."""


def check_writable(source: Weights, form: Format) -> None:
    """Raise BenchError if *form* cannot represent *source*."""
    checkpoint = source.checkpoint
    if form == "float":
        _check_float(checkpoint)
        return
    if checkpoint.format == "float":
        raise BenchError(
            f"{checkpoint.source} holds plain float weights, which were not trained to be ternary.",
            "Fine-tune it with `bitnet-bench finetune --precision ternary` first; or, if it holds the masters of a "
            "ternary model, say so: `read_as=masters`.",
        )
    if checkpoint.format == form and not checkpoint.is_gguf:
        raise BenchError(f"{checkpoint.source} is {form} already.", "Copy the folder, or choose another format.")
    _check_groups(checkpoint, form)
    if source.config.get(SUB_NORMS_KEY) and form not in SUB_NORM_FORMATS:
        raise BenchError(
            f"{checkpoint.source} has the norms of SubLN, which its family does not have: whatever else reads {form} "
            "would leave them out without a word.",
            f"Convert it to {' or '.join(SUB_NORM_FORMATS)}.",
        )
    kept = list_float_patterns(source.config)
    if kept and form in ("baked", "tinyllama"):
        raise BenchError(
            f"{checkpoint.source} keeps {kept[0]} out of quantization, and {form} cannot say so.",
            "Convert it to masters, bitlinear, autobitlinear or packed.",
        )
    _check_norms(checkpoint, find_dropped_norms(source.shards.headers) if checkpoint.inner_norm else (), form)
    check_row_counts(source.ternary, form)


def _check_groups(checkpoint: Checkpoint, form: Format) -> None:
    if checkpoint.group_size and form not in GROUP_FORMATS:
        raise BenchError(
            f"{checkpoint.source} has scales of groups of {checkpoint.group_size} inputs, and {form} one a layer.",
            f"Convert it to {', '.join(GROUP_FORMATS)} or gguf-q2_0.",
        )
    if form == "grouped" and not checkpoint.group_size:
        raise BenchError(
            f"{checkpoint.source} has one scale per layer, and grouped is for models with a scale per group.",
            "Convert it to baked: float weights that hold -s, 0 and +s.",
        )


def _check_float(checkpoint: Checkpoint) -> None:
    if checkpoint.is_ternary:
        raise BenchError(
            f"{checkpoint.source} is ternary ({checkpoint.format}), and float holds plain models.",
            "Convert it to baked: plain linear layers that hold -s, 0 and +s.",
        )
    if not checkpoint.is_gguf:
        raise BenchError(f"{checkpoint.source} is float already.", "Copy the folder.")


def check_row_counts(ternary: dict[str, tuple[int, int]], form: Format) -> None:
    """Raise BenchError if *form* cannot store the number of rows of a layer."""
    for module, (rows, _) in ternary.items():
        if form in TRANSFORMERS_FORMATS and rows % CODES_PER_BYTE:
            raise BenchError(
                f"{module} has {rows} rows, no multiple of {CODES_PER_BYTE}: {form} cannot hold it.",
                "Convert it to packed, which holds any shape.",
            )


def _check_norms(checkpoint: Checkpoint, dropped: tuple[str, ...], form: Format) -> None:
    if checkpoint.inner_norm and dropped and form not in NORMLESS_FORMATS:
        raise BenchError(
            f"{checkpoint.source} normalizes inside its ternary layers and has no {dropped[0]}; {form} cannot say so.",
            "Convert it to packed.",
        )
    if checkpoint.inner_norm and form == "baked":
        raise BenchError(
            f"{checkpoint.source} normalizes inside its ternary layers; baked weights are plain linear layers.",
            "Convert it to masters, bitlinear, autobitlinear or packed.",
        )
    if form == "tinyllama" and not dropped:
        raise BenchError(
            f"{checkpoint.source} does not drop its layers' norms, as every tinyllama checkpoint does.",
            "Convert it to masters, which any other training code takes.",
        )


def plan_tensors(source: WeightSource, form: Format) -> list[PlannedTensor]:
    """Return all tensors of *source* in format *form*, to be made one after the other."""
    scales = _ScaleCache(source)
    plan = [_plan_float(source, name) for name in source.floats]
    for module in source.ternary:
        plan += _plan_layer(source, scales, module, form)
    return plan


class _ScaleCache:
    """Cache of the scales that were read together with a layer's codes, so that codes are not read twice."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._known: dict[str, Tensor] = {}

    def codes(self, module: str) -> tuple[Tensor, Tensor]:
        codes, gamma = self._source.codes(module)
        self._known[module] = gamma
        return codes, gamma

    def gamma(self, module: str) -> Tensor:
        return self._known[module] if module in self._known else self.codes(module)[1]


def _plan_float(source: WeightSource, name: str) -> PlannedTensor:
    return PlannedTensor(name, *source.dtype_and_shape(name), lambda: source.tensor(name))


def _plan_layer(source: WeightSource, scales: _ScaleCache, module: str, form: Format) -> list[PlannedTensor]:
    """Return weight, scale, bias and inner norm of one ternary layer. Scales and biases are float32 in every format."""
    rows, columns = source.ternary[module]
    name = f"{module}.weight"
    plan: list[PlannedTensor] = []
    if source.group_size and form != "packed":
        plan.append(_plan_grouped_floats(source, scales, module, form))
    elif form == "packed":
        plan.append(
            PlannedTensor(name, torch.uint8, panel_shape(rows, columns), lambda: to_panels(scales.codes(module)[0]))
        )
    elif form in TRANSFORMERS_FORMATS:
        shape = (rows // CODES_PER_BYTE, columns)
        plan.append(PlannedTensor(name, torch.uint8, shape, lambda: pack(scales.codes(module)[0])))
    elif form == "baked":
        plan.append(PlannedTensor(name, torch.float32, (rows, columns), lambda: _bake_codes(*scales.codes(module))))
    else:
        plan.append(
            PlannedTensor(name, torch.float32, (rows, columns), lambda: masters_from_codes(*scales.codes(module)))
        )
    if source.group_size and form == "packed":
        shape, dtype = (rows, columns // source.group_size), source.scale_dtype(module)
        plan.append(PlannedTensor(f"{module}.weight_scale", dtype, shape, lambda: scales.gamma(module).to(dtype)))
    elif form in ("packed", *TRANSFORMERS_FORMATS):
        plan.append(
            PlannedTensor(
                f"{module}.weight_scale", torch.float32, (1,), lambda: _make_stored_scale(scales, module, form)
            )
        )
    bias = source.bias(module)
    if bias is not None:
        stored: Callable[[], Tensor] = lambda: bias / scales.gamma(module) if form == "autobitlinear" else bias  # noqa: E731
        plan.append(PlannedTensor(f"{module}.bias", torch.float32, (rows,), stored))
    norm = source.inner_norm(module)
    if norm is not None:
        suffix = "RMSNorm" if form == "tinyllama" else "rms_norm"
        plan.append(PlannedTensor(f"{module}.{suffix}.weight", norm.dtype, (columns,), lambda: norm))
    return plan


def _plan_grouped_floats(source: WeightSource, scales: _ScaleCache, module: str, form: Format) -> PlannedTensor:
    """Return the float weights of a layer with groups: masters in float32, and t * s in the dtype of the scales."""
    name, shape = f"{module}.weight", source.ternary[module]
    if form == "masters":
        return PlannedTensor(name, torch.float32, shape, lambda: masters_from_groups(*scales.codes(module)))
    dtype = source.scale_dtype(module)
    return PlannedTensor(name, dtype, shape, lambda: scale_groups(*scales.codes(module)).to(dtype))


def _bake_codes(codes: Tensor, gamma: Tensor) -> Tensor:
    return codes.float() * gamma


def _make_stored_scale(scales: _ScaleCache, module: str, form: Format) -> Tensor:
    gamma = scales.gamma(module).reshape(1)
    return 1.0 / gamma if form == "bitlinear" else gamma


def make_metadata(source: WeightSource, form: Format) -> dict[str, str]:
    """Return the metadata of the weight files of *form*: for packed, the shapes that panels do not show."""
    return {"shapes": json.dumps(source.ternary)} if form == "packed" else {}


def make_config(source: WeightSource, form: Format, digests: dict[str, str]) -> dict[str, Any]:
    """Return config.json of *source* in format *form*, whose weight files have the sha256 *digests* by name."""
    config = {
        k: v for k, v in source.config.items() if k not in ("quantization_config", "_name_or_path", PRECISION_KEY)
    }
    if form == "baked":
        return config
    config[PRECISION_KEY] = "fp16" if form == "float" else "ternary"
    if form in ("float", "tinyllama"):
        return config
    if source.group_size:
        groups = source.group_size, source.ternary_tables, source.quantizes_activations
        return config | make_group_config(form, *groups, digests=digests)
    kept = {"modules_to_not_convert": list(patterns)} if (patterns := list_float_patterns(source.config)) else {}
    if form == "packed":
        norm = {"inner_norm": source.inner_norm_kind, "inner_norm_eps": source.inner_norm_eps}
        return config | {"quantization_config": make_packed(digests) | (norm if source.inner_norm_kind else {}) | kept}
    if source.config.get(SUB_NORMS_KEY):
        return config | {"quantization_config": make_sub_norm_masters() | kept}
    quant = {
        "quant_method": "bitnet",
        "linear_class": "bitlinear" if form == "bitlinear" else "autobitlinear",
        "quantization_mode": "online" if form == "masters" else "offline",
    }
    norm = {"use_rms_norm": True, "rms_norm_eps": source.inner_norm_eps} if source.inner_norm_kind else {}
    return config | {"quantization_config": quant | norm | kept}


def make_sub_norm_masters() -> dict[str, Any]:
    """Return the quantization_config of masters with the norms of SubLN in a family that does not have them."""
    return {"quant_method": PACKED_METHOD, "layout": MASTERS_LAYOUT, "version": PACKED_VERSION}


def make_packed(digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the quantization_config of packed codes with one scale a layer, in files of the sha256 *digests*."""
    return {
        "quant_method": PACKED_METHOD,
        "layout": PACKED_LAYOUT,
        "version": PACKED_VERSION,
        "sha256": dict(digests),
    }


def make_group_config(
    form: Format, group_size: int, tables: Sequence[str], quantizes_activations: bool, *, digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return what config.json says of a model with groups; for float weights t * s their values say it."""
    if form == "grouped":
        return {ACTIVATIONS_KEY: "int8"} if quantizes_activations else {}
    layout = GROUPED_LAYOUT if form == "packed" else GROUPED_MASTERS_LAYOUT
    quant = {"quant_method": PACKED_METHOD, "layout": layout, "version": PACKED_VERSION}
    groups = {"group_size": group_size, "ternary_tables": list(tables)}
    rest = {"quantizes_activations": quantizes_activations, "sha256": dict(digests)}
    return {"quantization_config": quant | groups | rest}
