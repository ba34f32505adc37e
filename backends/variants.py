"""Single changes of a model that runtimes make by mistake.

When a runtime does not compute the checkpoint, the change that comes nearest to it says what it computes instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bitnet_bench.checkpoints.config import find_activation
from bitnet_bench.checkpoints.gguf.naming import GgufLayout

ACTIVATION_NAMES = {
    "silu": "SiLU",
    "relu2": "a squared ReLU",
    "gelu_pytorch_tanh": "GELU (tanh)",
    "gelu": "GELU",
    "relu": "ReLU",
}
"""Activations that are tried, and how they are called."""
LIKELY_ACTIVATIONS = ("silu", "relu2")
"""Activations that runtimes compute for BitNet, whatever the model has (microsoft/BitNet #588, #602)."""
ROPE_BASES = (10_000.0, 500_000.0, 1_000_000.0)
EPSILONS = (1e-5, 1e-6)
INNER_NORMS = ("attn_sub_norm", "ffn_sub_norm")
HEAD_NORMS = ("q_norm", "k_norm")
Order = Literal["neighbours", "halves"]


@dataclass(frozen=True)
class Variant:
    """A model with at most one change; None and () leave everything as stored."""

    says: str = "computes the checkpoint"
    """What a runtime does that computes this, after its name."""
    activation: str | None = None
    epsilon: float | None = None
    rope_base: float | None = None
    left_out: tuple[str, ...] = ()
    """Norms that are not computed."""
    order: Order | None = None
    """Order in which the rows of q_proj and k_proj are read for the rotation of halves."""


AS_STORED = Variant()


def is_bitnet_like(config: Mapping[str, Any]) -> bool:
    """Return whether runtimes are known to compute another activation for a model with *config*."""
    return config.get("model_type") == "bitnet" or config.get("hidden_act") == "relu2"


def list_activations(config: Mapping[str, Any], among: Sequence[str] = tuple(ACTIVATION_NAMES)) -> list[Variant]:
    """Return the variants with another activation of *among* than the checkpoint's."""
    own = find_activation(config)
    return [
        Variant(f"computes {_name(other)} where the checkpoint has {_name(own)}", activation=other)
        for other in among
        if other != own
    ]


def list_variants(config: Mapping[str, Any]) -> list[Variant]:
    """Return every change that is tried for a model with *config*, the likeliest first."""
    return [*list_activations(config), *_list_norms(config), *_list_rotations(config)]


def _list_norms(config: Mapping[str, Any]) -> Iterator[Variant]:
    if config.get("model_type") == "bitnet":
        yield Variant("leaves out the norms inside the blocks (SubLN)", left_out=INNER_NORMS)
        for name in INNER_NORMS:
            yield Variant(f"leaves out one norm inside the blocks ({name})", left_out=(name,))
    if str(config.get("model_type", "")).startswith(("qwen3", "gemma3")):
        yield Variant("leaves out the norms of queries and keys", left_out=HEAD_NORMS)
    own = float(config.get("rms_norm_eps", 1e-6))
    for other in EPSILONS:
        if other != own:
            says = f"has the epsilon {other:g} in its norms where the checkpoint has {own:g}"
            yield Variant(says, epsilon=other)


def _list_rotations(config: Mapping[str, Any]) -> Iterator[Variant]:
    yield Variant(
        "rotates neighbouring values of a head where the checkpoint rotates halves: its file lacks the permutation of "
        "q_proj and k_proj",
        order="neighbours",
    )
    yield Variant(
        "rotates halves of a head although the rows of q_proj and k_proj are permuted for neighbours", order="halves"
    )
    layout = GgufLayout("", config)
    if any(isinstance(value, Mapping) for value in layout.rope_settings.values()):
        return  # a base for each kind of layer: no single one is changed
    kind = layout.rope_type
    if kind != "default":
        says = f"leaves out the scaling of rotary positions ({kind})"
        yield Variant(says, rope_base=layout.rope_base)
    for other in ROPE_BASES:
        if other != layout.rope_base:
            says = f"rotates positions with the base {other:,.0f} where the checkpoint has {layout.rope_base:,.0f}"
            yield Variant(says, rope_base=other)


def _name(activation: str) -> str:
    return ACTIVATION_NAMES.get(activation, activation)
