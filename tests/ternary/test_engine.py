"""The lean forward pass agrees with transformers' own modules on the same codes, whatever stands beside a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.ternary.engine import Batch, Engine, Head, why_unsupported, why_unsupported_on_gpu
from bitnet_bench.backends.ternary.greedy_head import GreedyHead
from bitnet_bench.checkpoints.inspect import inspect_folder, read_as_masters
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")

COMMON = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bitnet": {"model_type": "bitnet", "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32},
    "llama-biased": {
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 4},
    "qwen3": {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"model_type": "mistral", "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None},
    # windows that are no multiple of 16, and shorter than the sequences of these tests
    "mistral-window": {
        "model_type": "mistral",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 21,
    },
    "qwen2-window": {
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "smollm3": {
        "model_type": "smollm3",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "no_rope_layers": [1, 0, 1],
        "pad_token_id": 0,
    },
    "exaone4": {
        "model_type": "exaone4",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
        "layer_types": ["full_attention"] * 3,
    },
    "exaone4-window": {
        "model_type": "exaone4",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "sliding_window": 11,
        "sliding_window_pattern": 2,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 48,
        "sliding_window": 11,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}


def random_model(architecture: dict[str, Any], seed: int = 0) -> Any:
    """Return a random transformers model; norms and biases are random too, so that none can be left out unseen."""
    torch.manual_seed(seed)
    fields = COMMON | architecture
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if "norm" in name else -0.5))
    return model


@pytest.fixture(params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A packed random checkpoint of each architecture."""
    random_model(ARCHITECTURES[request.param]).save_pretrained(tmp_path / "float")
    save_checkpoint(
        load_model(inspect_folder(tmp_path / "float"), "train", "ternary"),
        tmp_path / "ternary",
        "autobitlinear",
        "float32",
    )
    return tmp_path / "ternary"


def engine_of(folder: Path) -> Engine:
    weights = Weights(inspect_folder(folder))
    config = AutoConfig.from_pretrained(folder)
    assert why_unsupported(weights, config) is None
    return Engine(weights, config)


def sequences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in lengths]


def forward(engine: Engine, batch: list[list[int]]) -> list[Tensor]:
    cache = engine.cache(len(batch), max(map(len, batch)))
    return list(engine.logits(engine.hidden(Batch.from_sequences(batch), cache)).split([len(s) for s in batch]))


@torch.inference_mode()
def test_logits_are_those_of_transformers_modules(checkpoint: Path, width: int) -> None:
    """On sequences of 1 to 70 tokens in one batch; equal integer sums leave float32 noise and rare int8 flips."""
    engine, model = engine_of(checkpoint), load_model(inspect_folder(checkpoint), "run", "ternary")
    batch = sequences(70, 1, 17, 33)
    for ids, found in zip(batch, forward(engine, batch), strict=True):
        expected = model(torch.tensor([ids])).logits[0]
        error = (found - expected).abs()
        assert error.median() < 1e-5 * expected.std()
        assert error.max() < 0.2 * expected.std()


@torch.inference_mode()
def test_a_sequence_does_not_see_its_neighbours(checkpoint: Path, width: int) -> None:
    """Alone, in another order, or beside longer ones: the same bits."""
    engine = engine_of(checkpoint)
    batch = sequences(9, 40, 3)
    together, reversed_order = forward(engine, batch), forward(engine, batch[::-1])[::-1]
    for ids, one, other in zip(batch, together, reversed_order, strict=True):
        hidden = [engine.hidden(Batch.from_sequences(b), engine.cache(len(b), 40)) for b in ([ids], [ids, batch[1]])]
        assert torch.equal(hidden[0], hidden[1][: len(ids)])
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@torch.inference_mode()
def test_decoding_goes_on_where_reading_stopped(checkpoint: Path) -> None:
    """Rows of different lengths, decoded token by token past the first capacity of the cache, as if read at once."""
    engine = engine_of(checkpoint)
    batch, rest = sequences(30, 5), sequences(20, 20)
    cache = engine.cache(2, 30)
    engine.hidden(Batch.from_sequences(batch), cache)
    steps = [
        engine.hidden(Batch.from_sequences([[r[i]] for r in rest], [len(s) + i for s in batch]), cache)
        for i in range(20)
    ]
    for row, (start, more) in enumerate(zip(batch, rest, strict=True)):
        whole = engine.hidden(Batch.from_sequences([start + more]), engine.cache(1, 50))
        decoded = torch.stack([step[row] for step in steps])
        error = (decoded - whole[len(start) :]).abs()
        assert error.median() < 1e-5 * whole.std()
        assert error.max() < 0.2 * whole.std()


