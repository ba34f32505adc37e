"""Training through the `hf` backend: killed and resumed, refused, diverged, and exactly ternary at the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.ternary.packing import unpack
from bitnet_bench.training import trainer
from bitnet_bench.training.finetune import finetune, make_twin_job
from bitnet_bench.training.rates import find_default_rate

Command = Callable[..., subprocess.CompletedProcess[str]]
ROWS = [
    {"prompt": f"{i}번 손님은 무엇을 드시나요?", "response": f"{i}번 손님은 {'국수' if i % 2 else '비빔밥'}를 드세요."}
    for i in range(24)
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give a JSONL file of 24 rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return file


def job(rows: Path, out: Path, **settings: object) -> FinetuneJob:
    """Return a short job on the embedded ternary checkpoint."""
    defaults = {"model": "demo", "data": (str(rows),), "out": str(out), "max_steps": 12, "batch_size": 4, "epochs": 9}
    return FinetuneJob.model_validate({**defaults, "learning_rate": 2e-3, "save_every": 3, **settings})


def _words(rows: Path, out: Path) -> list[str]:
    options = ["--max-steps", "12", "--batch-size", "4", "--epochs", "9", "--lr", "2e-3", "--save-every", "3"]
    return ["finetune", "--data", str(rows), "--out", str(out), *options]


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    rows: Path, tmp_path: Path, kill_command: Callable[..., None], run_command: Command
) -> None:
    """SIGKILL half-way, the same command again: bit for bit the checkpoint of a run that was not killed."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_command(*_words(rows, killed), is_reached=(killed / ".trainer/checkpoint-6/complete").exists, limit_s=120)
    assert not (killed / "config.json").exists()
    for out in (killed, whole):
        done = run_command(*_words(rows, out))
        assert done.returncode == 0, done.stderr
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads((killed / "finetune.json").read_text())["resumed_from_step"] >= 6
    assert not (killed / ".trainer").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--method", "distill", "--teacher", "demo-fp16", "--ternary-warmup", "5")])
