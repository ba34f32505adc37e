"""Ternary checkpoints of custom code are read by the names that they have, and their code is not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitNetConfig, BitNetForCausalLM, Qwen3Config, Qwen3ForCausalLM

from bitnet_bench.backends.ternary.inference import find_obstacle
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.pipeline.conversion import convert_checkpoint
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize

SIZES = {
    "vocab_size": 6144, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
IDS = torch.tensor([[5, 77, 1024, 3, 600]])


def randomize_norms(model: nn.Module) -> None:
    """Give every norm a weight that shows whether it is used, and where."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint folder with the embedded tokenizer."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for file in Path(open_checkpoint("demo").path).glob("tokenizer*"):
        shutil.copy(file, folder)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Give BitNet masters as transformers names them."""
    torch.manual_seed(1)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = BitNetConfig(**SIZES, hidden_act="silu", rope_parameters=rope, tie_word_embeddings=True, rms_norm_eps=1e-5)
    model = BitNetForCausalLM(config)
    randomize_norms(model)
    model.save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def theirs(ours: Path, tmp_path: Path) -> Path:
    """Give the same model as 1bitLLM/bitnet_b1_58-large names it, with code that must not run."""
    config = {
        **SIZES, "architectures": ["BitnetForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "auto_map": {"AutoConfig": "configuration_bitnet.C", "AutoModelForCausalLM": "modeling_bitnet.M"},
        "input_bits": 8, "weight_bits": 1, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "torch_dtype": "float16", "pretraining_tp": 1,
    }  # fmt: skip
    names = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    tensors = load_file(ours / "model.safetensors")
    for today, former in names.items():
        tensors = {name.replace(today, former): tensor for name, tensor in tensors.items()}
    save(tmp_path / "theirs", config, tensors)
    for file in ("configuration_bitnet.py", "modeling_bitnet.py"):
        (tmp_path / "theirs" / file).write_text("raise SystemExit('remote code was run')\n")
    return tmp_path / "theirs"


def test_1bitllm_is_a_bitnet_of_masters(theirs: Path, ours: Path) -> None:
    """Its norms are those of SubLN, and its activation is the one that its config names."""
    found = open_checkpoint(str(theirs))
    assert (found.format, found.architecture) == ("masters", "BitNetForCausalLM")
    model = load_model(found, "run", "ternary")
    expected = load_model(open_checkpoint(str(ours)), "run", "ternary")
    assert (model.config.hidden_act, model.config.rope_parameters["rope_theta"]) == ("silu", 10000.0)
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, expected(IDS).logits)


def test_1bitllm_runs_on_the_ternary_engine_and_converts(theirs: Path, tmp_path: Path) -> None:
    """The result names nothing that is gone: neither code nor the former architecture."""
    assert find_obstacle(open_checkpoint(str(theirs))) is None
    tasks = select_tasks(["sample"], ["copa"])
    evaluate(str(theirs), tasks, tmp_path / "run", EvaluateJob(limit=4, backend="ternary"))
    convert_checkpoint(str(theirs), "packed", tmp_path / "packed")
    config = json.loads((tmp_path / "packed/config.json").read_text())
    assert config["model_type"] == "bitnet"
    assert "auto_map" not in config
    assert load_record(tmp_path / "run").scores


def test_a_lacking_norm_of_1bitllm_is_named(theirs: Path) -> None:
    """By its name in transformers, in one sentence."""
    tensors = load_file(theirs / "model.safetensors")
    del tensors["model.layers.1.mlp.ffn_layernorm.weight"]
    save_file(tensors, theirs / "model.safetensors")
    with pytest.raises(BenchError, match=r"model\.layers\.1\.mlp\.ffn_sub_norm\.weight is missing"):
        load_model(open_checkpoint(str(theirs)), "run", "ternary")


class NormedLinear(nn.Module):
    """What a projection of BitNet-embedding computes: a plain RMS norm, then int8 activations and ternary weights."""

    def __init__(self, layer: nn.Linear, norm: Tensor) -> None:
        super().__init__()
        self.codes, self.gamma = ternarize(layer.weight.detach())
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        q, step = quantize_activations(nn.functional.rms_norm(x, self.norm.shape, self.norm, 1e-6))
        return (q.float() @ self.codes.float().T) * (step * self.gamma)


@pytest.fixture
def normed(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Give unmarked masters with a norm in each projection, saved without their language model, and what they compute.

    The prefix `model.` is left out, as in microsoft/bitnet-embedding-0.6b.
    """
    torch.manual_seed(2)
    config = Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    model = Qwen3ForCausalLM(config)
    randomize_norms(model)
    tensors = {name.removeprefix("model."): t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    for name, layer in list(model.model.named_modules()):
        if name.endswith("_proj"):
            tensors[f"{name}.norm.weight"] = torch.rand(layer.in_features) + 0.5
            model.model.set_submodule(name, NormedLinear(layer, tensors[f"{name}.norm.weight"]))
    save(tmp_path / "normed", {**config.to_dict(), "architectures": ["Qwen3Model"]}, tensors)
    return tmp_path / "normed", model.eval()


def test_a_norm_in_each_projection_is_part_of_the_model(normed: tuple[Path, nn.Module]) -> None:
    """Nothing in the config says that the weights are masters; the norms do."""
    folder, expected = normed
    found = open_checkpoint(str(folder))
    assert (found.format, found.inner_norm, found.inner_norm_eps) == ("masters", "learned", 1e-6)
    with torch.inference_mode():
        made = load_model(found, "run", "ternary")(IDS).logits
        torch.testing.assert_close(made, expected(IDS).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["packed", "autobitlinear"])
def test_a_norm_in_each_projection_is_kept(normed: tuple[Path, nn.Module], tmp_path: Path, form: Any) -> None:
    """In another format, where it has the name that transformers gives it."""
    made, _ = convert_checkpoint(str(normed[0]), form, tmp_path / form)
    assert (made.format, made.inner_norm) == (form, "learned")
    assert "model.layers.0.self_attn.q_proj.rms_norm.weight" in load_file(tmp_path / form / "model.safetensors")


def test_a_lacking_norm_of_a_projection_is_named(normed: tuple[Path, nn.Module]) -> None:
    """And not taken for ones."""
    tensors = load_file(normed[0] / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.norm.weight"]
    save_file(tensors, normed[0] / "model.safetensors")
    with pytest.raises(BenchError, match=r"model\.layers\.1\.mlp\.up_proj has no rms_norm"):
        open_checkpoint(str(normed[0]))
