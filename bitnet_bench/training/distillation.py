"""The relations of a teacher's queries, keys and values, as a loss; `head_loss` has that of its probabilities.

BitDistill (arXiv:2510.13998), after Hinton et al. 2015 and MiniLMv2 (arXiv:2012.15828).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitnet_bench.errors import BenchError

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def share_frozen_tables(student: Any, teacher: Any) -> Tensor | None:
    """Make *teacher* use the embedding and head that are frozen in *student*, where both have the same.

    A teacher in bfloat16 keeps its own; its head is returned if it is the student's, rounded, so that it need not be
    rounded again in each step.
    """
    if teacher.get_output_embeddings() is None or student.get_output_embeddings() is None:
        return None
    rounded = None
    for of in ("get_input_embeddings", "get_output_embeddings"):
        ours, theirs = getattr(student, of)().weight, getattr(teacher, of)().weight
        if ours.requires_grad or ours.shape != theirs.shape or not torch.equal(ours.to(theirs.dtype), theirs):
            continue
        if ours.dtype == theirs.dtype:
            getattr(teacher, of)().weight = ours
        elif of == "get_output_embeddings":
            rounded = theirs
    return rounded


class ProjectionRecorder:
    """Records the outputs of one layer's query, key and value projections in the last forward pass."""

    def __init__(self, model: nn.Module, layer: int) -> None:
        self.states: dict[str, Tensor] = {}
        chosen = _find_attention_layers(model)[layer]
        for name in PROJECTIONS:
            getattr(chosen, name).register_forward_hook(self._make_hook(name))

    def _make_hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.states[name] = output

        return keep


def _find_attention_layers(model: nn.Module) -> list[nn.Module]:
    found = [module for module in model.modules() if all(hasattr(module, name) for name in PROJECTIONS)]
    if not found:
        raise BenchError(
            f"{type(model).__name__} has no {', '.join(PROJECTIONS)} whose relations could be taught.",
            "Use `relation_weight=0`, which teaches by logits alone.",
        )
    return found


def check_attention_layer(name: str, layers: int, layer: int) -> None:
    """Raise BenchError if *layer* is not one of the *layers* attention layers of the model in the field *name*."""
    if not -layers <= layer < layers:
        raise BenchError(
            f"`relation_layer` is {layer}, and the `{name}` has {layers} layers.",
            "It counts from 0, or back from -1.",
        )


def count_attention_layers(model: nn.Module) -> int:
    """Return how many attention layers *model* has; BenchError if none has projections of its own."""
    return len(_find_attention_layers(model))


def list_projection_widths(model: nn.Module) -> list[list[int]]:
    """Return the columns of queries, keys and values of each attention layer; BenchError if none has them."""
    return [[getattr(layer, name).out_features for name in PROJECTIONS] for layer in _find_attention_layers(model)]


def check_relation_width(width: int, heads: int) -> None:
    """Raise BenchError if projections of *width* columns cannot be split into *heads*."""
    if width % heads:
        raise BenchError(f"{width} columns cannot be split into {heads} heads.", "Choose another `relation_heads`.")


def relation_divergence(
    student: dict[str, Tensor], teacher: dict[str, Tensor], valid: Tensor, heads: int, documents: Tensor | None = None
) -> Tensor:
    """Return KL(teacher || student) of the relations of queries, keys and values, in nats summed over positions.

    Relations are softmax(X X^T / sqrt(d)) over earlier positions of the same document, for X in *heads* heads of d
    columns (MiniLMv2, eq. 3-6, made causal for a decoder); the divergence is the mean over the heads and the three.
    student, teacher: projections [B, T, *]. valid [B, T]: positions that count. documents [B, T]: document numbers.
    """
    length = valid.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()[None]
    if documents is not None:
        seen = seen & (documents[:, :, None] == documents[:, None, :])
    total = valid.new_zeros((), dtype=torch.float32)
    for name in PROJECTIONS:
        ours, theirs = (_compute_relations(states[name], heads, seen) for states in (student, teacher))
        each = F.kl_div(ours, theirs, reduction="none", log_target=True)
        total = total + (each.masked_fill(~seen[:, None], 0.0).sum(-1).mean(1) * valid).sum()
    return total / len(PROJECTIONS)


def _compute_relations(states: Tensor, heads: int, seen: Tensor) -> Tensor:
    """Return log-softmax relations [B, heads, T, T]."""
    batch, length, width = states.shape
    check_relation_width(width, heads)
    x = states.float().view(batch, length, heads, width // heads).transpose(1, 2)
    with torch.autocast(x.device.type, enabled=False):
        scores = x @ x.transpose(2, 3) * (width // heads) ** -0.5
    return F.log_softmax(scores.masked_fill(~seen[:, None], torch.finfo(torch.float32).min), -1)
