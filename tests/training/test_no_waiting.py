"""A training step never looks at a value on the device: the host runs ahead of the GPU until a step is logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from bitnet_bench.backends.hf import training
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.collating import LABELLED_KEY, find_labelled_positions
from bitnet_bench.data.tokenizing import IGNORED_LABEL
from bitnet_bench.errors import BenchError, DivergedError
from bitnet_bench.protocols import TrainingInputs
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.ternary import linear
from bitnet_bench.training.attention import CAUSAL_ATTENTION_NAME, assume_causal, attention_inputs
from bitnet_bench.training.compiling import MIN_STEPS_TO_COMPILE, choose_compile, compile_layers
from bitnet_bench.training.finetune import finetune as run_finetune
from bitnet_bench.training.inputs import read_training_rows
from bitnet_bench.training.job import run_finetune_job
from bitnet_bench.training.loss import response_logprobs, response_loss
from bitnet_bench.training.micro_batch_sums import MicroBatchSums

ROWS = [{"prompt": f"{i}번은?", "response": f"{i}번{'입니다.' * (1 + i % 3)}"} for i in range(24)]
PAIRS = [{"prompt": f"{i}번은?", "chosen": f"네, {i}번입니다.", "rejected": f"응, {i}번."} for i in range(24)]
LOOKING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
"""What waits for a GPU, beside indexing by booleans; `item`, `tolist`, `bool` and `float` of a tensor are the first."""
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Watch(TorchDispatchMode):
    """Keeps the names of operators that look at values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_booleans = func in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        if func in LOOKING or by_booleans:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class DuringSteps(TrainerCallback):
    """Watches from the beginning of each step but the first to its end."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._on = watch, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to watch."""
        if state.global_step:
            self._watch.__enter__()
            self._on = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop watching: the log and the saved state of a step may wait."""
        if self._on:
            self._watch.__exit__(None, None, None)
            self._on = False


def job(tmp_path: Path, rows: list[dict[str, str]], **settings: Any) -> FinetuneJob:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    defaults = {"data": (str(file),), "out": str(tmp_path / "out"), "max_steps": 4, "epochs": 9, "batch_size": 2}
    defaults |= {"learning_rate": 1e-3, "compute": "bf16", "max_length": 128, "track": (), "save_every": 99}
    return FinetuneJob.model_validate({**defaults, **settings})


def run_watched(one: FinetuneJob, watch: Watch) -> FinetuneRecord:
    """Run *one* as on a GPU, where masks are not looked at, and watch its steps."""

    def build(start: Any, arguments: Any, order: Any) -> Any:
        assert assume_causal(start.model, one.max_length)
        if start.teacher is not None:
            assume_causal(start.teacher, one.max_length)
        trainer = training.build_trainer(start, arguments, order)
        trainer.add_callback(DuringSteps(watch))
        return trainer

    teacher = open_checkpoint(one.teacher) if one.teacher else None
    given = TrainingInputs(open_checkpoint(one.model), read_training_rows(one)[0], (), teacher, 0)
    return run_finetune_job(one, given, lambda *_: None, "hf", build)


@pytest.mark.parametrize(
    ("method", "precision", "rows", "more"),
    [
        ("sft", "ternary", ROWS, {"gradient_accumulation": 2}),
        ("sft", "ternary", ROWS, {"packing": True}),
        ("sft", "fp16", ROWS, {}),
        ("dpo", "ternary", PAIRS, {}),
        ("distill", "ternary", ROWS, {"relation_heads": 2}),
    ],
)
def test_a_step_does_not_look_at_its_values(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    method: str,
    precision: str,
    rows: list[dict[str, str]],
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward, backward, clipping and optimizer; with padding, and packed rows, of every method.

    The C kernel takes scales as numbers, which costs nothing on a CPU: hence the patch.
    """
    monkeypatch.setattr(linear, "has_kernel", lambda _: False)
    model = str(tiny_model("llama"))
    settings = {"model": model, "method": method, "precision": precision, **more}
    if method == "distill":
        settings["teacher"] = model
    watch = Watch()
    record = run_watched(job(tmp_path, rows, **settings), watch)
    assert record.steps == 4
    assert watch.seen == []


