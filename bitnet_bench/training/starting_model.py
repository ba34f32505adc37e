"""Make the model as it is before the first step: ternary layers, frozen parts, adapters."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import check_packable
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.gpu import find_gpu, why_no_kernels
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.group_linear import make_trainable_groups
from bitnet_bench.ternary.subln import has_added_norms
from bitnet_bench.training.lora import add_adapters

_log = logging.getLogger(__name__)


def make_starting_model(job: FinetuneJob, base: Checkpoint) -> PreTrainedModel:
    """Return the model as it is before the first step: float32 masters, ternary layers, frozen parts, adapters."""
    _warn_about_kernels(job)
    model = load_model(base, "train", "ternary" if job.precision == "ternary" else "fp32")
    groups = choose_groups(job, base)
    if groups is not None:
        make_trainable_groups(model, groups.size, groups.tables, rounds_inputs=groups.rounds_inputs)
    if job.subln:
        from bitnet_bench.ternary.linear import make_trainable_ternary
        from bitnet_bench.ternary.subln import add_subln

        model = add_subln(model)
        if job.precision == "ternary":
            make_trainable_ternary(model)
    if job.precision == "ternary":
        check_packable(model)
    elif has_added_norms(model):
        raise BenchError(
            f"{'`subln` in' if job.subln else f'{base.source} in'} {job.precision}: a float {model.config.model_type} "
            "with norms that its family does not have would be read without them elsewhere.",
            "Leave out `subln`, or give `precision=ternary`."
            if job.subln
            else "Give `precision=ternary`, or name the float model that got the norms (for `twin`: `twin_model`).",
        )
    _freeze(model, job)
    if job.lora_rank:
        add_adapters(model, job.lora_rank, job.lora_alpha, job.seed)
    return model


@dataclass(frozen=True)
class TrainedGroups:
    """How a job makes weights ternary by group."""

    size: int
    tables: tuple[str, ...]
    """Names of embedding and head, where they are ternary too."""
    rounds_inputs: bool


def choose_groups(job: FinetuneJob, base: Checkpoint) -> TrainedGroups | None:
    """Return the groups of *job*: its own, else those of *base*; None if a layer has one scale.

    BenchError for what would make a ternary base another model, and for what was not tried with groups.
    """
    size = job.group_size or base.group_size
    if job.precision != "ternary" or size is None:
        if job.activations and job.precision == "ternary":
            raise BenchError("`activations` is for scales of groups.", "Give `group_size`, or leave it out.")
        return None
    if base.is_ternary and not base.group_size:
        raise BenchError(
            f"{base.source} has one scale per layer, which groups of {size} would not keep.",
            "Leave out `group_size`, or train from a float checkpoint.",
        )
    if base.group_size and base.group_size % size:
        raise BenchError(
            f"{base.source} has groups of {base.group_size}, and groups of {size} would not keep its scales.",
            f"Leave out `group_size`, or give {base.group_size}.",
        )
    if job.subln or job.shard:
        raise BenchError(
            f"`{'subln' if job.subln else 'shard'}` was not tried with scales of groups.", "Leave one of them out."
        )
    rounds = base.quantizes_activations if base.group_size else False
    return TrainedGroups(size, base.ternary_tables, rounds if job.activations is None else job.activations == "int8")


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