@torch.inference_mode()
def test_the_int8_head_is_near_and_counted(checkpoint: Path) -> None:
    """Quantizing the head moves logits by a few percent of their spread, and its bytes are in the footprint."""
    stored = engine_of(checkpoint)
    int8 = Engine(Weights(inspect_folder(checkpoint)), AutoConfig.from_pretrained(checkpoint), "int8")
    batch = sequences(20)
    expected, found = forward(stored, batch)[0], forward(int8, batch)[0]
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.std()
    assert int8.weight_bytes > stored.weight_bytes


@torch.inference_mode()
def test_a_copy_of_the_head_chooses_the_stored_heads_tokens_and_is_counted(checkpoint: Path) -> None:
    """Hidden states, one or many, get the token of the largest logit; the copy's bytes are a kind of weight."""
    engine = engine_of(checkpoint)
    held = engine.weight_bytes
    assert isinstance(engine.head, Head)
    engine.head.greedy = GreedyHead(engine.head.table, least_weights=0)
    assert engine.bounds_head
    assert engine.weights_by_kind["greedy head uint8"] == engine.weight_bytes - held > engine.head.table.numel()
    batch = sequences(20)
    hidden = engine.hidden(Batch.from_sequences(batch), engine.cache(len(batch), max(map(len, batch))))
    for some in (hidden[:1], hidden[:4], hidden):
        assert engine.choose(some).tolist() == engine.logits(some).argmax(-1).tolist()
    assert engine.head.greedy.share > 0


def test_what_the_lean_pass_does_not_know_is_named(checkpoint: Path) -> None:
    """An activation, positions or an architecture of another kind is a reason, never an approximation."""
    weights = Weights(inspect_folder(checkpoint))
    for change, said in [
        ({"hidden_act": "gelu"}, "activation gelu"),
        ({"model_type": "gemma"}, "model_type gemma"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "type yarn"),
        ({"final_logit_softcapping": 30.0}, "capped logits"),
        ({"use_bidirectional_attention": True}, "both directions"),
    ]:
        config = AutoConfig.from_pretrained(checkpoint)
        if hasattr(config, "hidden_activation"):
            change = {name.replace("hidden_act", "hidden_activation"): value for name, value in change.items()}
        for name, value in change.items():
            object.__setattr__(config, name, value)
        assert said in (why_unsupported(weights, config) or "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gemma3", "model_type gemma3_text"),
        ("mistral-window", "sliding-window attention"),
        ("qwen2-window", "sliding-window attention"),
        ("mistral", None),
        ("bitnet", None),
    ],
)
def test_what_a_gpu_does_not_know_is_named(name: str, said: str | None) -> None:
    """There such a model runs as modules."""
    fields = COMMON | ARCHITECTURES[name]
    assert why_unsupported_on_gpu(AutoConfig.for_model(fields.pop("model_type"), **fields)) == said


@torch.inference_mode()
def test_a_token_outside_every_window_changes_nothing(tmp_path: Path, width: int) -> None:
    """And one inside does: 21 positions in three layers reach back 60 at most."""
    random_model(ARCHITECTURES["mistral-window"]).save_pretrained(tmp_path)
    engine = Engine(Weights(read_as_masters(inspect_folder(tmp_path))), AutoConfig.from_pretrained(tmp_path))
    (ids,) = sequences(90)
    last = forward(engine, [ids])[0][-1]
    for position, equal in ((28, True), (85, False)):
        other = [*ids[:position], (ids[position] + 1) % 320, *ids[position + 1 :]]
        assert torch.equal(forward(engine, [other])[0][-1], last) == equal
