"""The `llamacpp` backend: a Llama passes the gate, and llama.cpp's SiLU for a BitNet is caught by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import bitnet_bench
from bitnet_bench.backends.llamacpp import LlamaCppBackend
from bitnet_bench.backends.reference import source_logits
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import PARITY_PROMPTS, encode_prompts
from bitnet_bench.cli.output import list_notes
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.candidates import Candidate
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.protocols import RuntimeOptions, sort_answers
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the extra `llamacpp` is not installed")
DEMO = Path(bitnet_bench.__file__).parent / "demo" / "ternary"
SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=1, threads=1)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep exported files of a test to itself."""
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path / "gguf"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Give a random ternary Llama of 2 layers whose rows fill blocks of 256."""
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    config = read_config(DEMO) | {"num_hidden_layers": 2, "intermediate_size": 512, "initializer_range": 0.1}
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    folder = tmp_path_factory.mktemp("llama") / "llama"
    write_random_checkpoint(config, 0, "autobitlinear", folder, DEMO, lambda done, total, note="": None)
    return open_checkpoint(str(folder))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0"])
def test_a_llama_passes_in_every_type(precision: Precision, llama: Checkpoint) -> None:
    """Weights, tokens and log-probabilities are the checkpoint's, within the bound."""
    parity = LlamaCppBackend().check(llama, precision)
    assert parity.fault is None
    assert parity.same_tokens
    assert parity.relative_error is not None
    assert parity.relative_error < (0.5 if precision == "q4_0" else 0.1)


@pytest.mark.parametrize(("architecture", "group"), [("qwen3", 128), ("llama", 64)])
def test_a_model_with_groups_passes_as_q2_0(
    group_model: Callable[[str, int], Path], architecture: str, group: int, tmp_path: Path
) -> None:
    """`ternary` means Q2_0 for it; its file is a model itself, and passes the same gate without an export."""
    folder = open_checkpoint(str(group_model(architecture, group)))
    export_gguf(folder.path, "q2_0", tmp_path / "model.gguf")
    kept = tmp_path / "gguf"
    for checkpoint in (open_checkpoint(str(tmp_path / "model.gguf")), folder):
        assert not list(kept.glob("*.gguf"))
        for precision in ("ternary", "q2_0"):
            parity = LlamaCppBackend().check(checkpoint, precision)
            assert parity.fault is None
            assert parity.same_tokens
            assert parity.relative_error is not None
            assert parity.relative_error < 0.05
    assert [file.name for file in kept.glob("*.gguf")] == [f"{folder.sha256[:32]}-q2_0.gguf"]


def test_a_gguf_file_is_run_itself_and_still_compared(llama: Checkpoint, tmp_path: Path) -> None:
    """A file of the wrong model is caught by what it computes; its weights are its own."""
    export_gguf(llama.path, "tq2_0", tmp_path / "llama.gguf")
    parity = LlamaCppBackend().check(open_checkpoint(str(tmp_path / "llama.gguf")), "ternary")
    assert parity.fault is None
    export_gguf("demo", "tq2_0", tmp_path / "demo.gguf")
    parity = LlamaCppBackend().check(open_checkpoint(str(tmp_path / "demo.gguf")), "ternary")
    assert "SiLU where the checkpoint has a squared ReLU" in str(parity.fault)
    assert not list((tmp_path / "gguf").glob("*.gguf"))


def test_the_wrong_activation_is_caught_by_name(tmp_path: Path) -> None:
    """The embedded BitNet has a squared ReLU: measure refuses llama.cpp, and marks the row if it is told to go on."""
    (refused,) = measure([Candidate("demo", "tq2_0", None, "llamacpp")], SHORT, meter="none")
    assert not refused.costs
    assert "SiLU where the checkpoint has a squared ReLU" in refused.cost_errors["llamacpp tq2_0"]
    (told,) = measure(
        [Candidate("demo", "tq2_0", None, "llamacpp")],
        SHORT,
        meter="none",
        options=RuntimeOptions(allow_mismatch=True),
    )
    (cost,) = told.costs
    assert cost.parity is not None
    assert "SiLU" in str(cost.parity.fault)
    assert any("another model" in note for note in list_notes([told]))


def test_scores_are_the_checkpoints_own(llama: Checkpoint) -> None:
    """Log-likelihoods agree with the exact engine's, whatever stands beside them, and decoding is greedy."""
    ids = [row.tolist() for row in encode_prompts(llama)]
    requests = [(row[:5], row[5:9]) for row in ids]
    with LlamaCppBackend().open(llama, "fp16") as session:
        together = sort_answers(session.loglikelihood(requests))
        alone = [sort_answers(session.loglikelihood([request]))[0] for request in requests]
        state = session.prefill([row[:6] for row in ids])
        after = session.decode(state, 2)
        text = sort_answers(session.generate([ids[0]], 4, [PARITY_PROMPTS[0]]))[0].text
    for (logprob, _), (single, _), row in zip(together, alone, ids, strict=True):
        ours = source_logits(llama, [torch.tensor(row[:8])]).log_softmax(-1)
        exact = sum(float(ours[i + 4, row[i + 5]]) for i in range(4))
        assert logprob == pytest.approx(single, abs=1e-3)
        assert logprob == pytest.approx(exact, rel=0.05)
    assert after.lengths == [8] * 4
    assert isinstance(text, str)


def test_a_file_of_another_model_is_refused(llama: Checkpoint, tmp_path: Path) -> None:
    """--gguf takes the user's own file only if it holds the checkpoint's weights, in the type that was named."""
    other = tmp_path / "other.gguf"
    write_gguf(open_checkpoint("demo"), "tq2_0", other, lambda done, total, note="": None)
    backend = LlamaCppBackend(RuntimeOptions(gguf=str(other)))
    with pytest.raises(BenchError, match="another model than the checkpoint"):
        backend.check(llama, "tq2_0")
    with pytest.raises(BenchError, match="no tensor of TQ1_0"):
        backend.check(llama, "tq1_0")
    with pytest.raises(BenchError, match="no file"):
        LlamaCppBackend(replace(RuntimeOptions(), gguf=str(tmp_path / "none.gguf"))).check(llama, "tq2_0")
