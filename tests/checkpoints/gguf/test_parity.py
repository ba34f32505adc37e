"""The gate: a runtime that computes another model is caught, and called by what it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.reference import source_logits
from bitnet_bench.backends.runtime_parity import check_parity, compare_logits, compare_runtime, find_or_compare
from bitnet_bench.backends.variants import Variant
from bitnet_bench.checkpoints.gguf.exports import open_or_export_gguf
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity


def _runtime(checkpoint: Checkpoint, activation: str | None = None, noise: float = 0.0) -> Callable[..., Tensor]:
    """Give a runtime that computes *checkpoint* with another activation, or with some noise."""

    def logits(prompts: Sequence[Sequence[int]]) -> Tensor:
        found = source_logits(checkpoint, [torch.tensor(ids) for ids in prompts], Variant(activation=activation))
        return found + noise * found.std() * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))

    return logits


@pytest.mark.parametrize("precision", ["tq2_0", "q4_0"])
def test_a_wrong_activation_is_named_whatever_the_bound(precision: Precision, bitnet: Checkpoint) -> None:
    """A runtime with SiLU is nearer to the source with SiLU than to the source, and is called that."""
    found = compare_runtime(bitnet, precision, "fake 1", _runtime(bitnet, "silu"), None)
    assert found.fault == "fake 1 computes SiLU where the checkpoint has a squared ReLU"
    assert found.activation == "silu"


def test_a_right_runtime_passes_with_its_own_rounding(bitnet: Checkpoint) -> None:
    """Noise of a twentieth of the logits' spread is rounding; tokens are compared, too."""
    ids = {tuple(row.tolist()) for row in encode_prompts(bitnet)}
    found = compare_runtime(bitnet, "tq2_0", "fake 1", _runtime(bitnet, noise=0.05), lambda text: [1])
    assert found.fault is None
    assert found.activation == "relu2"
    assert found.same_tokens is False
    assert "its tokenizer gives other ids for 4 of 4 prompts" in str(found.remark)
    assert found.prompt_tokens == sum(map(len, ids))
    assert 0 < (found.relative_error or 0) < 0.15


def test_another_model_and_broken_logits_are_faults() -> None:
    """Other numbers, NaN and another shape: none of them is the model, and nothing is compared by chance."""
    torch.manual_seed(0)
    ours, theirs = torch.randn(8, 50), torch.randn(8, 50)
    assert compare_logits(ours, ours, bound=0.15, runtime="x").fault is None
    assert "another model" in str(compare_logits(ours, theirs, bound=0.15, runtime="x").fault)
    assert "not finite" in str(compare_logits(ours, ours * float("nan"), bound=0.15, runtime="x").fault)
    assert "shape" in str(compare_logits(ours, theirs[:5], bound=0.15, runtime="x").fault)
    fault = compare_logits(ours, theirs[:, :40], bound=0.15, runtime="x").fault
    assert fault == "x has a vocabulary of 40 tokens where the checkpoint has 50"


def test_a_comparison_is_kept_until_the_file_changes(llama: Checkpoint) -> None:
    """The same bytes in the same runtime are compared once; a file that was touched, or a new version, again."""
    file = open_or_export_gguf(llama, "tq2_0", None)
    asked: list[str] = []

    def compare() -> RuntimeParity:
        asked.append("")
        return RuntimeParity(runtime="fake 1", prompt_tokens=1)

    for runtime in ("fake 1", "fake 1", "fake 2"):
        find_or_compare(llama, file, runtime, compare)
    assert len(asked) == 2
    data = file.path.read_bytes()
    file.path.unlink()
    Path(file.path).write_bytes(data)
    find_or_compare(llama, file, "fake 1", compare)
    assert len(asked) == 3


def test_a_fault_is_refused_unless_it_is_wanted() -> None:
    """The sentence has the numbers and the way around; what is within the bound passes."""
    wrong = RuntimeParity(runtime="x", prompt_tokens=9, relative_error=0.4, bound=0.15, fault="x computes SiLU")
    with pytest.raises(BenchError, match=r"x computes SiLU \(0.40 standard deviations on 9 tokens, bound 0.15\)"):
        check_parity(wrong, allow_mismatch=False)
    check_parity(wrong, allow_mismatch=True)
