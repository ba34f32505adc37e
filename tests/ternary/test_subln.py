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


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_it_computes_what_its_source_would_with_norms_before_its_output_projections(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    """Biases, activation, tied or untied head and rotation included."""
    source: Any = load_model(inspect_folder(tiny_model(family)), "train", "fp32").eval()
    made: Any = add_subln(source)
    ids = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = made(ids).logits
        assert not torch.allclose(found, source(ids).logits, atol=1e-2)
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
    [("bitnet", "norms of SubLN already"), ("qwen3", "only Llama, Mistral and Qwen2"), ("gpt2", "only Llama")],
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
