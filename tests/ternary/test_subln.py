"""SubLN: a pretrained decoder with two more norms, as a BitNet that everything opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.ternary.subln import add_subln
from bitnet_bench.training.finetune import finetune


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_it_computes_what_its_source_would_with_norms_before_its_output_projections(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    """Biases, activation, tied or untied head and rotation included."""
    source: Any = load_model(inspect_folder(tiny_model(family)), "train", "fp32").eval()
    made: Any = add_subln(load_model(inspect_folder(tiny_model(family)), "train", "fp32").eval())
    ids = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = made(ids).logits
        # Gemma normalizes what a projection gives, too, so that a scale of each token before it makes no difference
        assert torch.allclose(found, source(ids).logits, atol=1e-2) == (family == "gemma3_text")
        for layer in source.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.register_forward_pre_hook(
                    lambda _, inputs: torch.nn.functional.rms_norm(
                        inputs[0], inputs[0].shape[-1:], eps=source.config.rms_norm_eps
                    )
                )
        torch.testing.assert_close(found, source(ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "said"),
    [("bitnet", "norms of SubLN already"), ("gpt2", "only Llama, Mistral, Qwen2, Qwen3")],
)
def test_a_model_that_does_not_fit_is_refused(family: str, said: str, tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(BenchError, match=said):
        add_subln(load_model(inspect_folder(tiny_model(family)), "train", "fp32"))


def test_a_window_or_ffn_biases_are_refused(tiny_model: Callable[[str], Path]) -> None:
    """What BitNet's architecture cannot hold would otherwise be lost in silence."""
    model: Any = load_model(inspect_folder(tiny_model("llama")), "train", "fp32")
    model.config.mlp_bias = True
    with pytest.raises(BenchError, match="its FFN has biases"):
        add_subln(model)
    slides: Any = load_model(inspect_folder(tiny_model("mistral")), "train", "fp32")
    slides.config.sliding_window = 64
    with pytest.raises(BenchError, match="slides over a window"):
        add_subln(slides)


@pytest.mark.parametrize("precision", ["ternary", "fp16"])
def test_a_llama_becomes_a_bitnet_that_transformers_and_the_engine_open(
    precision: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "안녕 오늘 한국 서울 네 네 네"}, ensure_ascii=False) + "\n", encoding="utf-8")
    job = FinetuneJob.model_validate(
        {
            "model": str(tiny_model("llama")), "data": (str(rows),), "out": str(tmp_path / "out"), "epochs": 3,
            "method": "pretrain", "precision": precision, "subln": True, "max_length": 64, "compute": "fp32",
        }
    )  # fmt: skip
    record = finetune(job)
    assert record.result.architecture == "BitNetForCausalLM"
    assert json.loads((tmp_path / "out/config.json").read_text())["hidden_act"] == "silu"
    from transformers import AutoModelForCausalLM

    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(opened).__name__ == "BitNetForCausalLM"
    if precision == "ternary":
        from bitnet_bench.backends.ternary import TernaryBackend

        with TernaryBackend().open(record.result, "ternary") as session:
            ((answer,),) = session.loglikelihood([([0, 5], [7])])
        assert answer[1][0] < 0


def train_with_subln(folder: Path, model: Path) -> Any:
    """Return the record of a family without the norms of SubLN, trained with them; its masters are kept too."""
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": "안녕 오늘 한국 서울 네 네 네"}, ensure_ascii=False) + "\n", encoding="utf-8")
    job = FinetuneJob.model_validate(
        {
            "model": str(model), "data": (str(rows),), "out": str(folder / "out"), "epochs": 3, "method": "pretrain",
            "subln": True, "max_length": 64, "compute": "fp32", "keep_masters": True, "learning_rate": 0.05,
        }
    )  # fmt: skip
    return finetune(job)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_other_families_keep_the_two_norms_wherever_they_run(
    family: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """The norms have learned, the packed codes equal those of the masters, and both backends score alike."""
    from bitnet_bench.backends.hf import HFBackend
    from bitnet_bench.backends.ternary import TernaryBackend

    record = train_with_subln(tmp_path, tiny_model(family))
    assert record.result.format == "packed"
    masters: Any = load_model(inspect_folder(tmp_path / "out/masters"), "train", "ternary").eval()
    run: Any = load_model(record.result, "run", "ternary")
    norms = [tensor for name, tensor in masters.named_parameters() if "sub_norm" in name]
    assert len(norms) == 2 * masters.config.num_hidden_layers
    assert all(not torch.equal(norm, torch.ones_like(norm)) for norm in norms)
    ids = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(run(ids).logits, masters(ids).logits, atol=2e-2, rtol=1e-2)
    answers = []
    for backend in (TernaryBackend(), HFBackend()):
        with backend.open(record.result, "ternary") as session:
            ((answer,),) = session.loglikelihood([([0, 5, 9], [7, 8])])
            answers.append(answer)
    assert answers[0][1][0] == pytest.approx(answers[1][1][0], abs=2e-2)


def test_transformers_does_not_open_codes_whose_norms_it_would_leave_out(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    train_with_subln(tmp_path, tiny_model("qwen3"))
    with pytest.raises(RuntimeError, match="mismatched"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_such_a_model_converts_to_formats_that_say_so_only(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    from bitnet_bench.checkpoints.converting import convert_checkpoint
    from bitnet_bench.protocols import no_progress

    record = train_with_subln(tmp_path, tiny_model("qwen3"))
    convert_checkpoint(record.result, "masters", tmp_path / "again", no_progress, logits=None)
    assert inspect_folder(tmp_path / "again").format == "masters"
    for form in ("autobitlinear", "bitlinear", "baked"):
        with pytest.raises(BenchError, match="norms of SubLN"):
            convert_checkpoint(record.result, form, tmp_path / form, no_progress, logits=None)  # type: ignore[arg-type]


def test_a_float_model_of_another_family_gets_no_norms(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "안녕"}\n', encoding="utf-8")
    settings = {"model": str(tiny_model("qwen3")), "data": (str(rows),), "out": str(tmp_path / "out"), "subln": True}
    with pytest.raises(BenchError, match="`subln` in fp16"):
        finetune(FinetuneJob.model_validate({**settings, "precision": "fp16", "method": "pretrain"}))
