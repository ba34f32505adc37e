"""DPO against its equation on full logits, and through the `hf` backend from pairs to a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.data.rows import Row, Turn, parse_row
from bitnet_bench.data.tokenizing import IGNORED_LABEL, tokenize_pairs
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training import encoding
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.loss import response_logprobs
from bitnet_bench.training.preference import check_same_reference, dpo_loss

PAIRS = [
    {"prompt": f"{i}번 손님은 오셨나요?", "chosen": f"네, {i}번 손님은 오셨습니다.", "rejected": f"응, {i}번은 왔어."}
    for i in range(24)
]


@pytest.mark.parametrize("family", ["bitnet", "gpt2"])
def test_log_probabilities_are_those_of_full_logits(family: str, tiny_model: Callable[[str], Path]) -> None:
    """Summed over each row's labelled tokens, for a plain head and for a model with its own forward."""
    precision: Any = "ternary" if family == "bitnet" else "fp16"
    model = load_model(inspect_folder(tiny_model(family)), "train", precision).eval()
    ids = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :5], labels[1, :9], labels[2, :] = IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL  # the last row has none
    found = response_logprobs(model, {"input_ids": ids, "labels": labels})
    logprobs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1).detach()
    for row in range(3):
        wanted = [float(logprobs[row, t - 1, ids[row, t]]) for t in range(1, 12) if labels[row, t] != IGNORED_LABEL]
        assert found[row].item() == pytest.approx(sum(wanted), abs=1e-4)


def test_the_loss_is_equation_seven() -> None:
    """-log sigmoid(beta (log ratio of the chosen - log ratio of the rejected)), with its gradient, summed."""
    policy = torch.tensor([-3.0, -5.0, -2.0, -1.0], requires_grad=True)
    reference = torch.tensor([-4.0, -4.5, -2.0, -3.0])
    loss, said = dpo_loss(policy, reference, beta=0.5)
    margins = [0.5 * ((-3 + 4) - (-5 + 4.5)), 0.5 * ((-2 + 2) - (-1 + 3))]
    assert loss.item() == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins))
    assert (said.pairs, float(said.accuracy)) == (2, 0.5)
    assert float(said.margin) == pytest.approx(sum(margins) / 2)
    (gradient,) = torch.autograd.grad(loss, policy)
    pushes = [0.5 / (1 + math.exp(m)) for m in margins]
    assert gradient.tolist() == pytest.approx([-pushes[0], pushes[0], -pushes[1], pushes[1]])


