"""Masters that nothing in their files marks are ternary because the user says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.measurement.candidates import find_cost_target, make_candidates
from bitnet_bench.pipeline.conversion import convert_checkpoint
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob, FinetuneJob
from bitnet_bench.ternary.quantizer import ternarize
from bitnet_bench.training.finetune import make_twin_job


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Give a Llama as a plain float folder: what a revision of masters on the hub looks like (Falcon-E)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=6144, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    folder = tmp_path / "plain"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in Path(open_checkpoint("demo").path).glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def test_float_weights_are_masters_if_the_user_says_it(plain: Path) -> None:
    """The codes are those of the quantizer; the head stays float."""
    found = open_checkpoint(str(plain), read_as="masters")
    assert (found.format, found.read_as, found.is_ternary) == ("masters", "masters", True)
    weights = Weights(found)
    assert len(weights.ternary) == 14
    assert found.ternary_parameters == sum(rows * columns for rows, columns in weights.ternary.values())
    name = "model.layers.0.mlp.up_proj"
    expected, scale = ternarize(weights.tensor(f"{name}.weight"))
    codes, gamma = weights.codes(name)
    assert torch.equal(codes, expected)
    assert gamma == scale


def test_without_a_word_it_is_a_float_model_and_the_error_names_the_option(plain: Path, tmp_path: Path) -> None:
    """A plain float model may be anything."""
    found = open_checkpoint(str(plain))
    assert (found.format, found.read_as) == ("float", None)
    assert "read_as" not in found.model_dump()
    with pytest.raises(BenchError, match="not trained to be ternary") as run:
        load_model(found, "run", "ternary")
    with pytest.raises(BenchError, match="not trained to be ternary") as converted:
        convert_checkpoint(str(plain), "packed", tmp_path / "out")
    assert "`read_as=masters`" in run.value.hint
    assert "`read_as=masters`" in converted.value.hint


def test_the_result_of_a_conversion_needs_no_word(plain: Path, tmp_path: Path) -> None:
    """Its codes are the same, and its config marks it."""
    made, parity = convert_checkpoint(str(plain), "packed", tmp_path / "packed", read_as="masters")
    assert (made.format, made.read_as, parity.layers) == ("packed", None, 14)


@pytest.mark.parametrize(
    ("name", "said"),
    [("demo", "is autobitlinear, which holds no masters"), ("demo-fp16", "says in its config.json that it is a float")],
)
def test_what_holds_no_masters_is_refused(name: str, said: str) -> None:
    """Packed codes have lost them, and a marked float model never had any."""
    with pytest.raises(BenchError, match=said):
        open_checkpoint(name, read_as="masters")


def test_marked_masters_stay_what_they_are(plain: Path, tmp_path: Path) -> None:
    """Saying what the files say already changes nothing, not even the record."""
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"
    }  # fmt: skip
    (plain / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(str(plain), read_as="masters") == open_checkpoint(str(plain))


def test_a_run_says_what_it_read_and_its_answers_are_its_own(plain: Path, tmp_path: Path) -> None:
    """The same folder as masters is another model than as floats; a run folder takes one of them only."""
    tasks = select_tasks(["sample"], ["copa"])
    evaluate(str(plain), tasks, tmp_path / "run", EvaluateJob(limit=2, read_as="masters"))
    found = load_record(tmp_path / "run")
    assert (found.precision, found.checkpoint.read_as) == ("ternary", "masters")
    assert found.checkpoint.weights_id != found.checkpoint.sha256
    with pytest.raises(BenchError, match="holds a run with another checkpoint"):
        evaluate(str(plain), tasks, tmp_path / "run", EvaluateJob(limit=2, precision="fp32", backend="hf"))
    assert find_cost_target(str(tmp_path / "run")).read_as == "masters"


def test_a_measurement_of_the_run_reads_the_weights_as_the_run_did(plain: Path, tmp_path: Path) -> None:
    """Without being told again; a folder that is named itself is told."""
    evaluate(str(plain), select_tasks(["sample"], ["copa"]), tmp_path / "run", EvaluateJob(limit=2, read_as="masters"))
    of_run = make_candidates([str(tmp_path / "run")], (), None)
    of_folder = make_candidates([str(plain)], (), None, read_as="masters")
    as_float = make_candidates([str(plain)], (), None)
    assert [one.precision for one in of_run] == [one.precision for one in of_folder] == ["ternary"]
    assert [one.precision for one in as_float] == ["fp16", "bf16"]


def test_the_float_twin_of_a_training_reads_floats() -> None:
    """Masters are floats, which the twin trains as they are."""
    job = FinetuneJob(data=("rows.jsonl",), out="out", model="ORG/NAME@masters", read_as="masters")
    assert make_twin_job(job, None).read_as is None
