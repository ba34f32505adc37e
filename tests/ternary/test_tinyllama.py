"""tinyllama-bitnet folders against what github.com/pranavjad/tinyllama-bitnet computes in utils.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bitnet_bench.backends.reference import transformers_logits
from bitnet_bench.backends.ternary import TernaryBackend
from bitnet_bench.checkpoints.converting import convert_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.layers import inspect_checkpoint
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import sort_answers
from bitnet_bench.ternary import kernel

LAYERS = 2
DROPPED = {1: ("input_layernorm",), 2: ("input_layernorm", "post_attention_layernorm")}
"""The norms that each generation of the training code takes out of a decoder layer."""


def nothing(done: int, total: int, note: str = "") -> None:
    """Show no progress."""


class Oracle(nn.Linear):
    """BitLinear as it is defined there: normalize, quantize activations to int8, quantize weights, multiply."""

    norm_weight: Tensor | float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] for x [..., K]."""
        x = self.norm_weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        scale = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        x = (x * scale).round().clamp(-128, 127) / scale
        inverse = 1.0 / self.weight.abs().mean().clamp(min=1e-5)
        return F.linear(x, (self.weight * inverse).round().clamp(-1, 1) / inverse)


def make(folder: Path, generation: int) -> Any:
    """Write a checkpoint as its training code saves one and return the model that was trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(generation)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS}
    config = LlamaConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1, rms_norm_eps=1e-5
    )
    model = LlamaForCausalLM(config)
    state = {}
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for child in part.children():
                if isinstance(child, nn.Linear):
                    child.__class__ = Oracle
                    child.norm_weight = torch.rand(child.in_features) + 0.5 if generation == 2 else 1.0
        for name in DROPPED[generation]:
            setattr(layer, name, nn.Identity())
    for name, module in model.named_modules():
        if isinstance(module, Oracle) and generation == 2:
            state[f"{name}.RMSNorm.weight"] = module.norm_weight
    model.save_pretrained(folder)
    state |= model.state_dict()
    save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return model.eval()


@pytest.mark.parametrize(("generation", "norm"), [(1, "plain"), (2, "learned")])
def test_it_is_recognised_by_the_norms_that_are_gone(generation: int, norm: str, tmp_path: Path) -> None:
    """A plain Llama config whose layers have no input norm is tinyllama-bitnet, with a norm in each linear layer."""
    make(tmp_path, generation)
    found = inspect_folder(tmp_path)
    assert (found.format, found.inner_norm, found.inner_norm_eps) == ("tinyllama", norm, 1e-6)
    assert found.ternary_parameters == LAYERS * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96)
    assert found.is_ternary


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("form", ["tinyllama", "packed"])
def test_it_computes_what_its_training_code_computes(generation: int, form: str, tmp_path: Path, logits: Any) -> None:
    """As stored and as packed, the logits are those of the published definition, up to steps of int8."""
    expected = logits(make(tmp_path / "tinyllama", generation))
    if form == "packed":
        convert_checkpoint(
            inspect_folder(tmp_path / "tinyllama"), "packed", tmp_path / "packed", nothing, logits=transformers_logits
        )
    found = inspect_folder(tmp_path / form)
    got = logits(load_model(found, "run", "ternary"))
    assert found.inner_norm_eps == 1e-6
    assert float((got - expected).abs().max()) < 0.1
    assert float((got - expected).abs().mean()) < 5e-3


@pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.usefixtures("on_the_cpu")
@torch.inference_mode()
def test_the_ternary_backend_computes_it_too(generation: int, tmp_path: Path, tokenizer: Any) -> None:
    """On the engine or, for norms with weights, on modules with the kernel: the same log-probabilities."""
    model = make(tmp_path, generation)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.randint(3, 300, (17,), generator=torch.Generator().manual_seed(3))
    expected = model(ids[None]).logits[0].log_softmax(-1)
    requests = [(ids[:i].tolist(), [int(ids[i])]) for i in range(1, 17)]
    with TernaryBackend().open(inspect_folder(tmp_path), "ternary") as session:
        got = [ll for ll, _ in sort_answers(session.loglikelihood(requests))]
    wanted = [float(expected[i - 1, ids[i]]) for i in range(1, 17)]
    assert got == pytest.approx(wanted, abs=0.1)
    assert sum(abs(a - b) for a, b in zip(got, wanted, strict=True)) / 16 < 0.02


@pytest.mark.parametrize("generation", [1, 2])
def test_it_comes_back_from_packed(generation: int, tmp_path: Path) -> None:
    """Packed and written as tinyllama again it is the same model; its values are three now, and it says why."""
    make(tmp_path / "first", generation)
    convert_checkpoint(inspect_folder(tmp_path / "first"), "packed", tmp_path / "packed", nothing, logits=None)
    convert_checkpoint(
        inspect_folder(tmp_path / "packed"), "tinyllama", tmp_path / "again", nothing, logits=transformers_logits
    )
    assert inspect_folder(tmp_path / "again").format == "tinyllama"


@pytest.mark.parametrize("form", ["masters", "bitlinear", "autobitlinear", "baked"])
def test_formats_that_cannot_say_that_a_norm_is_gone_are_refused(form: Any, tmp_path: Path) -> None:
    """transformers would put an input norm into every layer."""
    make(tmp_path / "first", 1)
    with pytest.raises(BenchError, match=f"has no input_layernorm; {form} cannot say so"):
        convert_checkpoint(inspect_folder(tmp_path / "first"), form, tmp_path / "out", nothing, logits=None)


def test_others_do_not_become_tinyllama(stored_as: Callable[[str, str], Path], tmp_path: Path) -> None:
    """A Llama that has its norms stays one."""
    with pytest.raises(BenchError, match="does not drop its layers' norms"):
        convert_checkpoint(
            inspect_folder(stored_as("llama", "masters")), "tinyllama", tmp_path / "out", nothing, logits=None
        )


def test_some_norms_gone_is_damage(tmp_path: Path, edit_tensors: Any) -> None:
    """One layer without its norm is no format: the file is incomplete."""
    make(tmp_path, 1)
    edit_tensors(tmp_path, lambda tensors: tensors.update({"model.layers.1.input_layernorm.weight": torch.ones(64)}))
    with pytest.raises(BenchError, match=r"model\.layers\.0 has no input_layernorm\.weight and other layers have one"):
        inspect_folder(tmp_path)


def test_quantized_weights_without_their_scale_are_refused(tmp_path: Path, edit_tensors: Any) -> None:
    """The training code can save codes and lose the scales: quantizing such weights would make up a scale."""
    make(tmp_path, 1)

    def quantize(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if "proj" in name:
                tensors[name] = tensor.sign()

    edit_tensors(tmp_path, quantize)
    with pytest.raises(BenchError, match="without their scales"):
        inspect_folder(tmp_path)


def test_it_is_not_run_or_trained_without_its_norms(tmp_path: Path) -> None:
    """Plain layers would leave the norms out; training refuses, and inspect says so beforehand."""
    make(tmp_path, 1)
    found = inspect_folder(tmp_path)
    with pytest.raises(BenchError, match="no bf16 weights"):
        load_model(found, "run", "bf16")
    with pytest.raises(BenchError, match="cannot be trained: it normalizes inside"):
        load_model(found, "train", "ternary")
    looked = inspect_checkpoint(found, nothing)
    assert not looked.trainable
    assert "normalizes inside" in str(looked.untrainable_because)


@pytest.mark.parametrize("form", ["masters", "bitlinear", "autobitlinear"])
def test_transformers_own_inner_norms_are_carried(form: Any, tmp_path: Path, edit_config: Any, logits: Any) -> None:
    """`use_rms_norm` of transformers: learned norms in every ternary layer, and the layers keep their own."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.1))
    source = tmp_path / "source"
    model.save_pretrained(source)
    quant = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    edit_config(source, quantization_config=quant | {"use_rms_norm": True, "rms_norm_eps": 1e-4})
    state = dict(model.state_dict())
    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear):
            state[f"model.{name}.rms_norm.weight"] = torch.rand(module.in_features) + 0.5
    save_file({name: t.contiguous() for name, t in state.items()}, source / "model.safetensors", {"format": "pt"})
    found, folder = inspect_folder(source), source
    assert (found.format, found.inner_norm, found.inner_norm_eps) == ("masters", "learned", 1e-4)
    if form != "masters":
        folder = tmp_path / form
        convert_checkpoint(found, form, folder, nothing, logits=transformers_logits)
    theirs = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    ours = logits(load_model(inspect_folder(folder), "run", "ternary"))
    assert float((theirs - ours).abs().max()) < 0.1
    assert float((theirs - ours).abs().mean()) < 5e-3
    convert_checkpoint(inspect_folder(folder), "packed", tmp_path / "packed", nothing, logits=transformers_logits)
    assert "rms_norm_eps" in json.dumps(json.loads((folder / "config.json").read_text())["quantization_config"])