def test_the_watch_sees_what_waits() -> None:
    """Or the test above would pass whatever a step did."""
    watch = Watch()
    x = torch.arange(4.0)
    with watch:
        _ = x[x > 1], x.sum().item(), bool(x.any()), x.tolist()
    assert len(watch.seen) >= 3


@pytest.mark.parametrize("steps", [1, 250])
def test_a_loss_that_is_no_number_is_named_by_its_step(steps: int) -> None:
    """Though it is looked at later, the first bad one is told, and the sums go on."""
    sums = MicroBatchSums()
    for step in range(steps):
        sums.add(step, {"loss": torch.tensor(float("nan") if step >= steps // 2 else 1.0), "count": 3})
    bad = sums.find_bad_loss()
    assert bad is not None
    assert bad[0] == steps // 2
    assert sums.find_bad_loss() is None
    assert sums.pop_sums()["count"] == 3 * steps
    assert sums.pop_sums() == {}


def test_sums_of_tensors_are_those_of_numbers() -> None:
    """In float64, as they were when every loss was looked at."""
    values = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 1e4
    late, early = MicroBatchSums(), MicroBatchSums()
    for value in values:
        late.add(0, {"loss": value, "count": torch.tensor(2)})
        early.add(0, {"loss": value.item(), "count": 2})
    assert late.pop_sums() == early.pop_sums()


def test_no_broken_state_is_saved(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """A loss that became NaN between two logs stops the run at the save that comes before the next log."""

    def build(start: Any, arguments: Any, order: Any) -> Any:
        quiet = {**arguments, "logging_steps": 100, "logging_first_step": False}
        trainer = training.build_trainer(start, quiet, order)
        trainer.add_callback(Breaking())
        return trainer

    class Breaking(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 3:
                model.get_input_embeddings().weight.data.fill_(float("nan"))

    one = job(tmp_path, ROWS, model=str(tiny_model("llama")), precision="fp16", max_steps=8, save_every=3)
    given = TrainingInputs(open_checkpoint(one.model), read_training_rows(one)[0], (), None, 0)
    with pytest.raises(DivergedError, match="The loss became nan at step 3"):
        run_finetune_job(one, given, lambda *_: None, "hf", build)
    assert [folder.name for folder in (tmp_path / "out/.trainer").glob("checkpoint-*")] == ["checkpoint-3"]


def batch(packed: bool) -> dict[str, torch.Tensor]:
    """Return rows with padding on the right, or three documents in each."""
    ids = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = IGNORED_LABEL
    if packed:
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]] * 3),
        }
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    labels[1, 9:] = IGNORED_LABEL
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_positions_found_before_give_the_loss_of_those_found_late(
    family: str, packed: bool, tiny_model: Callable[[str], Path]
) -> None:
    """With the mask and without it: the causal order alone keeps padding from what is learned."""
    model: Any = load_model(inspect_folder(tiny_model(family)), "train", "fp16").eval()
    inputs = batch(packed and family == "llama")
    expected = response_loss(model, inputs)[0], response_logprobs(model, inputs)
    inputs[LABELLED_KEY] = find_labelled_positions(inputs["labels"])
    for causal in (False, True):
        if causal and not assume_causal(model, 12):
            continue
        found = response_loss(model, inputs)[0], response_logprobs(model, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_window_that_is_shorter_than_a_row_keeps_its_mask(tiny_model: Callable[[str], Path]) -> None:
    """Causal order alone would let a token see too far back."""
    model: Any = load_model(inspect_folder(tiny_model("llama")), "train", "fp16")
    model.config.sliding_window = 8
    assert not assume_causal(model, 12)
    assert "attention_mask" in attention_inputs(model, batch(packed=False))
    assert assume_causal(model, 7)
    assert model.config._attn_implementation == CAUSAL_ATTENTION_NAME
    assert "attention_mask" not in attention_inputs(model, batch(packed=False))
    assert CAUSAL_ATTENTION_NAME not in json.dumps(model.config.to_dict())


@pytest.mark.parametrize(
    ("changes", "steps", "on_gpu", "chosen"),
    [
        ({}, MIN_STEPS_TO_COMPILE, False, "off"),
        ({}, MIN_STEPS_TO_COMPILE - 1, True, "off"),
        ({"compile": "on"}, 1, False, "on"),
        ({"compile": "off"}, MIN_STEPS_TO_COMPILE, True, "off"),
        ({"ternary_warmup": 5}, MIN_STEPS_TO_COMPILE, True, "off"),
        ({"lora_rank": 2}, MIN_STEPS_TO_COMPILE, True, "off"),
    ],
)
def test_layers_are_compiled_where_it_pays(changes: dict[str, Any], steps: int, on_gpu: bool, chosen: str) -> None:
    one = FinetuneJob.model_validate({"model": "demo", "data": ("x",), "out": "y", **changes})
    assert choose_compile(one, steps, on_gpu) == chosen


def test_a_long_run_on_a_gpu_is_compiled_if_it_can_be() -> None:
    """It takes Triton and a C compiler; a run that goes on chooses again, for this decides no result."""
    from importlib.util import find_spec

    from bitnet_bench.machine.environment import find_compiler

    one = FinetuneJob(model="demo", data=("x",), out="y")
    able = find_spec("triton") is not None and find_compiler() is not None
    assert choose_compile(one, MIN_STEPS_TO_COMPILE, True) == ("on" if able else "off")
    assert one.settings() == one.model_copy(update={"compile": "on"}).settings()


def test_all_decoder_layers_are_compiled_in_place(tiny_model: Callable[[str], Path]) -> None:
    """The names of their parameters stay as they are."""
    model = load_model(inspect_folder(tiny_model("llama")), "train", "ternary")
    names = list(model.state_dict())
    assert compile_layers(model) == model.config.num_hidden_layers
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_learns(tmp_path: Path) -> None:
    """Padded batches of several lengths, accumulation and validation, through the command, in a process of its own."""
    losses = []
    for choice in ("off", "on"):
        one = job(tmp_path, ROWS, model="demo", out=str(tmp_path / choice), compile=choice)
        options = ["--hold-out", "0.2", "--max-steps", "4", "--batch-size", "2", "--gradient-accumulation", "2"]
        command = [sys.executable, "-m", "bitnet_bench", "finetune", "--data", one.data[0], "--out", one.out]
        environment = {name: value for name, value in os.environ.items() if name != "TORCH_COMPILE_DISABLE"}
        subprocess.run([*command, *options, "--lr", "1e-3", "--compile", choice], check=True, env=environment)
        record = FinetuneRecord.model_validate_json((tmp_path / choice / "finetune.json").read_text())
        assert record.job.compile == choice
        losses.append([point["loss"] for point in (*record.history, *record.validation)])
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


def test_compile_with_a_ternary_warmup_is_refused() -> None:
    """Each of its steps would be compiled anew."""
    with pytest.raises(ValueError, match="`ternary_warmup`"):
        FinetuneJob(model="demo", data=("x",), out="y", compile="on", ternary_warmup=3)


def test_the_record_says_whether_layers_were_compiled(tmp_path: Path) -> None:
    record = run_finetune(job(tmp_path, ROWS, model="demo", max_steps=1))
    assert record.job.compile == "off"
    with pytest.raises(BenchError, match="another `max_steps`"):
        run_finetune(record.job.model_copy(update={"compile": "on", "max_steps": 2}))
    assert run_finetune(record.job.model_copy(update={"compile": "on"})) == record
