"""Training with a scale per group: a base keeps its codes and scales until a step changes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bitnet_bench as bb
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.group_linear import GroupBitLinear, GroupEmbedding, find_group_modules
from bitnet_bench.ternary.groups import quantize_activation_groups, scale_groups, ternarize_groups

MODELS = [("qwen3", 128), ("llama", 64)]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Give a file of a few training rows."""
    file = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "한국의 수도는?", "response": "서울이에요."}, ensure_ascii=False)
    file.write_text(f"{row}\n" * 4, encoding="utf-8")
    return str(file)


def finetune(model: Path, rows: str, out: Path, **settings: Any) -> Any:
    job = {"max_steps": 1, "batch_size": 2, "learning_rate": 1e-30, "track": (), "max_length": 64}
    return bb.finetune(bb.FinetuneJob(model=str(model), data=(rows,), out=str(out), **{**job, **settings}))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("architecture", "group"), MODELS)
def test_a_step_at_learning_rate_0_changes_no_code_and_no_scale(
    group_model: Any, tmp_path: Path, architecture: str, group: int
) -> None:
    """Forward, backward and step on masters, and saved: every tensor of the folder has the bits it had."""
    source = inspect_folder(group_model(architecture, group))
    model = load_model(source, "train", "ternary")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    ids = torch.randint(3, 300, (2, 9))
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    optimizer.step()
    save_checkpoint(model, tmp_path / "out", "grouped", source.dtype)
    ours, theirs = tensors_of(Path(source.path)), tensors_of(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    again = inspect_folder(tmp_path / "out")
    assert (again.format, again.group_size, again.ternary_tables) == ("grouped", group, source.ternary_tables)


@pytest.mark.parametrize(("architecture", "group"), MODELS)
@pytest.mark.usefixtures("on_the_cpu")
def test_fine_tuning_a_model_with_groups_keeps_them(
    group_model: Any, rows: str, tmp_path: Path, architecture: str, group: int
) -> None:
    """Without naming groups: at no learning rate nothing changes, with one codes do, and groups stay groups."""
    base = group_model(architecture, group)
    record = finetune(base, rows, tmp_path / "still", keep_masters=True)
    assert (record.result.format, record.result.group_size) == ("grouped", group)
    ours, theirs = tensors_of(base), tensors_of(tmp_path / "still")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items() if tensor.dim() == 2)
    masters = inspect_folder(tmp_path / "still" / "masters")
    assert (masters.format, masters.group_size, masters.dtype) == ("masters", group, "float16")
    moved = finetune(base, rows, tmp_path / "moved", learning_rate=1e-2).result
    assert (moved.format, moved.group_size, moved.quantizes_activations) == ("grouped", group, False)
    assert not torch.equal(
        tensors_of(tmp_path / "moved")["model.embed_tokens.weight"], ours["model.embed_tokens.weight"]
    )


@pytest.mark.usefixtures("on_the_cpu")
def test_a_float_model_gets_groups_where_they_are_asked_for(group_model: Any, rows: str, tmp_path: Path) -> None:
    """The twin of a model with groups is its dense weights; trained with groups of 64, layers are ternary again."""
    twin = finetune(group_model("llama", 128), rows, tmp_path / "twin", precision="fp16").result
    assert (twin.format, twin.group_size) == ("float", None)
    ours = tensors_of(group_model("llama", 128))
    assert all(torch.equal(tensor, tensors_of(tmp_path / "twin")[name]) for name, tensor in ours.items())
    made = finetune(tmp_path / "twin", rows, tmp_path / "groups", group_size=64, activations="int8").result
    assert (made.format, made.group_size, made.quantizes_activations) == ("grouped", 64, True)
    assert made.ternary_tables == (
        "model.embed_tokens",
        "lm_head",
    )  # their values are ternary, though nothing made them so


@pytest.mark.usefixtures("on_the_cpu")
def test_groups_that_a_base_does_not_have_are_refused(group_model: Any, rows: str, tmp_path: Path) -> None:
    """Wider groups than the base's, groups for a base with one scale per layer, and sizes that no format has."""
    with pytest.raises(BenchError, match="groups of 64, and groups of 128 would not keep its scales"):
        finetune(group_model("qwen3", 64), rows, tmp_path / "a", group_size=128)
    with pytest.raises(BenchError, match="one scale per layer, which groups of 64 would not keep"):
        finetune(Path("demo"), rows, tmp_path / "b", group_size=64)
    with pytest.raises(BenchError, match="must be 64 or 128"):
        finetune(group_model("qwen3", 64), rows, tmp_path / "c", group_size=32)


def test_the_forward_multiplies_by_the_ternary_weights(group_model: Any) -> None:
    """Masters that are not ternary: layer, embedding and tied head see t * s, and gradients go to the masters."""
    model = load_model(inspect_folder(group_model("qwen3", 128)), "train", "ternary")
    layers = find_group_modules(model)
    assert {type(module) for module in layers.values()} == {GroupBitLinear, GroupEmbedding}
    layer, head = layers["model.layers.0.mlp.up_proj"], layers["lm_head"]
    table = layers["model.embed_tokens"]
    assert head.weight is table.weight
    assert isinstance(layer, GroupBitLinear)
    with torch.no_grad():
        layer.weight.add_(0.01 * torch.randn_like(layer.weight))
    x = torch.randn(5, 128, requires_grad=True)
    dense = scale_groups(*ternarize_groups(layer.weight, 128))
    assert torch.equal(layer(x), nn.functional.linear(x, dense))
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad, x.sum(0).expand(256, 128).detach())
    assert torch.equal(table(torch.tensor([7])), scale_groups(*ternarize_groups(table.weight, 128))[7:8])


def test_rounded_inputs_are_those_of_the_deployed_layer(group_model: Any) -> None:
    """int8 by group where the job says so, and never in the head."""
    model = load_model(inspect_folder(group_model("qwen3", 128)), "train", "ternary")
    layer = find_group_modules(model)["model.layers.0.mlp.up_proj"]
    assert isinstance(layer, GroupBitLinear)
    layer.rounds_inputs = True
    x = torch.randn(5, 128)
    q, steps = quantize_activation_groups(x, 128)
    assert torch.equal(layer(x), nn.functional.linear(q * steps, layer.dense_weight()))