def test_ln_2_tells_a_reference_that_is_the_policy() -> None:
    """A reference without its quantizer gave 0.638 in another library."""
    check_same_reference(math.log(2))
    with pytest.raises(BenchError, match=r"first loss is 0\.6380, not ln 2"):
        check_same_reference(0.638)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "질문", "chosen": "답"}, 'has no "rejected"'),
        ({"prompt": "질문", "rejected": "답"}, 'has no "chosen"'),
        ({"chosen": "답", "rejected": "말"}, 'has no "prompt"'),
        ({"prompt": "질문", "chosen": " ", "rejected": "말"}, 'has an empty "chosen"'),
        ({"prompt": "질문", "chosen": "답", "rejected": "답"}, "prefers an answer to itself"),
        ({"prompt": "질문", "chosen": ["답"], "rejected": "말"}, "no string"),
    ],
)
def test_a_bad_pair_says_what_is_wrong(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_row(json.dumps(fields))


@pytest.mark.parametrize("names", [("chosen", "rejected"), ("chosen_response", "rejected_response")])
def test_pairs_of_both_namings_are_read(names: tuple[str, str]) -> None:
    """And SFT learns from the chosen answer alone."""
    row = parse_row(json.dumps({"prompt": "질문", names[0]: "네", names[1]: "응"}))
    assert row == Row((Turn("user", "질문"), Turn("model", "네")), rejected="응")
    assert row.with_rejected() == Row((Turn("user", "질문"), Turn("model", "응")))


def test_both_answers_of_a_pair_carry_the_loss_after_one_prompt(tokenizer: Any) -> None:
    """Labels are the answer with its EOS; a pair that max_length leaves no answer or no difference is dropped."""
    rows = [parse_row(json.dumps(pair)) for pair in PAIRS[:2]]
    encoded = tokenize_pairs(rows, tokenizer, "dialogue", 512)
    assert (len(encoded.examples), encoded.rows, encoded.dropped, encoded.truncated) == (4, 2, 0, 0)
    texts = [
        tokenizer.decode([i for i, label in zip(e.input_ids, e.labels, strict=True) if label != IGNORED_LABEL])
        for e in encoded.examples
    ]
    assert [text.strip() for text in texts] == [f"{pair[k]}</s>" for pair in PAIRS[:2] for k in ("chosen", "rejected")]
    prompts = [
        [i for i, label in zip(e.input_ids, e.labels, strict=True) if label == IGNORED_LABEL] for e in encoded.examples
    ]
    assert prompts[0] == prompts[1]
    assert prompts[2] == prompts[3]
    late = Row((Turn("user", "질문"), Turn("model", "네 네 네 네 그렇습니다")), rejected="네 네 네 네 아닙니다")
    chosen, rejected = (e.input_ids for e in tokenize_pairs([late], tokenizer, "plain", 512).examples)
    common = next(i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    early = Row((Turn("user", "질문"), Turn("model", "네")), rejected="오늘")
    with_late = tokenize_pairs([early, late], tokenizer, "plain", common)
    assert (len(with_late.examples), with_late.dropped) == (2, 1)
    assert tokenize_pairs([early, late], tokenizer, "plain", common + 1).truncated == 1
    with pytest.raises(BenchError, match="None of the 1 pairs differs"):
        tokenize_pairs([late], tokenizer, "plain", common)
    with pytest.raises(BenchError, match="Row 3 has no rejected answer"):
        tokenize_pairs([*rows, Row(late.turns)], tokenizer, "plain", 512)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Give a JSONL file of 24 pairs."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in PAIRS), encoding="utf-8")
    return file


def dpo(pairs: Path, out: Path, **settings: Any) -> FinetuneJob:
    defaults = {"model": "demo", "data": (str(pairs),), "out": str(out), "method": "dpo", "learning_rate": 3e-4}
    return FinetuneJob.model_validate({**defaults, "max_steps": 12, "batch_size": 4, "epochs": 9, **settings})


@pytest.mark.parametrize(
    ("model", "precision", "compute"),
    [("demo", "ternary", "bf16"), ("demo", "ternary", "fp32"), ("demo-fp16", "fp16", "bf16")],
)
def test_dpo_learns_the_preference(pairs: Path, tmp_path: Path, model: str, precision: str, compute: str) -> None:
    """The first loss is ln 2, the chosen answers gain on the rejected ones, and the result is a whole checkpoint."""
    record = finetune(dpo(pairs, tmp_path / "out", model=model, precision=precision, compute=compute))
    first, last = record.history[0], record.history[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert last["loss"] < 0.5
    assert last["margin"] > 0.3
    assert last["accuracy"] == 1.0
    assert record.result.format == ("autobitlinear" if precision == "ternary" else "float")
    assert ("flips" in last) == (precision == "ternary")


def test_accumulated_pairs_give_the_step_of_one_large_batch(pairs: Path, tmp_path: Path) -> None:
    """A pair counts as one however many tokens it has."""
    options = {
        "max_steps": 1,
        "compute": "fp32",
        "schedule": "constant",
        "warmup_ratio": 0,
        "precision": "fp16",
        "limit": 8,
    }
    large = finetune(dpo(pairs, tmp_path / "large", model="demo-fp16", batch_size=8, **options))
    small = finetune(
        dpo(pairs, tmp_path / "small", model="demo-fp16", batch_size=4, gradient_accumulation=2, **options)
    )
    assert small.history[0]["grad_norm"] == pytest.approx(large.history[0]["grad_norm"], rel=1e-3)
    assert small.history[0]["loss"] == pytest.approx(large.history[0]["loss"], rel=1e-4)


def test_a_reference_without_its_quantizer_is_found(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference of plain linear layers, as after a reload without the swap, stops the run at its first step."""
    real = encoding._make_preference_pairs

    def plain(job: Any, model: Any, *rest: Any) -> Any:
        from bitnet_bench.ternary.linear import BitLinear

        layers = [m for m in model.modules() if isinstance(m, BitLinear)]
        for layer in layers:
            layer.__class__ = nn.Linear  # type: ignore[assignment]
        items = real(job, model, *rest)
        for layer in layers:
            layer.__class__ = BitLinear
        return items

    monkeypatch.setattr(encoding, "_make_preference_pairs", plain)
    with pytest.raises(BenchError, match=r"first loss is .*, not ln 2"):
        finetune(dpo(pairs, tmp_path / "out", beta=1.0))
