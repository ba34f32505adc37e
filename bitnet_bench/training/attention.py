"""Causal attention whose mask is not looked at: transformers waits for the GPU in every forward pass to do so.

Rows are padded on the right, where no earlier token sees, and padding carries no loss: the causal order alone gives
every labelled token what the mask gives it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CAUSAL_ATTENTION_NAME = "causal_sdpa"
"""The name under which transformers knows it; without a mask of that name it makes none."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Config entries by which a layer does not see all earlier tokens."""


def assume_causal(model: nn.Module, longest: int) -> bool:
    """Make *model* skip masks if it computes sdpa over all earlier tokens of rows up to *longest*; return whether."""
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
    """Return what a forward pass of *model* needs of *batch*: no mask where the causal order says it all."""
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
    """Return which tokens [B, 1, T, T] a token sees in packed rows: the earlier ones of its document, and itself."""
    documents = position_ids.eq(0).cumsum(1)
    length = position_ids.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=position_ids.device).tril()
    return (earlier & (documents[:, :, None] == documents[:, None, :]))[:, None]
