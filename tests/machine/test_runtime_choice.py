"""`auto` runs ternary weights on their engine where it fits, and says why where it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.machine.fast_dtype import fastest_dtype
from bitnet_bench.machine.runtime_choice import RuntimeChoice, choose_backend, default_precision, find_own_precision
from bitnet_bench.measurement.candidates import make_candidates
from bitnet_bench.pipeline.recipe import read_recipe
from bitnet_bench.pipeline.steps import plan_steps
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.ternary import kernel

needs_kernel = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built or is turned off")


@needs_kernel
def test_a_ternary_checkpoint_is_scored_on_the_engine_and_the_record_says_why(tmp_path: Path) -> None:
    """The default is the fast backend: a first report on `hf` said that ternary is slower than FP16."""
    record = evaluate("demo", select_tasks(["sample"], ["copa"]), tmp_path, EvaluateJob(limit=2))
    assert (record.backend, record.precision) == ("ternary", "ternary")
    assert record.backend_reason == "the ternary engine fits this checkpoint"


@needs_kernel
def test_a_folder_of_another_backend_names_both_and_how_to_continue(tmp_path: Path) -> None:
    """A run of the time when `hf` was the default is continued by naming it."""
    tasks = select_tasks(["sample"], ["copa"])
    evaluate("demo", tasks, tmp_path, EvaluateJob(limit=2, backend="hf"))
    with pytest.raises(BenchError, match=r"another backend \(hf, not ternary\)") as error:
        evaluate("demo", tasks, tmp_path, EvaluateJob(limit=2))
    assert error.value.hint.startswith("With `backend=hf` it is continued.")


def test_a_recipe_with_an_unknown_backend_fails_before_anything_is_run(tmp_path: Path) -> None:
    """A misspelt name at the end of a recipe must not cost the training before it."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "models: {plain: demo}\nevaluate: {suites: [sample]}\nmeasure: {backend: nosuch}\n", encoding="utf-8"
    )
    with pytest.raises(UsageError, match="There is no backend 'nosuch'"):
        plan_steps(read_recipe(file), tmp_path / "out")


def test_a_float_checkpoint_runs_on_transformers_in_the_fastest_dtype() -> None:
    """A twin in emulated bfloat16, or in float32 where bfloat16 is native, would flatter ternary."""
    checkpoint = open_checkpoint("demo-fp16")
    assert default_precision(checkpoint) == fastest_dtype()
    assert choose_backend("auto", checkpoint, "bf16") == RuntimeChoice("hf", "bf16 weights run on transformers")


@needs_kernel
def test_an_architecture_that_the_engine_lacks_runs_on_transformers_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the log as well as in the choice."""
    folder = shutil.copytree(open_checkpoint("demo").path, tmp_path / "gelu")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    backend, reason = choose_backend("auto", open_checkpoint(str(folder)), "ternary")
    assert backend == "hf"
    assert reason is not None
    assert "activation gelu" in reason
    assert "activation gelu" in caplog.text


def test_without_a_kernel_ternary_runs_on_transformers_and_says_how_to_get_it_back() -> None:
    """A machine without the kernel gets its scores, later, and is told how to get them sooner."""
    code = (
        "from bitnet_bench.checkpoints.locate import open_checkpoint\n"
        "from bitnet_bench.machine.runtime_choice import choose_backend\n"
        "print(*choose_backend('auto', open_checkpoint('demo'), 'ternary'))\n"
    )
    environment = os.environ | {kernel.KERNEL_VARIABLE: "off", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hf the CPU kernel is turned off (unset {kernel.KERNEL_VARIABLE})"


def test_a_named_backend_is_taken_as_it_is_and_an_unknown_one_refused() -> None:
    """What a user names needs no reason; a misspelt name fails before anything is read."""
    checkpoint = open_checkpoint("demo")
    assert choose_backend("hf", checkpoint, "ternary") == RuntimeChoice("hf", None)
    with pytest.raises(UsageError, match="There is no backend 'hg'"):
        choose_backend("hg", checkpoint, "ternary")


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "fp16"), ("Q4_K", "q4_k"), ("Q1_0", "fp16")])
def test_a_gguf_file_runs_as_it_is_or_as_fp16_where_no_precision_is_its_type(dtype: str, precision: str) -> None:
    """`measure` asks the same as `evaluate`: it handed on a type that is no precision."""
    file = open_checkpoint("demo-fp16").model_copy(update={"gguf_types": {dtype: 1}, "dtype": dtype})
    assert find_own_precision(file, "llamacpp") == precision
    assert default_precision(file, "llamacpp") == precision
    chosen = [one.precision for one in make_candidates(["demo-fp16"], [], None, backends=["llamacpp"])]
    assert chosen == ["fp16", "bf16"]
    assert find_own_precision(file, "auto") is None
    assert find_own_precision(file, "hf") is None
