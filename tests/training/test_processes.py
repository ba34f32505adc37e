"""Several processes train as one: the same loss curve and the same weights within float error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROWS = [{"prompt": f"{i} 곱하기 2는?", "response": f"{2 * i}{'입니다. ' * (1 + i % 3)}"} for i in range(32)]
PAIRS = [{"prompt": f"{i}번은?", "chosen": f"네, {i}번입니다.", "rejected": f"응, {i}번."} for i in range(32)]


def finetune(tmp_path: Path, rows: list[dict[str, str]], processes: int, *options: str) -> dict[str, Any]:
    """Run the command line in so many processes, and return the record."""
    file, out = tmp_path / "rows.jsonl", tmp_path / f"out{processes}"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "bitnet_bench"]
    command = [sys.executable, "-P", *(launch if processes > 1 else ["-m", "bitnet_bench"]), "finetune"]
    command += ["--data", str(file), "--out", str(out), "--max-steps", "6", "--hold-out", "0.25", "--save-every", "2"]
    done = subprocess.run(
        [*command, *options], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((out / "finetune.json").read_text(encoding="utf-8"))
    return record


FP16 = ("--model", "demo-fp16", "--precision", "fp16", "--compute", "fp32")


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (ROWS, (*FP16, "--batch-size", "4", "--gradient-accumulation", "2")),
        (ROWS, (*FP16, "--batch-size", "4", "--loss", "sum")),
        (PAIRS, (*FP16, "--batch-size", "4", "--method", "dpo", "--lr", "1e-3")),
    ],
    ids=["accumulated", "summed", "dpo"],
)
def test_two_processes_give_the_loss_curve_of_one(
    tmp_path: Path, rows: list[dict[str, str]], options: tuple[str, ...]
) -> None:
    """They share each step's batches, or the rows of each batch; validation is shared as well."""
    one, two = (finetune(tmp_path, rows, processes, *options) for processes in (1, 2))
    for name in ("history", "validation"):
        assert len(one[name]) == len(two[name])
        for alone, shared in zip(one[name], two[name], strict=True):
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert two["history"][-1]["grad_norm"] == pytest.approx(one["history"][-1]["grad_norm"], rel=1e-2)
    first, second = (load_file(tmp_path / f"out{n}/model.safetensors") for n in (1, 2))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-3, rtol=2e-2)


def test_two_processes_end_exactly_ternary(tmp_path: Path) -> None:
    """Rounded activations turn float noise into steps, so curves are near and not equal."""
    one, two = (finetune(tmp_path, ROWS, n, "--batch-size", "4", "--lr", "1e-3") for n in (1, 2))
    for alone, shared in zip(one["history"], two["history"], strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=2e-2)
    assert two["result"]["format"] == "autobitlinear"


def test_steps_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    """A step of one batch of three sequences is no work for two processes."""
    with pytest.raises(AssertionError, match="2 processes cannot share steps of 1 x 3 sequences"):
        finetune(tmp_path, ROWS, 2, "--batch-size", "3")
