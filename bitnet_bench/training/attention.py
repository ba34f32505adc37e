"""Causal attention without inspecting the mask, for which transformers waits for the GPU in every forward pass.

Rows are padded on the right, where no earlier token sees it, and padding carries no loss, so the causal order alone
gives every labelled token the same result as the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CAUSAL_ATTENTION_NAME = "causal_sdpa"
"""Name of this attention in transformers, which makes no mask for it."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Config entries that keep a layer from seeing all earlier tokens."""


def assume_causal(model: nn.Module, longest: int) -> bool:
    """Make *model* skip masks if it uses sdpa over all earlier tokens of rows up to *longest*; return if it did."""
    config: Any = model.config
    windows = [getattr(config, name, None) for name in WINDOWS]
    if config._attn_implementation != "sdpa" or any(window is not None and window <= longest for window in windows):
        return False
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(CAUSAL_ATTENTION_NAME, sdpa_attention_forward)
    change: Any = model.set_attn_implementation
    change(CAUSAL_ATTENTION_NAME)
    return bool(config._attn_implementation == CAUSAL_ATTENTION_NAME)


def attention_inputs(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of *model* from *batch*, without a mask if the causal order is enough."""
    config: Any = model.config
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[name] for name in names if name in batch}
    if config._attn_implementation != CAUSAL_ATTENTION_NAME:
        return inputs
    inputs.pop("attention_mask", None)
    if "position_ids" in inputs:
        inputs["attention_mask"] = _document_mask(inputs["position_ids"])
    return inputs


def _document_mask(position_ids: Tensor) -> Tensor:
    """Return which tokens [B, 1, T, T] a token of packed rows sees: itself and the earlier ones of its document."""
    documents = position_ids.eq(0).cumsum(1)
    length = position_ids.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=position_ids.device).tril()
    return (earlier & (documents[:, :, None] == documents[:, None, :]))[:, None]
