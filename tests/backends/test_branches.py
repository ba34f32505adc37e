"""A context that is read once for all its choices gives what it gives when each choice reads it again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.batched_session import BatchedSession
from bitnet_bench.backends.hf import inference as hf
from bitnet_bench.backends.ternary import inference as ternary
from bitnet_bench.backends.ternary.engine import Engine
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import Share, sort_answers
from bitnet_bench.ternary import kernel

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


WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 21},
    "gemma3_text": {
        "head_dim": 32,
        "sliding_window": 19,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
"""Settings of families that have a window, which is shorter than most contexts here."""


def random_model(model_type: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SHAPE, **settings)).eval()


@pytest.fixture(params=["llama", "qwen2", "qwen3", "mistral"])
def float_session(request: pytest.FixtureRequest) -> Iterator[BatchedSession]:
    with torch.inference_mode():
        yield hf.HFSession(random_model(request.param), None, "fp32")


@pytest.fixture(params=["llama", "bitnet", "qwen3", "mistral", "gemma3_text"])
def ternary_session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BatchedSession]:
    if kernel.load_library() is None:
        pytest.skip("the CPU kernel is not built here")
    random_model(request.param, **WINDOWS.get(request.param, {})).save_pretrained(tmp_path / "float")
    save_checkpoint(
        load_model(inspect_folder(tmp_path / "float"), "train", "ternary"),
        tmp_path / "codes",
        "autobitlinear",
        "float32",
    )
    config = AutoConfig.from_pretrained(tmp_path / "codes")
    with torch.inference_mode():
        # an int8 head sums integers, where a stored one sums floats in an order that depends on the number of rows
        yield ternary.TernarySession(Engine(Weights(inspect_folder(tmp_path / "codes")), config, "int8"), None)


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


def alone(session: BatchedSession, asked: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Return the results with every choice after a context of its own, one request at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "shares_contexts", False)
        return [sort_answers(session.loglikelihood([request]))[0] for request in asked]


@pytest.mark.parametrize("shared", [0, 5, 70])
def test_a_float_model_gives_the_same_with_branches(
    float_session: BatchedSession, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities to 1e-4, greedy equal."""
    asked = requests(shared)
    together = sort_answers(float_session.loglikelihood(asked))
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
    assert sort_answers(ternary_session.loglikelihood(asked)) == wanted
    ternary_session.budget = 40
    monkeypatch.setattr(ternary, "COPIED_POSITIONS", 50)
    assert sort_answers(ternary_session.loglikelihood(asked[::-1]))[::-1] == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(ternary_session: BatchedSession, threads: int) -> None:
    """Scores on one thread and on two are the same bits."""
    before = torch.get_num_threads()
    reference = sort_answers(ternary_session.loglikelihood(requests()))
    try:
        torch.set_num_threads(threads)
        assert sort_answers(ternary_session.loglikelihood(requests())) == reference
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shared", [0, 70])
def test_workers_together_answer_what_one_answers(float_session: BatchedSession, shared: int) -> None:
    """Each request is answered by one worker of three, and with the bits that it has when there is one worker."""
    float_session.budget = 40
    asked = requests(shared)
    wanted = sort_answers(float_session.loglikelihood(asked))
    parts = [list(float_session.loglikelihood(asked, Share(worker=worker, workers=3))) for worker in range(3)]
    assert all(parts)
    answered = [i for part in parts for some in part for i, _ in some]
    assert sorted(answered) == list(range(len(asked)))
    assert sort_answers(some for part in parts for some in part) == wanted


def test_batches_that_are_known_are_not_computed_and_change_no_other(float_session: BatchedSession) -> None:
    """After a stop the batches that are left have the bits that they would have had; all known, nothing is read."""
    float_session.budget = 40
    asked = requests(70)
    batches = list(float_session.loglikelihood(asked))
    wanted = sort_answers(batches)
    for cut in (1, len(batches) // 2, len(batches)):
        known = [pair for some in batches[:cut] for pair in some]
        rest = list(float_session.loglikelihood(asked, Share(known=frozenset(i for i, _ in known))))
        assert len(rest) == len(batches) - cut
        assert sort_answers([known, *rest]) == wanted


class Scarce:
    """Lets passes of more than *room* tokens fail as a full memory does, half-way through."""

    def __init__(self, session: BatchedSession, room: int, error: Exception) -> None:
        self.hidden, self.room, self.error, self.failures = session.hidden, room, error, 0

    def __call__(self, batch: Any, places: Any) -> Any:
        """Return the hidden states of a batch that fits."""
        found = self.hidden(batch, places)
        if sum(map(len, batch)) > self.room:
            self.failures += 1
            raise self.error
        return found


FULL = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=["cuda", "cpu", "python"])
def test_a_full_memory_halves_the_batches(
    float_session: BatchedSession, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are those of smaller batches, and the batches after it are small from the start."""
    asked = requests(70)
    float_session.budget = 160
    wanted = sort_answers(float_session.loglikelihood(asked))
    float_session.budget = 600
    scarce = Scarce(float_session, 160, error)
    monkeypatch.setattr(float_session, "hidden", scarce)
    for (ours, _), (theirs, _) in zip(sort_answers(float_session.loglikelihood(asked)), wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert float_session.budget <= 160
    assert 1 <= scarce.failures <= 3


def test_a_prompt_that_fits_into_no_memory_is_an_error(
    float_session: BatchedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to halve: the error says how long the prompt is. Another error stays what it is."""
    with monkeypatch.context() as patch:
        patch.setattr(float_session, "hidden", Scarce(float_session, 0, MemoryError()))
        with pytest.raises(BenchError, match="does not fit into memory"):
            sort_answers(float_session.loglikelihood(requests()))
    monkeypatch.setattr(float_session, "hidden", Scarce(float_session, 0, RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        sort_answers(float_session.loglikelihood(requests()))


def test_logits_are_held_for_few_rows_at_a_time(float_session: BatchedSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head takes a bounded number of rows, and log-probabilities stay."""
    asked = requests()
    wanted = sort_answers(float_session.loglikelihood(asked))
    head, rows = float_session.head, []

    def seen(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return head(hidden)

    monkeypatch.setattr(float_session, "head", seen)
    monkeypatch.setattr(float_session, "_head_rows", 7)
    for (ours, greedy), (theirs, same) in zip(sort_answers(float_session.loglikelihood(asked)), wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert greedy == same
    assert max(rows) == 7
