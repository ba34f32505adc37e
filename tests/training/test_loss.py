"""The response loss against torch's cross-entropy over full logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.shape import PLAIN_HEADS
from bitnet_bench.data.tokenizing import IGNORED_LABEL
from bitnet_bench.training import head_loss
from bitnet_bench.training.loss import response_loss

FAMILIES = ["bitnet", "llama", "qwen2", "gemma3_text", "gpt2"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Any:
    """Give a training model of a family with a plain head, or of one that is scored by its own forward."""
    precision = "ternary" if request.param == "bitnet" else "fp16"
    return load_model(inspect_folder(tiny_model(request.param)), "train", precision).eval()


def batch(rows: int = 3, length: int = 11, seed: int = 0) -> dict[str, Tensor]:
    """Return a padded batch: each row has another length and labels on its second half."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 300, (rows, length), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row in range(rows):
        end = length - row
        labels[row, : end // 2] = IGNORED_LABEL
        labels[row, end:], ids[row, end:], mask[row, end:] = IGNORED_LABEL, 2, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def oracle(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the summed cross-entropy of shifted full logits, in float32."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float()
    return nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), inputs["labels"][:, 1:].reshape(-1), reduction="sum"
    )


def test_the_families_tested_are_of_both_kinds() -> None:
    """GPT-2 is scored by its own forward, the others through their head."""
    assert [family in PLAIN_HEADS for family in FAMILIES] == [True, True, True, True, False]


def test_the_loss_is_the_cross_entropy_of_labelled_tokens(model: Any) -> None:
    """Sum and count equal torch's cross-entropy on full float32 logits."""
    inputs = batch()
    total, count = response_loss(model, inputs)
    assert total.dtype == torch.float32
    assert count == int((inputs["labels"][:, 1:] != IGNORED_LABEL).sum())
    torch.testing.assert_close(total, oracle(model, inputs), rtol=1e-5, atol=0)


def test_the_gradients_are_those_of_the_cross_entropy(model: Any) -> None:
    """Every parameter gets the gradient that torch's cross-entropy on full logits gives it."""
    inputs = batch()
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad(response_loss(model, inputs)[0], list(parameters.values()), materialize_grads=True)
    expected = torch.autograd.grad(oracle(model, inputs), list(parameters.values()), materialize_grads=True)
    for name, ours, theirs in zip(parameters, got, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max()) + 1e-6, name


def test_the_first_label_is_never_predicted(model: Any) -> None:
    """A label at position 0 has nothing before it and does not count."""
    inputs = batch()
    before = response_loss(model, inputs)
    inputs["labels"][:, 0] = 5
    after = response_loss(model, inputs)
    assert before[1] == after[1]
    assert torch.equal(before[0], after[0])


def test_padding_changes_nothing(model: Any) -> None:
    """More padding on the right leaves the loss as it is, within float rounding."""
    inputs = batch()
    widened = {
        "input_ids": nn.functional.pad(inputs["input_ids"], (0, 5), value=2),
        "attention_mask": nn.functional.pad(inputs["attention_mask"], (0, 5)),
        "labels": nn.functional.pad(inputs["labels"], (0, 5), value=IGNORED_LABEL),
    }
    narrow, wide = response_loss(model, inputs), response_loss(model, widened)
    assert narrow[1] == wide[1]
    # ternary: float rounding may move an activation over an int8 boundary (facts-training.md)
    torch.testing.assert_close(wide[0], narrow[0], rtol=2e-3, atol=0)


def test_a_batch_without_mask_is_a_batch_without_padding(model: Any) -> None:
    """The mask may be left out where nothing is padded."""
    inputs = batch(rows=1)
    without = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    torch.testing.assert_close(response_loss(model, without)[0], response_loss(model, inputs)[0], rtol=1e-5, atol=0)


def test_a_batch_without_labels_has_no_loss(model: Any) -> None:
    """Without a labelled token the sum is 0 and the count is 0: no NaN."""
    inputs = batch()
    inputs["labels"].fill_(IGNORED_LABEL)
    total, count = response_loss(model, inputs)
    assert (float(total.detach()), count) == (0.0, 0)


def test_more_rows_than_are_held_at_once_give_the_same_loss(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch with more labelled tokens than a chunk has is summed over its chunks."""
    monkeypatch.setattr(head_loss, "count_chunk_rows", lambda *_: 100)
    model = load_model(inspect_folder(tiny_model("llama")), "train", "fp16").eval()
    ids = torch.randint(3, 300, (20, 80), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with torch.no_grad():
        total, count = response_loss(model, inputs)
        assert count == 20 * 79
        torch.testing.assert_close(total, oracle(model, inputs), rtol=1e-5, atol=0)


def test_the_loss_is_float32_under_autocast(model: Any) -> None:
    """A bfloat16 autocast around the model leaves the loss in float32, near the float32 one."""
    inputs = batch()
    with torch.no_grad():
        expected = response_loss(model, inputs)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _ = response_loss(model, inputs)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=0.02, atol=0)


def test_a_capped_head_is_not_taken_apart(tiny_model: Callable[[str], Path]) -> None:
    """Gemma's logits may be capped by a tanh, which its own forward computes."""
    model: Any = load_model(inspect_folder(tiny_model("gemma3_text")), "train", "fp16").eval()
    inputs = batch()
    plain = response_loss(model, inputs)[0]
    model.config.final_logit_softcapping = 0.5
    capped = response_loss(model, inputs)[0]
    assert not torch.allclose(capped, plain, rtol=1e-2)
    torch.testing.assert_close(capped, oracle(model, inputs), rtol=1e-5, atol=0)
