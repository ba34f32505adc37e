"""Make a model that differs from a checkpoint by one `Variant`: in the ternary engine, and in one of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.backends.variants import Order, Variant
from bitnet_bench.checkpoints.gguf.naming import GgufLayout
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.runs.records import Checkpoint

Hook = Callable[[Any, tuple[Any, ...], Any], Any]


def leave_out(layer: Any, names: Sequence[str]) -> Any:
    """Return a block of the engine without the norms *names*."""
    fields = {"attn_sub_norm": "attention_norm", "ffn_sub_norm": "gated_norm"}
    fields |= {"q_norm": "query_norm", "k_norm": "key_norm"}
    return replace(layer, **{fields[name]: None for name in names})


class ChangedWeights(Weights):
    """Weights for one engine after another, of which `order` turns the rows of queries and keys; panels are kept."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.order: Order | None = None
        self._panels: dict[str, tuple[Tensor, Tensor]] = {}

    def panels(self, module: str) -> tuple[Tensor, Tensor]:
        """Return the panels of *module*, in the order that is set."""
        from bitnet_bench.ternary.panels import to_panels

        if self.order and module.endswith((".q_proj", ".k_proj")):
            codes, gamma = self.codes(module)
            return to_panels(self._turn(codes)), gamma
        if module not in self._panels:
            self._panels[module] = super().panels(module)
        return self._panels[module]

    def bias(self, module: str) -> Tensor | None:
        """Return the bias of *module*, in the order that is set."""
        found = super().bias(module)
        return self._turn(found) if found is not None and module.endswith((".q_proj", ".k_proj")) else found

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; the norms of queries and keys in the order that is set."""
        found = super().tensor(name)
        return self._turn(found) if name.endswith((".q_norm.weight", ".k_norm.weight")) else found

    def _turn(self, rows: Tensor) -> Tensor:
        return turn_rows(rows, GgufLayout("", self.config).head_dimension, self.order) if self.order else rows


def turn_rows(rows: Tensor, dimension: int, order: Order) -> Tensor:
    """Return *rows* [heads * dimension, ...] in another order within each head.

    `neighbours`: rotating halves of the result is rotating neighbours of *rows*. `halves` is the inverse.
    """
    parts = (-1, dimension // 2, 2) if order == "neighbours" else (-1, 2, dimension // 2)
    return rows.reshape(*parts, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape).contiguous()


def list_changes(model: Any, variant: Variant, dimension: int) -> Iterator[tuple[Any, Hook]]:
    """Yield (module, hook that changes its output) for what *variant* changes in *model*."""
    modules = dict(model.named_modules())
    turned = {"q_norm", "k_norm"} if any(n.endswith(".q_norm") for n in modules) else {"q_proj", "k_proj"}
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if variant.activation and last == "act_fn":
            yield module, _replace_activation(variant.activation)
        if variant.epsilon and hasattr(module, "weight") and _epsilon(module) is not None:
            yield module, _replace_epsilon(variant.epsilon)
        if variant.rope_base and last == "rotary_emb":
            yield module, _replace_angles(variant.rope_base, dimension)
        if last in variant.left_out:
            yield module, lambda module, given, output: given[0]
        if variant.order and last in turned:
            yield module, _turn_output(variant.order, dimension)


def _replace_activation(name: str) -> Hook:
    from transformers.activations import ACT2FN

    other = ACT2FN[name]
    return lambda module, given, output: other(given[0])


def _epsilon(norm: Any) -> float | None:
    found = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(found, float) else None


def _replace_epsilon(epsilon: float) -> Hook:
    def change(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
        mean = given[0].float().pow(2).mean(-1, keepdim=True)
        factor = ((mean + (_epsilon(module) or 0.0)) / (mean + epsilon)).sqrt()
        changed: Tensor = output * factor.to(output.dtype)
        return changed

    return change


def _replace_angles(base: float, dimension: int) -> Hook:
    def change(module: Any, given: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        frequencies = base ** -(torch.arange(0, dimension, 2).float() / dimension)
        positions = torch.arange(output[0].shape[1]).float()
        angles = torch.outer(positions, frequencies).repeat(1, 2)[None]
        return angles.cos().to(output[0].dtype), angles.sin().to(output[1].dtype)

    return change


def _turn_output(order: Order, dimension: int) -> Hook:
    def change(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
        return turn_rows(output.movedim(-1, 0), dimension, order).movedim(0, -1)

    return change
