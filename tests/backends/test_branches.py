"""A context that is read once for all its choices gives what it gives when each choice reads it again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.hf import inference as hf
from bitnet_bench.backends.session import BatchedSession
from bitnet_bench.backends.ternary import inference as ternary
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.checkpoint import inspect
from bitnet_bench.ternary.engine import Engine
from bitnet_bench.ternary.loading import load_model
from bitnet_bench.ternary.reading import Weights
from bitnet_bench.ternary.saving import save

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def random_model(model_type: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SHAPE)).eval()


@pytest.fixture(params=["llama", "qwen2", "qwen3", "mistral"])
def float_session(request: pytest.FixtureRequest) -> Iterator[BatchedSession]:
    with torch.inference_mode():
        yield hf.HFSession(random_model(request.param), None, "fp32")


@pytest.fixture(params=["llama", "bitnet", "qwen3"])
def ternary_session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BatchedSession]:
    if kernel.library() is None:
        pytest.skip("the CPU kernel is not built here")
    random_model(request.param).save_pretrained(tmp_path / "float")
    save(load_model(inspect(tmp_path / "float"), "train", "ternary"), tmp_path / "codes", "autobitlinear", "float32")
    config = AutoConfig.from_pretrained(tmp_path / "codes")
    with torch.inference_mode():
        # an int8 head sums integers, where a stored one sums floats in an order that depends on the number of rows
        yield ternary.TernarySession(Engine(Weights(inspect(tmp_path / "codes")), config, "int8"), None)


def requests(shared: int = 0) -> list[tuple[list[int], list[int]]]:
    """Documents of 1 to 60 tokens, after *shared* common ones, with choices of 1 to 9, some equal, in no order."""
    rng = random.Random(0)
    made = []
    prefix = [rng.randrange(3, 300) for _ in range(shared)]
    for _ in range(25):
        context = prefix + [rng.randrange(3, 300) for _ in range(rng.choice([1, 7, 16, 17, 33, 60]))]
        choices = [[rng.randrange(3, 300) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 5))]
        choices += [choices[0][:1]]
        made += [(context, choice) for choice in choices]
    rng.shuffle(made)
    return made


def quiet(done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def alone(session: BatchedSession, asked: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Return the results with every choice after a context of its own, one request at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "shares_contexts", False)
        return [session.loglikelihood([request], quiet)[0] for request in asked]


@pytest.mark.parametrize("shared", [0, 5, 70])
def test_a_float_model_gives_the_same_with_branches(
    float_session: BatchedSession, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities to 1e-4, greedy equal; an architecture that is not known to branch does not."""
    asked = requests(shared)
    assert float_session.shares_contexts == (float_session._model.config.model_type != "mistral")  # type: ignore[attr-defined]
    together = float_session.loglikelihood(asked, quiet)
    for (ours, greedy), (theirs, wanted) in zip(together, alone(float_session, asked, monkeypatch), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert greedy == wanted


@pytest.mark.parametrize("shared", [0, 5, 70])
def test_the_engine_gives_the_same_bits_with_branches(
    ternary_session: BatchedSession, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a context is shared, how large batches are, and in which order requests come: the same bits."""
    asked = requests(shared)
    wanted = alone(ternary_session, asked, monkeypatch)
    assert ternary_session.loglikelihood(asked, quiet) == wanted
    monkeypatch.setattr(ternary, "TOKENS_PER_BATCH", 40)
    monkeypatch.setattr(ternary, "COPIED_POSITIONS", 50)
    assert ternary_session.loglikelihood(asked[::-1], quiet)[::-1] == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(ternary_session: BatchedSession, threads: int) -> None:
    """Scores on one thread and on two are the same bits."""
    before = torch.get_num_threads()
    reference = ternary_session.loglikelihood(requests(), quiet)
    try:
        torch.set_num_threads(threads)
        assert ternary_session.loglikelihood(requests(), quiet) == reference
    finally:
        torch.set_num_threads(before)


def test_progress_ends_at_all_requests(float_session: BatchedSession) -> None:
    """The last report is of all requests."""
    said: list[tuple[int, int]] = []
    float_session.loglikelihood(requests(), lambda done, total, note="": said.append((done, total)))
    assert said[-1] == (len(requests()), len(requests()))
    assert said == sorted(said)
