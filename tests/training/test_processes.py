"""Several processes train as one: the same loss curve and the same weights within float error."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training import job as finetuning
from bitnet_bench.training import sharding
from bitnet_bench.training.trainer import check_sharding_support

ROWS = [{"prompt": f"{i} 곱하기 2는?", "response": f"{2 * i}{'입니다. ' * (1 + i % 3)}"} for i in range(32)]
PAIRS = [{"prompt": f"{i}번은?", "chosen": f"네, {i}번입니다.", "rejected": f"응, {i}번."} for i in range(32)]
needs_sharding = pytest.mark.skipif(
    "is_distributed_loading_by_transformers" not in inspect.getsource(Trainer.__init__),
    reason="this version of transformers cannot be kept from wrapping a sharded model",
)


def options(tmp_path: Path, rows: list[dict[str, str]], out: Path, *more: str) -> list[str]:
    """Return the words of the command that trains on *rows*."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    fixed = ["--data", str(file), "--out", str(out), "--max-steps", "6", "--hold-out", "0.25", "--save-every", "2"]
    return ["finetune", *fixed, *more]


# several processes on one GPU would want several GPUs
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LAUNCH = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def run(start_command: Callable[..., BaseProcess]) -> Callable[..., None]:
    """Give what runs a command line in so many processes, with the variables that torchrun sets for each."""

    def run(processes: int, *words: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), **address}
        variables = [{**ENVIRONMENT, **sizes, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]
        started = [start_command(*words, **(given if processes > 1 else ENVIRONMENT)) for given in variables]
        going = {process.sentinel: process for process in started}
        while going:
            for ended in map(going.pop, wait(list(going))):
                ended.join()
                if ended.exitcode:  # as torchrun does; the others would wait for it
                    for other in going.values():
                        other.terminate()
        said = "".join(process.output[1].read_text(encoding="utf-8") for process in started)  # type: ignore[attr-defined]
        assert not any(process.exitcode for process in started), said

    return run


@pytest.fixture
def finetune(run: Callable[..., None], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Give what trains in so many processes, into `outN`, and returns the record."""

    def train(rows: list[dict[str, str]], processes: int, *more: str) -> dict[str, Any]:
        out = tmp_path / f"out{processes}"
        run(processes, *options(tmp_path, rows, out, *more))
        record: dict[str, Any] = json.loads((out / "finetune.json").read_text(encoding="utf-8"))
        return record

    return train


FP16 = ("--model", "demo-fp16", "--precision", "fp16", "--compute", "fp32")


@pytest.mark.parametrize(
    ("rows", "more"),
    [
        (ROWS, (*FP16, "--batch-size", "4", "--gradient-accumulation", "2")),
        pytest.param(ROWS, (*FP16, "--batch-size", "4", "--loss", "sum"), marks=pytest.mark.slow),
        (PAIRS, (*FP16, "--batch-size", "4", "--method", "dpo", "--lr", "1e-3")),
    ],
    ids=["accumulated", "summed", "dpo"],
)
def test_two_processes_give_the_loss_curve_of_one(
    tmp_path: Path, finetune: Callable[..., dict[str, Any]], rows: list[dict[str, str]], more: tuple[str, ...]
) -> None:
    """They share each step's batches, or the rows of each batch; validation is shared as well."""
    one, two = (finetune(rows, processes, *more) for processes in (1, 2))
    for name in ("history", "validation"):
        assert len(one[name]) == len(two[name])
        for alone, shared in zip(one[name], two[name], strict=True):
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert two["history"][-1]["grad_norm"] == pytest.approx(one["history"][-1]["grad_norm"], rel=1e-2)
    first, second = (load_file(tmp_path / f"out{n}/model.safetensors") for n in (1, 2))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-3, rtol=2e-2)


def test_two_processes_save_together_when_the_clock_of_the_first_says_so(
    tmp_path: Path, run: Callable[..., None]
) -> None:
    """After every step; the run ends with the weights of one that is saved by steps only."""
    by_time = ("--batch-size", "4", "--save-minutes", "1e-6", "--save-every", "1000")
    by_steps = ("--batch-size", "4", "--save-minutes", "0", "--save-every", "1000")
    for name, more in (("time", by_time), ("steps", by_steps)):
        run(2, *options(tmp_path, ROWS, tmp_path / name, *more))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("time", "steps"))
    assert first == second


def test_two_processes_that_torchrun_starts_end_exactly_ternary(
    tmp_path: Path, finetune: Callable[..., dict[str, Any]]
) -> None:
    """Rounded activations turn float noise into steps, so curves are near and not equal."""
    more = ("--batch-size", "4", "--lr", "1e-3")
    one = finetune(ROWS, 1, *more)
    launched = [*LAUNCH, "-m", "bitnet_bench", *options(tmp_path, ROWS, tmp_path / "out2", *more)]
    subprocess.run(launched, env={**os.environ, **ENVIRONMENT}, check=True)
    two = json.loads((tmp_path / "out2/finetune.json").read_text(encoding="utf-8"))
    for alone, shared in zip(one["history"], two["history"], strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=2e-2)
    assert two["result"]["format"] == "autobitlinear"


