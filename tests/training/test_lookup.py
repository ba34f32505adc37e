"""The gradient of a tied embedding against autograd's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Tables(TorchDispatchMode):
    """Counts the tensors of a shape that operators make, without views of what they were given."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.made = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known, new = (
            [one for one in tree_leaves(some) if isinstance(one, torch.Tensor) and one.shape == self.shape]
            for some in ((args, kwargs), found)
        )
        places = {one.data_ptr() for one in known}
        self.made += sum(one.data_ptr() not in places for one in new)
        return found


def test_no_second_table_is_made(tiny_model: Callable[[str], Path]) -> None:
    """The head's product makes the only tensor of the table's shape in a backward pass."""
    model: Any = load_model(inspect_folder(tiny_model("qwen3")), "train", "fp16")
    made = []
    for _ in range(2):
        loss = response_loss(model, BATCH)[0]
        with Tables(model.get_input_embeddings().weight.shape) as seen:
            loss.backward()  # type: ignore[no-untyped-call]
        made.append(seen.made)
        model.zero_grad()
        give_row_gradients(model)
    assert made[0] > 1
    assert made[1] == 1


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
