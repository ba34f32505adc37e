"""Contexts are shared by every family of causal models, and the answers are those of plain transformers."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.hf.reading import TreeReader, Way
from bitnet_bench.protocols import Share, sort_answers

WINDOW = 19
"""Tokens that a windowed layer sees, which is less than most contexts here."""
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
STATES = {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 8}
FAMILIES: dict[str, tuple[Way, dict[str, Any]]] = {
    "gpt2": ("forest", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gpt_neox": ("forest", {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}),
    "llama": ("forest", LLAMA),
    "mistral": ("forest", {**LLAMA, "sliding_window": WINDOW}),
    "qwen2": ("forest", {**LLAMA, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW}),
    "qwen3": ("forest", LLAMA),
    "gemma2": ("forest", {**LLAMA, "head_dim": 16, **ALTERNATING, "final_logit_softcapping": 5.0}),
    "gemma3_text": ("forest", {**LLAMA, "head_dim": 16, **ALTERNATING}),
    "gpt_oss": ("forest", {**LLAMA, "head_dim": 16, **ALTERNATING, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("forest", LLAMA),
    "granite": ("forest", {**LLAMA, "logits_scaling": 2.0}),
    "olmo2": ("forest", LLAMA),
    "bloom": ("branches", {"hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "mamba": ("whole", STATES),
    "mamba2": ("whole", {**STATES, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 16}),
}
"""The way in which contexts of each family are read, and the settings of a small model."""
IMPLEMENTATIONS = {"gemma2": "eager", "gpt_oss": "eager"}
"""Attention of families whose soft caps or sinks sdpa leaves out."""
TOLERANCE = 2e-4
"""Nats that a sum of up to nine log-probabilities in float32 may be away."""


def make_model(family: str) -> Any:
    """Return a random model whose weights are large enough for every token to matter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=320, **FAMILIES[family][1], pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    implementation = IMPLEMENTATIONS.get(family)
    options = {"attn_implementation": implementation} if implementation else {}
    model = AutoModelForCausalLM.from_config(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model


def make_requests(shared: int) -> list[tuple[list[int], list[int]]]:
    """Contexts of 1 to 60 tokens after *shared* common ones, with 1 to 6 choices of 1 to 9, in no order."""
    rng = random.Random(shared)

    def draw(length: int) -> list[int]:
        return [rng.randrange(3, 300) for _ in range(length)]

    prefix = draw(shared)
    made = []
    for _ in range(14):
        context = prefix + draw(rng.choice([1, 7, 16, 17, 33, 60]))
        choices = [draw(rng.randint(1, 9)) for _ in range(rng.randint(1, 5))]
        made += [(context, choice) for choice in [*choices, choices[0][:1]]]
    rng.shuffle(made)
    return made


def read_plainly(model: Any, asked: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """Return what transformers says, one request at a time."""
    found = []
    for context, choice in asked:
        logits = model(torch.tensor([[*context, *choice[:-1]]]), use_cache=False).logits[0, -len(choice) :]
        picked = logits.log_softmax(-1)[torch.arange(len(choice)), torch.tensor(choice)]
        found.append((float(picked.sum()), logits.argmax(-1).tolist() == choice))
    return found


def check(found: list[tuple[float, bool]], wanted: list[tuple[float, bool]]) -> None:
    for (ours, greedy), (theirs, same) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=TOLERANCE)
        assert greedy == same


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [0, 70])
def test_answers_are_those_of_plain_transformers(family: str, shared: int) -> None:
    """With documents side by side, contexts longer than a window, and few-shot prefixes; and in the expected way."""
    model, asked = make_model(family), make_requests(shared)
    with torch.inference_mode():
        wanted = read_plainly(model, asked)
        session = HFSession(model, None, "fp32")
        check(sort_answers(session.loglikelihood(asked)), wanted)
    assert session.reader.way == FAMILIES[family][0]
    assert min(p for p, _ in wanted) < -12, "the model tells tokens apart"


@pytest.mark.parametrize("family", [family for family, (way, _) in FAMILIES.items() if way == "forest"])
def test_every_way_gives_the_same(family: str) -> None:
    """Copied caches and whole reads, too, and rows as on a GPU."""
    model, asked = make_model(family), make_requests(40)
    with torch.inference_mode():
        wanted = read_plainly(model, asked)
        for ways in (["branches"], ["whole"], ["forest", "whole"]):
            session = HFSession(model, None, "fp32")
            session.reader._ways = [*ways]
            session.reader.in_rows = ways[0] == "forest"
            check(sort_answers(session.loglikelihood(asked)), wanted)
            assert session.reader.way == ways[0]


@pytest.mark.parametrize("family", ["gemma3_text", "bloom", "mamba"])
def test_workers_together_answer_what_one_answers(family: str) -> None:
    """Batches are cut alike whatever a worker knows of the model."""
    model, asked = make_model(family), make_requests(70)
    with torch.inference_mode():
        sessions = [HFSession(model, None, "fp32") for _ in range(3)]
        for session in sessions:
            session.budget = 60
        sessions[0].reader._ways = ["whole"]
        parts = [
            list(session.loglikelihood(asked, Share(worker=worker, workers=3)))
            for worker, session in enumerate(sessions)
        ]
        assert all(parts)
        check(sort_answers(some for part in parts for some in part), read_plainly(model, asked))


@pytest.mark.parametrize("shared", [0, 70])
def test_a_model_that_disagrees_with_itself_is_read_another_way_and_says_so(
    shared: int, caplog: pytest.LogCaptureFixture
) -> None:
    model, asked = make_model("llama"), make_requests(shared)
    with torch.inference_mode():
        wanted = read_plainly(model, asked)
        real = model.model.forward

        def ignore_positions(ids: Any, position_ids: Any = None, past_key_values: Any = None, **options: Any) -> Any:
            return real(ids, past_key_values=past_key_values, **options)

        model.model.forward = ignore_positions
        session = HFSession(model, None, "fp32")
        assert session.reader.way == "forest"
        with caplog.at_level(logging.WARNING):
            check(sort_answers(session.loglikelihood(asked)), wanted)
    assert session.reader.way == "branches"
    (record,) = caplog.records
    assert "llama reads each choice from a copied cache instead of under a mask" in record.getMessage()


def test_a_way_is_compared_again_with_longer_sequences_and_with_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each batch: the comparison is one whole read."""
    session = HFSession(make_model("gemma3_text"), None, "fp32")
    read, lengths = TreeReader._read_whole, []

    def seen(reader: TreeReader, batch: Any, *arguments: Any) -> Any:
        lengths.append(len(reader._prefix) + len(batch[0]))
        return read(reader, batch, *arguments)

    monkeypatch.setattr(TreeReader, "_read_whole", seen)
    session.budget = 60
    with torch.inference_mode():
        for shared, compared in ((0, 1), (0, 1), (70, 2), (70, 2), (300, 3)):
            list(session.loglikelihood(make_requests(shared)))
            assert len(lengths) == compared
    assert lengths[-1] > 300


def test_the_head_runs_only_where_a_choice_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where logits are capped or scaled by the family's own code, which runs for the rows that are kept."""
    for family in ("gemma2", "granite", "gpt2", "phi"):
        model, rows = make_model(family), []
        head = model.get_output_embeddings()
        with torch.inference_mode():
            session = HFSession(model, None, "fp32")
            head.register_forward_hook(lambda _, __, out, rows=rows: rows.append(out.numel() // out.shape[-1]))
            list(session.loglikelihood([([5] * 60, [7, 8]), ([5] * 60, [9])]))
        assert sum(rows) <= 2 + 2 + 2, family
