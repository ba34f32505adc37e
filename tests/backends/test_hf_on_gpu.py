"""What `hf` does with a GPU that is there, full, old or not there: the card is faked, the model stays on the CPU."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench.backends.hf import inference as hf
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli.doctor import _inspect_gpu
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.machine import gpu
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.machine.fast_dtype import fastest_dtype
from bitnet_bench.machine.gpu import CardState
from bitnet_bench.machine.runtime_choice import default_precision
from bitnet_bench.ternary.linear import CodesLinear
from tests.machine.test_gpu import H100

T4 = dataclasses.replace(H100, name="Tesla T4", capability=(7, 5))
FULL = dataclasses.replace(H100, free_bytes=100_000_000)


@contextmanager
def card_of(card: CardState, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine have *card*."""
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "inspect_card", lambda: card)
        yield


def loaded(card: CardState, model: str, precision: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what `open_session` loads with *card*, and where it would put it."""
    seen: dict[str, Any] = {}
    real = hf.load_model

    def load(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        put = made.to

        def to(device: str) -> Any:
            seen["device"] = device
            return put("cpu")

        made.to = to
        return made

    with card_of(card, monkeypatch), monkeypatch.context() as patch:
        patch.setattr(hf, "load_model", load)
        with hf.open_session(open_checkpoint(model), precision) as session:
            seen["dtype"] = session._model.dtype
            seen["kinds"] = session.weights_by_kind()
    return seen


@pytest.mark.parametrize(("triton", "codes"), [("3.6.0", "ternary 2-bit"), (None, "ternary int8")])
def test_a_ternary_model_holds_bfloat16_beside_its_codes_on_a_gpu(
    triton: str | None, codes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bits a code where our kernels run, a byte without Triton; float32 on the CPU."""
    seen = loaded(dataclasses.replace(H100, triton=triton), "demo", "ternary", monkeypatch)
    assert seen["device"] == "cuda"
    assert seen["dtype"] == torch.bfloat16
    assert {kind for kind in seen["kinds"] if kind.startswith("ternary")} == {codes}
    assert "embedding bfloat16" in seen["kinds"]
    assert loaded(CardState("13.0"), "demo", "ternary", monkeypatch)["dtype"] == torch.float32


def test_a_full_card_leaves_the_model_on_the_cpu_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        seen = loaded(FULL, "demo", "ternary", monkeypatch)
    assert seen["device"] == "cpu"
    assert "demo runs on the CPU: the NVIDIA H100 has 0.1 of 80.0 GB free, and the model needs about" in caplog.text


def test_a_machine_without_a_gpu_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded(CardState("13.0"), "demo", "ternary", monkeypatch)
    assert "runs on the CPU" not in caplog.text


def test_an_old_card_runs_floats_in_float32_and_says_that_bfloat16_is_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with card_of(T4, monkeypatch):
        assert fastest_dtype() == "fp32"
        with caplog.at_level(logging.WARNING):
            assert default_precision(open_checkpoint("demo-fp16")) == "fp32"
    assert "demo-fp16 runs in float32: the Tesla T4 (sm_75) computes no bfloat16." in caplog.text
    assert loaded(T4, "demo", "ternary", monkeypatch)["dtype"] == torch.float32
    with caplog.at_level(logging.WARNING):
        loaded(T4, "demo-fp16", "bf16", monkeypatch)
    assert "Tesla T4 emulates bfloat16" in caplog.text


def test_a_gpu_with_bfloat16_is_used_in_it_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with card_of(H100, monkeypatch):
        assert default_precision(open_checkpoint("demo-fp16")) == "bf16"
        assert default_precision(open_checkpoint("demo")) == "ternary"


def test_codes_beside_bfloat16_stay_near_the_float32_model() -> None:
    checkpoint = open_checkpoint("demo")
    ids = torch.tensor([[3, 50, 700, 9, 12]])
    with torch.inference_mode():
        exact = load_model(checkpoint, "run", "ternary")(ids).logits
        model = load_model(checkpoint, "run", "ternary", rest="bf16")
        near = model(ids).logits.float()
    layers = [m for m in model.modules() if isinstance(m, CodesLinear)]
    assert all(layer.codes.dtype == torch.int8 and layer.gamma.dtype == torch.float32 for layer in layers)
    assert float((exact.log_softmax(-1) - near.log_softmax(-1)).abs().mean()) < 0.1


def test_the_environment_and_doctor_name_the_gpu_its_driver_and_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    with card_of(H100, monkeypatch):
        assert read_environment().gpu == "NVIDIA H100 (sm_90, 80 GB), driver 580.65.06, CUDA 13.0, Triton 3.6.0"
    with card_of(CardState("13.0"), monkeypatch):
        assert read_environment().gpu is None
    assert [finding.ok for finding in _inspect_gpu(H100)] == [True, True, True]
    said = {finding.what: finding for finding in _inspect_gpu(dataclasses.replace(T4, triton=None))}
    assert said["bfloat16 on the GPU"].found == "emulated"
    assert "is sm_75" in said["GPU kernels (Triton)"].found
    (none,) = _inspect_gpu(CardState(None, driver=H100.driver))
    assert not none.ok
    assert "built for the CPU only" in none.found


def test_a_run_says_what_computed(tmp_path: Path) -> None:
    from bitnet_bench.runs.jobs import EvaluateJob

    job = EvaluateJob(backend="hf", limit=2)
    record = evaluate("demo", select_tasks(["sample"], ["copa"]), tmp_path / "run", job)
    assert record.runtime is not None
    if gpu.find_gpu() is None:
        assert record.runtime == "transformers on the CPU, int8 codes, the rest in float32"


def test_integers_are_exact_in_bfloat16_with_float32_sums() -> None:
    """int8 is exact in bfloat16, and the sums stay below 2^24: what the card computes is what is simulated here."""
    torch.manual_seed(0)
    q = torch.randint(-128, 128, (5, 6912), dtype=torch.int8)
    codes = torch.randint(-1, 2, (7, 6912), dtype=torch.int8)
    assert torch.equal(q.bfloat16().to(torch.int8), q)
    assert torch.equal(q.bfloat16().float() @ codes.bfloat16().float().t(), (q.int() @ codes.int().t()).float())