@needs_sharding
@pytest.mark.parametrize(
    ("more", "rel"),
    [
        pytest.param(
            (*FP16, "--batch-size", "4", "--gradient-accumulation", "2", "--gradient-checkpointing"),
            1e-4,
            marks=pytest.mark.slow,
        ),
        (("--compute", "fp32", "--batch-size", "4"), 2e-2),
    ],
    ids=["fp16", "ternary"],
)
def test_a_sharded_model_has_the_loss_curve_of_a_whole_one(
    tmp_path: Path, finetune: Callable[..., dict[str, Any]], more: tuple[str, ...], rel: float
) -> None:
    """Masters stay float32 and are gathered before they are quantized, so that scales are those of whole layers."""
    one = finetune(ROWS, 1, *more)
    two = finetune(ROWS, 2, *more, "--shard")
    for name in ("history", "validation"):
        losses = [[point["loss"] for point in record[name]] for record in (one, two)]
        assert losses[1] == pytest.approx(losses[0], rel=rel)
    assert two["history"][-1]["grad_norm"] == pytest.approx(one["history"][-1]["grad_norm"], rel=10 * rel)
    configs = [json.loads((tmp_path / f"out{n}/config.json").read_text(encoding="utf-8")) for n in (1, 2)]
    assert configs[0] == configs[1]
    first, second = (load_file(tmp_path / f"out{n}/model.safetensors") for n in (1, 2))
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith("_scale"):
            torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=0)
    assert ("flips" in two["history"][-1]) == (two["result"]["format"] == "autobitlinear")


@needs_sharding
@pytest.mark.slow
def test_a_sharded_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Each process goes on with its own part; `accelerate launch` asks for the same by its own names."""

    def launched(out: Path, *more: str) -> list[str]:
        fixed = ("--batch-size", "4", "--max-steps", "30", "--compute", "fp32", "--save-every", "5")
        return [*LAUNCH, "-m", "bitnet_bench", *options(tmp_path, ROWS, out, *fixed, *more)]

    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    subprocess.run(launched(whole, "--shard"), env={**os.environ, **ENVIRONMENT}, check=True)
    accelerate = {**os.environ, **ENVIRONMENT, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    process = subprocess.Popen(launched(killed), env=accelerate)
    while not (killed / ".trainer/checkpoint-10/complete").exists():
        assert process.poll() is None
        time.sleep(0.01)
    launcher = psutil.Process(process.pid)
    for each in (launcher, *launcher.children(recursive=True)):  # each process has a session of its own
        each.kill()
    process.wait()
    subprocess.run(launched(killed), env=accelerate, check=True)
    record = json.loads((killed / "finetune.json").read_text(encoding="utf-8"))
    assert record["resumed_from_step"] >= 10
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_transformers_that_cannot_shard_is_refused() -> None:
    """An older Trainer would wrap the sharded model, and stop deep inside torch."""
    with pytest.raises(BenchError, match="`shard` does not work with transformers"):
        check_sharding_support(object())  # type: ignore[arg-type]


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, adapters, and FSDP1, which flattens layers into one."""
    job = FinetuneJob(model="demo", data=("rows.jsonl",), out="out")
    with pytest.raises(BenchError, match="splits a model over processes, and there is one"):
        finetuning._resolve_sharding(job.model_copy(update={"shard": True}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BenchError, match="nothing to `shard`"):
        finetuning._resolve_sharding(job.model_copy(update={"shard": True, "lora_rank": 4}))
    assert not finetuning._resolve_sharding(job).shard
    sharding.is_fsdp_launch.cache_clear()
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert finetuning._resolve_sharding(job).shard
    assert "ACCELERATE_USE_FSDP" not in os.environ  # or accelerate would shard as well
    assert finetuning._resolve_sharding(job).shard  # a twin's run in the same process
    sharding.is_fsdp_launch.cache_clear()
    monkeypatch.setenv("FSDP_VERSION", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BenchError, match="FSDP1 flattens"):
        finetuning._resolve_sharding(job)
    monkeypatch.undo()
    assert not sharding.is_fsdp_launch()


def test_steps_that_cannot_be_shared_are_refused(finetune: Callable[..., dict[str, Any]]) -> None:
    """A step of one batch of three sequences is no work for two processes."""
    with pytest.raises(AssertionError, match="2 processes cannot share steps of 1 x 3 sequences"):
        finetune(ROWS, 2, "--batch-size", "3")
