"""Make the model as it is before the first step: ternary layers, frozen parts, adapters."""

from __future__ import annotations

import logging

from torch import nn
from transformers import PreTrainedModel

from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import check_packable
from bitnet_bench.machine.gpu import find_gpu, why_no_kernels
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.training.lora import add_adapters

_log = logging.getLogger(__name__)


def make_starting_model(job: FinetuneJob, base: Checkpoint) -> PreTrainedModel:
    """Return the model as it is before the first step: float32 masters, ternary layers, frozen parts, adapters."""
    _warn_about_kernels(job)
    model = load_model(base, "train", "ternary" if job.precision == "ternary" else "fp32")
    if job.subln:
        from bitnet_bench.ternary.linear import make_trainable_ternary
        from bitnet_bench.ternary.subln import add_subln

        model = add_subln(model)
        if job.precision == "ternary":
            make_trainable_ternary(model)
    if job.precision == "ternary":
        check_packable(model)
    _freeze(model, job)
    if job.lora_rank:
        add_adapters(model, job.lora_rank, job.lora_alpha, job.seed)
    return model


def _warn_about_kernels(job: FinetuneJob) -> None:
    """Log a warning if ternary layers train on a GPU without our kernels."""
    gpu = find_gpu() if job.precision == "ternary" else None
    why = gpu and why_no_kernels(gpu)
    if why:
        _log.warning("Ternary layers train with PyTorch's own operators, which is slower: %s.", why)


def _freeze(model: PreTrainedModel, job: FinetuneJob) -> None:
    """Freeze the parts that *job* names; a tied head is its embedding."""
    parts: list[nn.Module] = []
    if "embeddings" in job.freeze:
        parts.append(model.get_input_embeddings())
    if "head" in job.freeze:
        parts.append(model.get_output_embeddings())
    if "norms" in job.freeze:
        parts += [module for name, module in model.named_modules() if "norm" in name.rpartition(".")[2].lower()]
    for part in parts:
        part.requires_grad_(False)
