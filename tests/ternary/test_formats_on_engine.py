"""Every format of every architecture on the engine: transformers' own forward bounds it, and codes are equal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.ternary import TernaryBackend
from bitnet_bench.backends.ternary.engine import Batch, Engine, why_unsupported
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.protocols import sort_answers
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import CodesLinear
from bitnet_bench.ternary.ops import PanelsLinear
from bitnet_bench.ternary.panels import from_panels

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")

Stored = Callable[[str, Any], Path]
ARCHITECTURES = ["bitnet", "llama", "mistral", "qwen2", "qwen3"]
LEAN = ["bitnet", "llama", "qwen2", "qwen3"]
"""What the engine's own forward pass knows; others run on modules with the same kernel."""
FORMATS = ["masters", "bitlinear", "autobitlinear", "packed", "baked"]
OPENED_BY_TRANSFORMERS = {"masters", "bitlinear", "autobitlinear"}


@pytest.mark.parametrize(("architecture", "form"), itertools.product(LEAN, FORMATS))
@torch.inference_mode()
def test_the_engine_computes_what_the_format_says(architecture: str, form: str, stored_as: Stored) -> None:
    """Logits agree with our modules to float32 noise and rare int8 flips, with transformers' within int8 steps."""
    folder = stored_as(architecture, form)
    found, weights, config = inspect_folder(folder), Weights(inspect_folder(folder)), AutoConfig.from_pretrained(folder)
    assert why_unsupported(weights, config) is None
    ids = torch.randint(3, 300, (3, 17), generator=torch.Generator().manual_seed(3))
    ours = logits_of(Engine(weights, config), ids)
    modules = load_model(found, "run", "ternary")(ids).logits
    assert float((ours - modules).abs().median()) < 1e-5 * float(modules.std())
    assert float((ours - modules).abs().max()) < 0.2 * float(modules.std())
    if form in OPENED_BY_TRANSFORMERS:
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        assert float((ours - theirs).abs().max()) < 0.1
        assert float((ours - theirs).abs().mean()) < 5e-3
        assert float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()) >= 0.95


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.inference_mode()
def test_integer_sums_are_equal_in_every_format(architecture: str, stored_as: Stored) -> None:
    """The same int8 activations give the same int32 sums in every layer, whatever the weights are stored as."""
    models = [load_model(inspect_folder(stored_as(architecture, form)), "run", "ternary") for form in FORMATS]
    layers = [codes(model) for model in models]
    assert layers[0]
    for name in layers[0]:
        wanted, *others = [found[name] for found in layers]
        q = torch.randint(-128, 128, (5, wanted.shape[1]), generator=torch.Generator().manual_seed(0)).int()
        for other in others:
            assert torch.equal(q @ other.int().T, q @ wanted.int().T), name


@pytest.mark.parametrize(("architecture", "form"), itertools.product(["llama", "mistral"], FORMATS))
def test_the_backend_opens_every_format(architecture: str, form: str, stored_as: Stored) -> None:
    """`--backend ternary` generates from each what it generates from panels, on its own forward pass and on modules."""
    texts = []
    for stored in (form, "packed"):
        with TernaryBackend().open(inspect_folder(stored_as(architecture, stored)), "ternary") as session:
            texts.append(sort_answers(session.generate([[5, 6, 7], [9]], 8, [])))
    assert texts[0] == texts[1]


def logits_of(engine: Engine, ids: Tensor) -> Tensor:
    """Return logits [B, T, V]."""
    cache = engine.cache(len(ids), ids.shape[1])
    return engine.logits(engine.hidden(Batch.from_sequences(ids.tolist()), cache)).view(*ids.shape, -1)


def codes(model: Any) -> dict[str, Tensor]:
    """Return the int8 codes of every ternary layer."""
    found = {name: m.codes for name, m in model.named_modules() if isinstance(m, CodesLinear)}
    panels = {name: m for name, m in model.named_modules() if isinstance(m, PanelsLinear)}
    return found | {name: from_panels(m.panels, m.out_features, m.in_features) for name, m in panels.items()}