def test_a_run_killed_at_five_random_moments_ends_with_the_same_weights(
    rows: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """SIGKILL while it loads, trains, validates or saves; noise and dropout have a state that is restored as well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    more = ["--max-steps", "40", "--hold-out", "0.25", "--neftune-alpha", "5", "--gradient-accumulation", "2", *options]
    start = [sys.executable, "-P", "-m", "bitnet_bench"]
    commands = {out: [*start, *_words(rows, out), *more] for out in (killed, whole)}
    began = time.monotonic()
    subprocess.run(commands[whole], env=environment, check=True, capture_output=True)
    usual = time.monotonic() - began
    moments, kills = random.Random(time.time_ns()), 0
    while kills < 5:
        process = subprocess.Popen(commands[killed], env=environment, stderr=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0.2, 0.7) * usual)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert kills >= 2
    subprocess.run(commands[killed], env=environment, check=True, capture_output=True)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    records = [json.loads((out / "finetune.json").read_text()) for out in (killed, whole)]
    assert records[0]["validation"] == records[1]["validation"]


def test_a_state_that_time_saved_is_resumed_from(rows: Path, tmp_path: Path) -> None:
    """Saved after every step here, whatever the steps between states; the weights are those of an undisturbed run."""

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 6:
            raise StoppedError

    timed = {"save_every": 1000, "save_minutes": 1e-6, "max_steps": 8, "compute": "fp32"}
    stopped, whole = (job(rows, tmp_path / name, **timed) for name in ("stopped", "whole"))
    with pytest.raises(StoppedError):
        finetune(stopped, steps=lambda title: nullcontext(stop))
    again = finetune(stopped.model_copy(update={"save_minutes": 5.0}))
    assert again.resumed_from_step == 5
    finetune(whole.model_copy(update={"save_minutes": 0.0}))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert weights[0] == weights[1]


def test_the_end_of_a_run_is_on_its_curve(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first and its last step are logged, though points are means over several steps."""
    monkeypatch.setattr(trainer, "LOG_POINTS", 4)
    record = finetune(job(rows, tmp_path / "out", max_steps=9, batch_size=1, track=(), limit=2))
    assert [point["step"] for point in record.history] == [1, 2, 4, 6, 8, 9]


def test_a_job_without_a_rate_has_that_of_the_table_and_its_twin_has_its_own(rows: Path, tmp_path: Path) -> None:
    """Both with their source; a finished run is known again, and another rate is another job."""
    one = job(rows, tmp_path / "out", max_steps=2, learning_rate=None, lora_rank=2)
    record = finetune(one)
    expected = find_default_rate(one, record.base)
    assert (record.job.learning_rate, record.job.learning_rate_source) == (expected.value, expected.source)
    assert finetune(one) == record
    twin = make_twin_job(record.job, None)
    assert (twin.learning_rate, twin.learning_rate_source) == (None, None)
    assert finetune(twin).job.learning_rate == find_default_rate(twin, record.base).value
    with pytest.raises(BenchError, match="another `learning_rate`"):
        finetune(one.model_copy(update={"learning_rate": 3e-3}))


def test_a_batch_size_of_auto_keeps_the_size_of_a_step(rows: Path, tmp_path: Path) -> None:
    """What was chosen is in the record, and a finished run is known again whatever memory is free by then."""
    one = job(rows, tmp_path / "out", max_steps=2, batch_size="auto", gradient_accumulation=2)
    record = finetune(one)
    assert isinstance(record.job.batch_size, int)
    assert record.job.batch_size * record.job.gradient_accumulation == 32
    assert finetune(one) == record


def test_a_step_is_of_the_same_rows_however_it_is_cut_up(rows: Path, tmp_path: Path) -> None:
    """Or a twin whose batch is another would learn from other rows in each step."""
    settings = {"max_steps": 4, "compute": "fp32", "model": "demo-fp16", "precision": "fp16", "track": ()}
    whole = finetune(job(rows, tmp_path / "a", batch_size=8, **settings))
    cut = finetune(job(rows, tmp_path / "b", batch_size=2, gradient_accumulation=4, **settings))
    losses = [[point["loss"] for point in record.history] for record in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_ternary_result_holds_three_values_and_learned(rows: Path, tmp_path: Path) -> None:
    """Every ternary layer is stored as codes -1, 0 and +1 with one float32 scale, and the loss fell."""
    record = finetune(job(rows, tmp_path / "out", max_steps=40))
    stored = load_file(tmp_path / "out/model.safetensors")
    packed = [name for name, tensor in stored.items() if tensor.dtype == torch.uint8]
    assert len(packed) == 4 * 7
    for name in packed:
        assert set(unpack(stored[name]).unique().tolist()) == {-1, 0, 1}
        assert stored[name.replace(".weight", ".weight_scale")].dtype == torch.float32
    assert record.result.format == "autobitlinear"
    assert record.history[-1]["loss"] < 0.7 * record.history[0]["loss"]
    assert {"flips", "zeros", "grad_norm"} <= record.history[-1].keys()


def test_the_twin_sees_the_same_data_in_the_same_order(rows: Path, tmp_path: Path) -> None:
    """The twin is float, FP16, and its record has the digest of the same rows and as many steps."""
    one = job(rows, tmp_path / "out")
    ternary, twin = finetune(one), finetune(make_twin_job(one, None))
    assert twin.result.format == "float"
    assert twin.result.dtype == "float16"
    assert (twin.data_sha256, twin.steps) == (ternary.data_sha256, ternary.steps)
    assert Path(twin.job.out).name == "out-fp16"


def test_other_settings_do_not_go_on_in_the_same_folder(rows: Path, tmp_path: Path) -> None:
    """A finished folder is given back for the same job and refused for another, by the name of what differs."""
    one = job(rows, tmp_path / "out", max_steps=2)
    first = finetune(one)
    assert finetune(one) == first
    with pytest.raises(BenchError, match="another `learning_rate`"):
        finetune(one.model_copy(update={"learning_rate": 1e-4}))


def test_an_unfinished_folder_refuses_other_data(rows: Path, tmp_path: Path) -> None:
    """Resuming on changed rows would be a run that nobody asked for."""
    one = job(rows, tmp_path / "out")
    finetune(one.model_copy(update={"max_steps": 2}))
    (tmp_path / "out/finetune.json").unlink()
    (tmp_path / "out/.trainer").mkdir()
    (tmp_path / "out/.trainer/job.json").write_text(json.dumps({**one.settings(), "data rows": "other"}))
    with pytest.raises(BenchError, match="data rows"):
        finetune(one)


def test_a_loss_that_is_no_number_stops_the_run(rows: Path, tmp_path: Path) -> None:
    """A diverged run says at which step, and leaves no checkpoint that looks finished."""
    with pytest.raises(BenchError, match=r"The loss became (nan|inf) at step"):
        finetune(job(rows, tmp_path / "out", learning_rate=1e30, warmup_ratio=0.0, precision="fp16", model="demo-fp16"))
    assert not (tmp_path / "out/config.json").exists()


def test_rows_without_a_response_in_reach_are_named(
    rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log before the first step, and in the record; of many only the first."""
    with rows.open("a", encoding="utf-8") as file:
        for i in range(7):
            file.write(
                json.dumps({"prompt": f"{i}쪽짜리 글입니다. " * 40, "response": "네"}, ensure_ascii=False) + "\n"
            )
    record = finetune(job(rows, tmp_path / "out", max_steps=2, max_length=64))
    (warning,) = (one for one in record.warnings if "left out" in one)
    assert "7 of 31 rows are left out, because 64 tokens leave nothing of their response" in warning
    assert "“4쪽짜리 글입니다. " in warning
    assert "“5쪽짜리" not in warning
    assert warning in caplog.text
    assert record.dropped_rows == 7


def test_a_step_that_is_validated_is_logged_as_well(rows: Path, tmp_path: Path) -> None:
    """Every step has its loss and its flips in the record, the last one too."""
    record = finetune(job(rows, tmp_path / "out", max_steps=5, save_every=2, hold_out=0.25))
    assert [point["step"] for point in record.history] == [1, 2, 3, 4, 5]
    assert [point["step"] for point in record.validation] == [0, 2, 4, 5]
    assert all("flips" in point for point in record.history)


def test_pretraining_learns_from_running_text(tmp_path: Path) -> None:
    """`pretrain` takes text rows and puts the loss on every token."""
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "강물은 바다로 흐르고 바다는 하늘로 오른다."}\n' * 40, encoding="utf-8")
    record = finetune(job(file, tmp_path / "out", method="pretrain", max_length=64, max_steps=10))
    assert record.history[-1]["loss"] < record.history[0]["loss"]


def test_accumulated_batches_give_the_step_of_one_large_batch(rows: Path, tmp_path: Path) -> None:
    """Two forward passes of 4 of eight rows and one of all 8 have the same gradient, token-weighted.

    In FP16's float32 training: a ternary forward may round an activation differently under other padding.
    """
    settings = {"max_steps": 1, "compute": "fp32", "limit": 8, "model": "demo-fp16", "precision": "fp16"}
    small = finetune(job(rows, tmp_path / "a", batch_size=4, gradient_accumulation=2, **settings))
    large = finetune(job(rows, tmp_path / "b", batch_size=8, **settings))
    assert small.history[0]["grad_norm"] == pytest.approx(large.history[0]["grad_norm"], rel=1e-4)
    assert small.history[0]["loss"] == pytest.approx(large.history[0]["loss"], rel=1e-4)


def test_a_template_file_that_changed_is_another_job(rows: Path, tmp_path: Path) -> None:
    """Its content decides the result, not its name; the record has its digest."""
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}", encoding="utf-8")
    one = job(rows, tmp_path / "out", max_steps=2, template=str(template))
    record = finetune(one)
    assert len(record.job.template_sha256 or "") == 64
    assert finetune(one) == record
    template.write_text("{% for m in messages %}{{ m.content }} </s>{% endfor %}", encoding="utf-8")
    with pytest.raises(BenchError, match="another `template_sha256`"):
        finetune(one)
