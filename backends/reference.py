"""Compute the logits of a checkpoint itself, the reference for conversions and foreign runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bitnet_bench.backends.changed_models import ChangedWeights, leave_out, list_changes
from bitnet_bench.backends.variants import AS_STORED, Variant
from bitnet_bench.checkpoints.building import load_config_object
from bitnet_bench.checkpoints.config import find_activation
from bitnet_bench.checkpoints.gguf.naming import GgufLayout
from bitnet_bench.checkpoints.parity import LogitFunction
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.machine.memory import USABLE_SHARE, find_free_ram
from bitnet_bench.runs.records import Checkpoint


def find_logits(checkpoint: Checkpoint) -> LogitFunction | None:
    """Return the function that runs *checkpoint* for the parity check, or None if memory is too small for it."""
    if can_engine_run(checkpoint):
        return engine_logits
    return transformers_logits if fits_transformers(checkpoint) else None


def fits_transformers(checkpoint: Checkpoint) -> bool:
    """Return whether the memory holds *checkpoint* as a model of transformers: float32 first, then int8 codes."""
    needed = 4 * checkpoint.parameters + checkpoint.ternary_parameters
    return needed < USABLE_SHARE * find_free_ram()


def can_engine_run(checkpoint: Checkpoint) -> bool:
    """Return whether the CPU kernel is built and the engine supports the architecture of *checkpoint*."""
    from bitnet_bench.backends.ternary.engine import why_unsupported
    from bitnet_bench.ternary import kernel

    if kernel.load_library() is None:
        return False
    return why_unsupported(Weights(checkpoint), load_config_object(checkpoint.path)) is None


def run_variants(
    checkpoint: Checkpoint, prompts: Sequence[Tensor], variants: Sequence[Variant]
) -> Iterator[tuple[Variant, Tensor]]:
    """Yield (variant, logits [T, V] of the checkpoint with that change), leaving out what cannot be computed."""
    engine = checkpoint.is_ternary and can_engine_run(checkpoint)
    return (run_in_engine if engine else run_in_transformers)(checkpoint, prompts, variants)


def source_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor], variant: Variant = AS_STORED) -> Tensor:
    """Return logits [T, V] of the checkpoint, or of it with a change."""
    return next(run_variants(checkpoint, prompts, [variant]))[1]


def engine_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor]) -> Tensor:
    """Return the logits of the ternary engine, in seconds where transformers' modules take a minute."""
    return next(run_in_engine(checkpoint, prompts, [AS_STORED]))[1]


def transformers_logits(checkpoint: Checkpoint, prompts: Sequence[Tensor]) -> Tensor:
    """Return the logits of the model that transformers builds; everything that is not ternary is float32."""
    return next(run_in_transformers(checkpoint, prompts, [AS_STORED]))[1]


def run_in_engine(
    checkpoint: Checkpoint, prompts: Sequence[Tensor], variants: Sequence[Variant]
) -> Iterator[tuple[Variant, Tensor]]:
    """Yield logits [T, V] of the ternary engine for each of *variants* that it can compute."""
    from bitnet_bench.backends.ternary.engine import Engine
    from bitnet_bench.ternary import kernel

    batch, weights = [ids.tolist() for ids in prompts], ChangedWeights(checkpoint)
    for variant in variants:
        config = load_config_object(checkpoint.path)
        if variant.activation:
            config.hidden_act = config.hidden_activation = variant.activation
        config.rms_norm_eps = variant.epsilon or config.rms_norm_eps
        if variant.rope_base:
            config.rope_parameters = {"rope_type": "default", "rope_theta": variant.rope_base}
        if find_activation(config.to_dict()) not in kernel.ACTIVATIONS:
            continue
        weights.order = variant.order
        with torch.inference_mode():
            engine = Engine(weights, config)
            engine.change_layers(partial(leave_out, names=variant.left_out))
            yield variant, engine.score(batch)


def run_in_transformers(
    checkpoint: Checkpoint, prompts: Sequence[Tensor], variants: Sequence[Variant]
) -> Iterator[tuple[Variant, Tensor]]:
    """Yield logits [T, V] of the model that transformers builds, for each of *variants*; floats are float32."""
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.loading import load_model

    model = load_model(checkpoint, "run", "ternary" if checkpoint.is_ternary else "fp32")
    dimension = GgufLayout("", read_config(Path(checkpoint.path))).head_dimension
    for variant in variants:
        with torch.inference_mode(), ExitStack() as hooks:
            for module, change in list_changes(model, variant, dimension):
                hooks.callback(module.register_forward_hook(change).remove)
            yield variant, torch.cat([model(ids[None]).logits[0].float() for ids in prompts])
