"""The `trl` backend against `hf`: one job, the same rows, the same loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.finetune import finetune

ROWS = [{"prompt": f"{i} 더하기 1은?", "response": f"{i + 1}{'입니다.' * (1 + i % 3)}"} for i in range(24)]
PAIRS = [{"prompt": f"{i}번은?", "chosen": f"네, {i}번입니다.", "rejected": f"응, {i}번."} for i in range(24)]


def job(tmp_path: Path, model: Path | str, rows: list[dict[str, str]], **settings: Any) -> FinetuneJob:
    """Return a job of six steps, a quarter of the rows held out."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    defaults = {"model": str(model), "data": (str(file),), "out": str(tmp_path / "out"), "max_steps": 6, "epochs": 9}
    defaults |= {"batch_size": 4, "learning_rate": 1e-3, "hold_out": 0.25, "compute": "fp32", "max_length": 128}
    return FinetuneJob.model_validate({**defaults, **settings})


def both(one: FinetuneJob) -> tuple[FinetuneRecord, FinetuneRecord]:
    """Return the records of *one* through `hf` and through `trl`."""
    hf, trl = (finetune(one.model_copy(update={"out": f"{one.out}-{name}"}), backend=name) for name in ("hf", "trl"))
    return hf, trl


def assert_same_curve(hf: FinetuneRecord, trl: FinetuneRecord, rel: float) -> None:
    """Rows, losses of the steps and of validation are the same within *rel*."""
    assert trl.data_sha256 == hf.data_sha256
    for ours, theirs in ((hf.history, trl.history), (hf.validation, trl.validation)):
        assert [point["loss"] for point in theirs] == pytest.approx([point["loss"] for point in ours], rel=rel)


@pytest.mark.usefixtures("on_the_cpu")  # a GPU has two ternary forwards, whose scales are sums in other orders
@pytest.mark.parametrize(("architecture", "precision"), [("llama", "fp16"), ("bitnet", "ternary")])
@pytest.mark.parametrize(("method", "rows"), [("sft", ROWS), ("dpo", PAIRS)])
def test_trl_has_the_loss_curve_of_hf(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    architecture: str,
    precision: str,
    method: str,
    rows: list[dict[str, str]],
) -> None:
    """Within float error, with accumulation; ternary layers turn such errors into steps of an activation's grid."""
    settings = {"method": method, "precision": precision, "gradient_accumulation": 2, "batch_size": 2}
    hf, trl = both(job(tmp_path, tiny_model(architecture), rows, **settings))
    assert_same_curve(hf, trl, 1e-4 if precision == "fp16" else 2e-3)
    assert trl.backend == "trl"
    assert trl.result.format == hf.result.format
    assert trl.history[-1]["grad_norm"] == pytest.approx(hf.history[-1]["grad_norm"], rel=5e-2)
    if method == "dpo":
        assert trl.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
        assert trl.history[-1]["margin"] == pytest.approx(hf.history[-1]["margin"], rel=1e-2)
        assert trl.validation[-1]["margin"] > 0
    else:
        assert trl.validation[-1]["loss"] < trl.validation[0]["loss"]


@pytest.mark.parametrize("backend", ["hf", "trl"])
def test_a_stopped_dpo_run_resumes(tmp_path: Path, tiny_model: Callable[[str], Path], backend: str) -> None:
    """It ends with the same weights to the bit, and its first loss is not asked to be ln 2 again."""

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise StoppedError

    def steps(title: str) -> Any:
        return nullcontext(stop)

    one = job(tmp_path, tiny_model("bitnet"), PAIRS, method="dpo", save_every=3)
    stopped, whole = (one.model_copy(update={"out": str(tmp_path / name)}) for name in ("stopped", "whole"))
    with pytest.raises(StoppedError):
        finetune(stopped, backend, steps)
    assert finetune(stopped, backend).resumed_from_step == 3
    finetune(whole, backend)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert weights[0] == weights[1]


def test_options_mean_the_same_to_trl(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """A summed loss of packed rows, pre-training, and what a checkpoint says of itself."""
    fp16 = {"precision": "fp16", "max_steps": 2, "batch_size": 2}
    hf, trl = both(job(tmp_path, tiny_model("llama"), ROWS, packing=True, loss_reduction="sum", **fp16))
    assert_same_curve(hf, trl, 1e-4)
    assert trl.history[0]["grad_norm"] == pytest.approx(hf.history[0]["grad_norm"], rel=1e-3)
    configs = [json.loads((Path(record.job.out) / "config.json").read_text()) for record in (hf, trl)]
    assert configs[0] == configs[1]
    text = [{"text": "강물은 바다로 흐르고 바다는 하늘로 오른다."}] * 20
    (tmp_path / "text").mkdir()
    hf, trl = both(job(tmp_path / "text", tiny_model("llama"), text, method="pretrain", hold_out=0.0, **fp16))
    assert_same_curve(hf, trl, 1e-4)


def test_a_loss_that_is_no_number_stops_trl_as_well(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    one = job(tmp_path, tiny_model("llama"), ROWS, precision="fp16", learning_rate=1e30, warmup_ratio=0.0)
    with pytest.raises(BenchError, match=r"The loss became (nan|inf) at step"):
        finetune(one, "trl")
    assert not (tmp_path / "out/config.json").exists()


def test_trl_does_not_distill(tmp_path: Path) -> None:
    """The refusal names the backend that does."""
    with pytest.raises(BenchError, match="does not distill") as refused:
        finetune(job(tmp_path, "demo", ROWS, method="distill", teacher="demo-fp16"), "trl")
    assert "`backend=hf`" in str(refused.value.hint)


def test_trl_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_bench.backends.trl.find_spec", lambda name: None)
    with pytest.raises(BenchError, match="needs trl, which is not installed") as refused:
        plugins.load_plugin("backends", "trl")
    assert "pip install 'bitnet-bench[trl]'" in str(refused.value.hint)
