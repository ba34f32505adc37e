"""The `ternary` backend scores and writes what the `hf` backend does on the same codes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bitnet_bench.backends.hf import HFBackend
from bitnet_bench.backends.ternary import Int8HeadBackend, TernaryBackend
from bitnet_bench.backends.ternary.inference import TernarySession
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import sort_answers
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary import kernel

pytestmark = [
    pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here"),
    pytest.mark.usefixtures("on_the_cpu"),
]


def requests(count: int) -> list[tuple[list[int], list[int]]]:
    rng = random.Random(0)
    return [
        (
            [rng.randrange(6144) for _ in range(rng.randint(1, 60))],
            [rng.randrange(6144) for _ in range(rng.randint(1, 5))],
        )
        for _ in range(count)
    ]


def test_log_probabilities_are_those_of_hf() -> None:
    """60 random requests on the embedded checkpoint: to 1e-4 of a nat where no activation was rounded otherwise."""
    asked, checkpoint = requests(60), open_checkpoint("demo")
    with HFBackend().open(checkpoint, "ternary") as session:
        expected = sort_answers(session.loglikelihood(asked))
    with TernaryBackend().open(checkpoint, "ternary") as session:
        found = sort_answers(session.loglikelihood(asked))
    errors = sorted(abs(a - b) for (a, _), (b, _) in zip(expected, found, strict=True))
    assert errors[len(errors) // 2] < 1e-4
    assert errors[-1] < 0.2
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_prompts_of_any_length_are_written_on_in_one_batch() -> None:
    """Greedy texts of a ragged batch are those of hf, and of each prompt alone."""
    prompts = [context for context, _ in requests(6)]
    checkpoint = open_checkpoint("demo")
    with HFBackend().open(checkpoint, "ternary") as session:
        expected = sort_answers(session.generate(prompts, 12, []))
    with TernaryBackend().open(checkpoint, "ternary") as session:
        assert sort_answers(session.generate(prompts, 12, [])) == expected
        assert [sort_answers(session.generate([prompt], 12, []))[0] for prompt in prompts] == expected


def test_the_footprint_is_two_bits_a_weight() -> None:
    """Ternary layers take a quarter of what int8 codes take in hf."""
    checkpoint = open_checkpoint("demo")
    with TernaryBackend().open(checkpoint, "ternary") as session:
        weights, kv = session.footprint()
    stored = checkpoint.weight_bytes
    assert stored["ternary"] + stored["embedding"] <= weights <= 1.05 * sum(stored.values())
    assert kv == 2 * 4 * 4 * 2 * 64


def test_another_architecture_runs_as_modules_on_the_kernel(tmp_path: Path) -> None:
    """OLMo 2 is not of the lean family: transformers' modules with our layers give hf's own scores."""
    config = AutoConfig.for_model(
        "olmo2", vocab_size=6144, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, quantization_config={
            "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
        },
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(open_checkpoint("demo").path).save_pretrained(tmp_path)
    asked, checkpoint = requests(5), open_checkpoint(str(tmp_path))
    with HFBackend().open(checkpoint, "ternary") as session:
        expected = sort_answers(session.loglikelihood(asked))
    with TernaryBackend().open(checkpoint, "ternary") as session:
        assert not isinstance(session, TernarySession)
        found = sort_answers(session.loglikelihood(asked))
    assert [ll for ll, _ in found] == pytest.approx([ll for ll, _ in expected], abs=1e-4)
    with pytest.raises(BenchError, match="model_type olmo2"), Int8HeadBackend().open(checkpoint, "ternary"):
        pass


@pytest.fixture
def gemma(tmp_path: Path) -> Checkpoint:
    """Give random masters of a small Gemma 3, whose window is shorter than most requests."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=6144, hidden_size=64, intermediate_size=96, num_hidden_layers=3, head_dim=32,
        num_attention_heads=4, num_key_value_heads=1, sliding_window=13, initializer_range=0.2, layer_types=[
            "sliding_attention", "sliding_attention", "full_attention",
        ],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(open_checkpoint("demo").path).save_pretrained(tmp_path)
    return open_checkpoint(str(tmp_path), read_as="masters")


def test_gemma_scores_as_in_hf(gemma: Checkpoint) -> None:
    """Requests alone, and with contexts and beginnings that several share."""
    asked = requests(30)
    beginning, contexts = asked[0][0] * 2, [context for context, _ in asked[:6]]
    asked += [(beginning + context, choice) for context in contexts for _, choice in asked[:4]]
    with HFBackend().open(gemma, "ternary") as session:
        expected = sort_answers(session.loglikelihood(asked))
    with TernaryBackend().open(gemma, "ternary") as session:
        assert isinstance(session, TernarySession)
        found = sort_answers(session.loglikelihood(asked))
    errors = sorted(abs(a - b) for (a, _), (b, _) in zip(expected, found, strict=True))
    assert errors[len(errors) // 2] < 1e-3
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_gemma_writes_as_in_hf(gemma: Checkpoint) -> None:
    """Token by token past its window, in a ragged batch."""
    prompts = [context for context, _ in requests(5)]
    with HFBackend().open(gemma, "ternary") as session:
        expected = sort_answers(session.generate(prompts, 24, []))
    with TernaryBackend().open(gemma, "ternary") as session:
        assert sort_answers(session.generate(prompts, 24, [])) == expected


@pytest.mark.parametrize(("model", "precision"), [("demo-fp16", "ternary"), ("demo", "bf16"), ("demo-fp16", "fp32")])
def test_what_is_not_ternary_is_refused(model: str, precision: str) -> None:
    """A float checkpoint, or a float precision, is for another backend."""
    with (
        pytest.raises(BenchError, match="runs ternary weights only"),
        TernaryBackend().open(open_checkpoint(model), precision),  # type: ignore[arg-type]
    ):
        pass
