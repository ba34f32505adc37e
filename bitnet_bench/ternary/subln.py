"""Add the two extra norms of BitNet's layers to a pretrained decoder (SubLN; arXiv:2510.13998, eq. 4-5).

A Llama, Mistral or Qwen2 becomes a `BitNetForCausalLM` with the activation, rotary and bias settings of its source, so
transformers and every backend open it like any BitNet. The families of `EXTENDED_FAMILIES` differ from a BitNet in more
than that: they stay what they are, and get the two norms as modules of their attention and feed-forward blocks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BitNetConfig, BitNetForCausalLM, PreTrainedModel
from transformers.models.bitnet.modeling_bitnet import BitNetRMSNorm

from bitnet_bench.errors import BenchError

EXTENDED_FAMILIES = ("gemma3_text", "qwen3", "smollm3")
"""Families whose blocks get the norms of SubLN as further modules, which transformers does not know."""
SUB_NORMS = (("attn_sub_norm", "o_proj"), ("ffn_sub_norm", "down_proj"))
"""Names of a norm, and of the output projection beside it whose inputs it normalizes."""

CARRIED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "attention_dropout", "rope_parameters",
)  # fmt: skip
"""Settings that have the same meaning in all supported families."""


def add_subln(model: PreTrainedModel) -> PreTrainedModel:
    """Return *model* (in its dtype) with an RMSNorm before each output projection.

    The norms begin as ones, which changes what the model computes: train it on running text first. Raise BenchError for
    a model whose architecture has no place for them.
    """
    config: Any = model.config
    if config.model_type == "bitnet" or has_added_norms(model):
        raise BenchError("The model has the norms of SubLN already.", "Leave out `subln`.")
    check_takes_sub_norms(config)
    if config.model_type in EXTENDED_FAMILIES:
        return attach_sub_norms(model)
    biased = config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))
    carried = {name: getattr(config, name) for name in CARRIED if hasattr(config, name)}
    made = BitNetForCausalLM._from_config(BitNetConfig(**carried, attention_bias=biased), dtype=model.dtype)
    outcome = made.load_state_dict(model.state_dict(), strict=False)
    new = [name for name in outcome.missing_keys if not name.endswith(("_sub_norm.weight", "o_proj.bias"))]
    if new or outcome.unexpected_keys:
        raise _make_error(config, f"{(new or outcome.unexpected_keys)[0]} has no place in it")
    for name, parameter in made.named_parameters():
        if name in outcome.missing_keys and name.endswith("o_proj.bias"):
            parameter.data.zero_()  # Qwen2 has biases only in its query, key and value projections
    made.generation_config = model.generation_config
    return made.train(model.training)


def attach_sub_norms(model: PreTrainedModel) -> PreTrainedModel:
    """Give each block of *model* the norms of SubLN as modules, and make its output projections read their result."""
    config: Any = model.config
    for block in list(model.modules()):
        for name, projection in SUB_NORMS:
            layer = getattr(block, projection, None)
            if isinstance(layer, nn.Linear):
                norm = BitNetRMSNorm(layer.in_features, config.rms_norm_eps).to(layer.weight.device, layer.weight.dtype)
                block.add_module(name, norm)
                layer.register_forward_pre_hook(NormalizedInput(norm))
    return model


def has_added_norms(model: nn.Module) -> bool:
    """Return whether `attach_sub_norms` gave *model* norms that its family does not have."""
    return any(
        isinstance(hook, NormalizedInput) for module in model.modules() for hook in module._forward_pre_hooks.values()
    )


class NormalizedInput:
    """Forward pre-hook of a projection that normalizes its input; copied together with its model."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, _projection: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the input of the projection, normalized."""
        normalized: Tensor = self.norm(inputs[0])
        return normalized


def check_takes_sub_norms(config: Any) -> None:
    """Raise BenchError if a model with a transformers *config* has no place for the norms of SubLN."""
    if config.model_type in EXTENDED_FAMILIES:
        return
    if config.model_type not in ("llama", "mistral", "qwen2"):
        raise _make_error(config, "only Llama, Mistral, Qwen2, Qwen3, Gemma 3 and SmolLM3 are known to fit")
    if getattr(config, "mlp_bias", False):
        raise _make_error(config, "its FFN has biases")
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    if width != config.hidden_size:
        raise _make_error(config, f"its heads are {width} wide together and its hidden states {config.hidden_size}")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = (getattr(config, "sliding_window", None) or 2**31) if config.model_type == "mistral" else 2**31
    if layers != {"full_attention"} or window < config.max_position_embeddings:
        raise _make_error(config, "its attention slides over a window")


def _make_error(config: Any, why: str) -> BenchError:
    return BenchError(
        f"SubLN cannot be added to a {config.model_type} model: {why}.",
        "Train it without `subln`, or start from another model.",
    )
