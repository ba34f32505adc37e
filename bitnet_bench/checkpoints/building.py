"""Build the transformers model of a config, with allocated weights or as an outline of names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bitnet_bench.checkpoints.config import list_float_patterns
from bitnet_bench.errors import BenchError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def build_model(config: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Return the causal LM of a config.json with random weights of *dtype* and plain linear layers."""
    from transformers import AutoModelForCausalLM

    with _explain_build_errors(config):
        return AutoModelForCausalLM.from_config(make_model_config(config), dtype=dtype, trust_remote_code=False)


def make_model_config(config: dict[str, Any]) -> Any:
    """Return transformers' configuration of a config.json, without its quantization; no code of a checkpoint is run."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    with _explain_build_errors(config):
        if config["model_type"] not in CONFIG_MAPPING:
            raise ValueError(f"It knows no model_type {config['model_type']!r}.")
        return CONFIG_MAPPING[config["model_type"]].from_dict(plain)


@contextmanager
def _explain_build_errors(config: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        architecture = (config.get("architectures") or [config["model_type"]])[0]
        raise BenchError(f"transformers cannot build {architecture}.", str(error).splitlines()[0]) from error


def build_outline(config: dict[str, Any]) -> PreTrainedModel:
    """Return the causal LM of a config.json on the meta device: names and shapes only, in well under a second."""
    import torch

    with torch.device("meta"):
        return build_model(config, torch.float32)


def list_ternary_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return {module name: (rows, columns)} of the layers that transformers' `bitnet` makes ternary under this config.

    All linear layers but the head and those of `modules_to_not_convert`. BenchError if that list leaves out the head:
    transformers would then make the head ternary, which no published model does and this project does not support.
    """
    from bitnet_bench.ternary.linear import find_ternary_targets

    model, kept = build_outline(config), list_float_patterns(config)
    if kept and _is_head_converted(model, kept):
        raise BenchError(
            "modules_to_not_convert names layers but not the output head, which would be made ternary as well.",
            'Add "lm_head" to modules_to_not_convert in quantization_config of config.json.',
        )
    layers = find_ternary_targets(model, kept)
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


def _is_head_converted(model: PreTrainedModel, kept: tuple[str, ...]) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    head = model.get_output_embeddings()
    return any(module is head and should_convert_module(name, list(kept)) for name, module in model.named_modules())


def list_tied_tensors(model: Any) -> set[str]:
    """Return the tensors of a transformers *model* that are stored under another name only (a tied head)."""
    return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
