"""The gradient of a tied embedding against autograd's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.training import lookup
from bitnet_bench.training.lookup import RowGradientEmbedding, give_row_gradients
from bitnet_bench.training.loss import response_loss

IDS = torch.tensor([[5, 9, 5, 7, 2, 2], [3, 9, 4, 4, 8, 5]])
BATCH = {"input_ids": IDS, "labels": IDS}


def train_twice(model: Any) -> dict[str, torch.Tensor]:
    """Return the gradients of two backward passes, which add up."""
    for _ in range(2):
        response_loss(model, BATCH)[0].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2"])
def test_gradients_are_those_of_a_dense_embedding(family: str, tiny_model: Callable[[str], Path]) -> None:
    """Also of one that scales its rows, and of one with a padding token, which learns from the head alone."""
    plain, ours = (load_model(inspect_folder(tiny_model(family)), "train", "fp16").eval() for _ in range(2))
    kind = type(ours.get_input_embeddings())
    assert give_row_gradients(ours)
    assert isinstance(ours.get_input_embeddings(), (kind, RowGradientEmbedding))
    torch.testing.assert_close(train_twice(ours), train_twice(plain))


def test_no_second_table_is_made(tiny_model: Callable[[str], Path]) -> None:
    """The gradient is the tensor that the head's gradient was."""
    model: Any = load_model(inspect_folder(tiny_model("qwen3")), "train", "fp16")
    give_row_gradients(model)
    loss = response_loss(model, BATCH)[0]
    given = [one.data_ptr() for one in loss.grad_fn.gradients if one is not None]  # type: ignore[union-attr]
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.get_input_embeddings().weight.grad.data_ptr() in given


def test_what_is_not_tied_frozen_or_shared_between_processes_is_left_alone(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    untied: Any = load_model(inspect_folder(tiny_model("llama")), "train", "fp16")
    assert not give_row_gradients(untied)
    tied: Any = load_model(inspect_folder(tiny_model("qwen3")), "train", "fp16")
    tied.get_input_embeddings().requires_grad_(False)
    assert not give_row_gradients(tied)
    tied.get_input_embeddings().requires_grad_(True)
    with monkeypatch.context() as patched:
        patched.setattr(lookup, "count_processes", lambda: 2)
        assert not give_row_gradients(tied)
    assert type(tied.get_input_embeddings()) is nn.Embedding
    assert give_row_gradients(tied)
    assert not give_row_gradients(tied)
