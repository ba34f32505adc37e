"""Write a trained model as a complete checkpoint folder, in a format that transformers opens too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet_bench.checkpoints.building import list_tied_tensors
from bitnet_bench.checkpoints.config import PRECISION_KEY, SUB_NORMS_KEY
from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_folder_whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


WEIGHTS_FILE = "model.safetensors"


def check_packable(model: PreTrainedModel) -> None:
    """Raise BenchError if *model* has no ternary layer, or one with a row count that the packed layout cannot store."""
    from bitnet_bench.ternary.group_linear import GroupBitLinear
    from bitnet_bench.ternary.linear import find_bit_linears
    from bitnet_bench.ternary.packing import CODES_PER_BYTE

    layers = find_bit_linears(model)
    if not layers:
        raise BenchError(
            f"{type(model).__name__} has no linear layer to make ternary.",
            "Ternary training takes architectures of nn.Linear layers, such as BitNet, Llama and Qwen.",
        )
    for name, layer in layers.items():
        if isinstance(layer, GroupBitLinear):
            if layer.in_features % layer.group_size:
                raise BenchError(
                    f"{name} has {layer.in_features} inputs, no multiple of a group of {layer.group_size}.",
                    "Give another `group_size`, or leave it out.",
                )
        elif layer.out_features % CODES_PER_BYTE:
            raise BenchError(
                f"{name} has {layer.out_features} rows, no multiple of {CODES_PER_BYTE}: it cannot be packed.",
                "This architecture cannot be written as a packed ternary checkpoint.",
            )


def save_checkpoint(
    model: PreTrainedModel,
    out: Path,
    form: Literal["float", "masters", "autobitlinear", "packed", "grouped"],
    dtype: str,
) -> None:
    """Write a trained *model* (float32) to the folder *out*, atomically.

    autobitlinear: 2-bit codes with float32 scales that multiply, in the layout of `microsoft/bitnet-b1.58-2B-4T`, which
    transformers opens as well. packed: such codes in our own layout, for a model that transformers does not know.
    masters: float32 weights with an online quantization_config. float: all in *dtype*.
    grouped: weights t * s in float16, which holds them exactly. In every format, tensors that are not ternary are
    stored in *dtype*.
    """
    from safetensors.torch import save_file

    state = _collect_tensors(model, form, dtype)
    with write_folder_whole(out, last="config.json") as folder:
        config = _make_saved_config(model, form, dtype)
        if form == "packed":
            config["quantization_config"] = _write_packed(model, state, folder)
        else:
            save_file({name: t.contiguous() for name, t in state.items()}, folder / WEIGHTS_FILE, {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # safetensors makes its file readable by the owner only; give it the permissions of the other files
        for file in folder.glob("*.safetensors"):
            shutil.copymode(folder / "config.json", file)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)


def _collect_tensors(model: PreTrainedModel, form: str, dtype: str) -> dict[str, Tensor]:
    """Return what is stored of *model* in *form*, by name; tied tensors are left out."""
    import torch

    from bitnet_bench.ternary.group_linear import find_group_modules
    from bitnet_bench.ternary.groups import scale_groups
    from bitnet_bench.ternary.linear import find_bit_linears
    from bitnet_bench.ternary.packing import pack
    from bitnet_bench.ternary.panels import to_panels
    from bitnet_bench.ternary.quantizer import ternarize

    groups = {} if form == "float" else find_group_modules(model)
    ternary = {} if form == "float" else {**find_bit_linears(model), **groups}
    state: dict[str, Tensor] = {}
    tied = list_tied_tensors(model)
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if name in tied:
            continue
        if module not in ternary or kind == "bias":
            if form == "autobitlinear" and module in ternary:  # AutoBitLinear multiplies W x + b by the scale
                tensor = tensor / ternarize(ternary[module].weight)[1]
            state[name] = _cast_checked(name, tensor, torch.float32 if module in ternary else getattr(torch, dtype))
        elif form == "masters":
            state[name] = tensor.float()
        elif module in groups:
            state[name] = _cast_checked(name, scale_groups(*groups[module].ternarize()), torch.float16)
        else:
            codes, gamma = ternarize(tensor)
            state[name] = to_panels(codes) if form == "packed" else pack(codes)
            state[f"{module}.weight_scale"] = gamma.reshape(1)
    return state


def _write_packed(model: PreTrainedModel, state: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """Write packed codes and the other tensors of *state* to *folder*, and return their quantization_config."""
    from bitnet_bench.checkpoints.layouts import make_packed
    from bitnet_bench.checkpoints.streaming import SHARD_BYTES, PlannedTensor, write_shards
    from bitnet_bench.protocols import no_progress
    from bitnet_bench.ternary.linear import find_bit_linears

    shapes = {name: tuple(layer.weight.shape) for name, layer in find_bit_linears(model).items()}
    plan = [PlannedTensor(name, t.dtype, tuple(t.shape), t.cpu().contiguous) for name, t in state.items()]
    return make_packed(write_shards(folder, plan, {"shapes": json.dumps(shapes)}, SHARD_BYTES, no_progress))


def _cast_checked(name: str, tensor: Tensor, dtype: Any) -> Tensor:
    narrow = tensor.to(dtype)
    if not bool(narrow.isfinite().all()):
        raise BenchError(
            f"{name} holds values that {dtype} cannot: up to {float(tensor.abs().max()):.3g}.",
            "The run may have diverged: lower `learning_rate`, or start from a bfloat16 or float32 checkpoint.",
        )
    return narrow


def _make_saved_config(model: PreTrainedModel, form: Any, dtype: str) -> dict[str, Any]:
    from bitnet_bench.checkpoints.layouts import make_group_config, make_sub_norm_masters
    from bitnet_bench.ternary.group_linear import find_group_modules
    from bitnet_bench.ternary.subln import has_added_norms

    config: dict[str, Any] = model.config.to_dict()
    config["dtype"] = dtype
    config["use_cache"] = True  # Trainer turns it off
    config["architectures"] = [type(model).__name__]
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config[PRECISION_KEY] = "fp16" if form == "float" else "ternary"
    if has_added_norms(model):
        config[SUB_NORMS_KEY] = True
    if form != "float" and (found := find_group_modules(model)):
        if form == "grouped" and dtype != "float32":
            config["dtype"] = "float16"  # bfloat16 would round the scales
        config |= make_group_config(form, *_describe_groups(model, found), digests={})
    elif form == "masters" and config.get(SUB_NORMS_KEY):
        config["quantization_config"] = make_sub_norm_masters()
    elif form != "float":
        config["quantization_config"] = {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline" if form == "autobitlinear" else "online",
        }
        if kept := _list_float_linears(model):
            config["quantization_config"]["modules_to_not_convert"] = kept
    return config


def _describe_groups(model: PreTrainedModel, groups: Mapping[str, Any]) -> tuple[int, tuple[str, ...], bool]:
    """Return the group size, the names of ternary tables, and whether inputs are rounded."""
    tied = {name.rpartition(".")[0] for name in list_tied_tensors(model)}
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    names = tuple(name for name, module in groups.items() if id(module) in tables and name not in tied)
    rounds = any(getattr(module, "rounds_inputs", False) for module in groups.values())
    return next(iter(groups.values())).group_size, names, rounds


def _list_float_linears(model: PreTrainedModel) -> list[str]:
    """Return the linear layers of a ternary *model* that stayed float, if there are any besides the head."""
    from torch import nn

    from bitnet_bench.ternary.linear import BitLinear

    kept = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not isinstance(m, BitLinear)}
    return list(kept) if any(module is not model.get_output_embeddings() for module in kept.values()) else []
