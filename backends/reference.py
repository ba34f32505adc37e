"""Compute the logits of a checkpoint itself, the reference for conversions and foreign runtimes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitnet_bench.checkpoints.building import make_model_config
from bitnet_bench.checkpoints.parity import LogitFunction
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.machine.memory import USABLE_SHARE, find_free_ram
from bitnet_bench.runs.records import Checkpoint


def find_logits(checkpoint: Checkpoint) -> LogitFunction | None:
    """Return the function that runs *checkpoint* for the parity check, or None if memory is too small for it."""
    if can_engine_run(checkpoint):
        return engine_logits
    needed = 4 * checkpoint.parameters + checkpoint.ternary_parameters  # float32 first, then int8 codes
    return transformers_logits if needed < USABLE_SHARE * find_free_ram() else None


def can_engine_run(checkpoint: Checkpoint) -> bool:
    """Return whether the CPU kernel is built and the engine supports the architecture of *checkpoint*."""
    from bitnet_bench.backends.ternary.engine import why_unsupported
    from bitnet_bench.ternary import kernel

    if kernel.load_library() is None:
        return False
    weights = Weights(checkpoint)
    return why_unsupported(weights, make_model_config(weights.config)) is None


def source_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor], activation: str | None = None) -> Tensor:
    """Return logits [T, V] of the checkpoint, with another *activation* in its feed-forward if one is given."""
    engine = checkpoint.is_ternary and can_engine_run(checkpoint)
    return (engine_logits if engine else transformers_logits)(checkpoint, prompts, activation)


def engine_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor], activation: str | None = None) -> Tensor:
    """Return the logits of the ternary engine, in seconds where transformers' modules take a minute."""
    from bitnet_bench.backends.ternary.engine import Batch, Engine

    weights = Weights(checkpoint)
    config = make_model_config(weights.config)
    if activation:
        config.hidden_act = config.hidden_activation = activation
    batch = [ids.tolist() for ids in prompts]
    with torch.inference_mode():
        engine = Engine(weights, config)
        return engine.logits(
            engine.hidden(Batch.from_sequences(batch), engine.cache(len(batch), max(map(len, batch)), layers=1))
        )


def transformers_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor], activation: str | None = None) -> Tensor:
    """Return the logits of the model that transformers builds; everything that is not ternary is float32."""
    from transformers.activations import ACT2FN

    from bitnet_bench.checkpoints.loading import load_model

    model = load_model(checkpoint, "run", "ternary" if checkpoint.is_ternary else "fp32")
    for module in model.modules():
        if activation and hasattr(module, "act_fn"):
            module.act_fn = ACT2FN[activation]
    with torch.inference_mode():
        return torch.cat([model(ids[None]).logits[0].float() for ids in prompts])
