"""What `finetune` can do beside its defaults: each option against what it says it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bitnet_bench.errors import BenchError
from bitnet_bench.machine import fast_dtype, gpu
from bitnet_bench.machine.fast_dtype import fastest_dtype, fastest_training_dtype
from bitnet_bench.machine.gpu import CardState
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.ternary.linear import BitLinear, make_trainable_ternary
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize
from bitnet_bench.training import starting_model
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.inputs import split_validation_rows
from bitnet_bench.training.lora import add_adapters, merge_adapters
from bitnet_bench.training.schedule import forget_codes, keep_codes, set_ternary_share

ROWS = [{"prompt": f"{i}에 하나를 더하면?", "response": f"{i + 1}이 됩니다."} for i in range(24)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give a JSONL file of 24 rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return file


def job(rows: Path, out: Path, **settings: Any) -> FinetuneJob:
    defaults = {"model": "demo", "data": (str(rows),), "out": str(out), "max_steps": 6, "batch_size": 4, "epochs": 9}
    return FinetuneJob.model_validate({**defaults, "learning_rate": 2e-3, **settings})


def test_a_layer_that_is_half_ternary_is_half_way_between() -> None:
    """With lambda 0 it is a plain layer, with 1 a ternary one, and gradients are straight through in between."""
    torch.manual_seed(0)
    plain = nn.Linear(16, 8)
    layer: Any = nn.Linear(16, 8)
    layer.load_state_dict(plain.state_dict())
    model = make_trainable_ternary(nn.Sequential(layer))
    x = torch.randn(3, 16)
    set_ternary_share(model, 0, 10)
    torch.testing.assert_close(layer(x), plain(x))
    set_ternary_share(model, 5, 10)
    (q, step), (codes, gamma) = quantize_activations(x), ternarize(layer.weight)
    mixed_x, mixed_w = (x + q * step) / 2, (layer.weight + codes * gamma) / 2
    torch.testing.assert_close(layer(x), nn.functional.linear(mixed_x, mixed_w, layer.bias))
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.weight)
    torch.testing.assert_close(gradient, mixed_x.sum(0).expand(8, 16).contiguous())
    set_ternary_share(model, 10, 10)
    assert layer.ternary_share == 1.0


def test_adapters_are_inside_the_quantizer_and_merge_without_changing_a_code() -> None:
    """Only A and B learn; the forward is that of the merged weight, ternarized, to the bit."""
    torch.manual_seed(0)
    model = make_trainable_ternary(nn.Sequential(nn.Linear(16, 8, bias=False), nn.Linear(8, 4, bias=False)))
    before = [layer.weight.detach().clone() for layer in model]
    x = torch.randn(5, 16)
    expected = model(x).detach()
    add_adapters(model, rank=2, alpha=4, seed=0)
    assert torch.equal(model(x), expected)  # B is 0 in the beginning
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name.rpartition(".")[2] for name in learning] == ["a", "b"] * 2
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    trained = model(x).detach()
    merge_adapters(model)
    assert torch.equal(model(x), trained)
    for layer, old in zip(model, before, strict=True):
        assert isinstance(layer, BitLinear)
        assert torch.linalg.matrix_rank(layer.weight.detach() - old) <= 2
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "1.weight"]


def test_a_run_with_adapters_changes_ternary_layers_only(rows: Path, tmp_path: Path) -> None:
    """And is a checkpoint like any other; the same from both precisions."""
    record = finetune(job(rows, tmp_path / "out", lora_rank=4, learning_rate=1e-2, max_steps=12))
    before = load_file(Path(record.base.path) / "model.safetensors")
    after = load_file(tmp_path / "out/model.safetensors")
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"weight", "weight_scale"}
    assert "model.layers.0.self_attn.q_proj.weight" in {n for n in before if not torch.equal(before[n], after[n])}
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert record.history[-1]["loss"] < record.history[0]["loss"]
    twin = finetune(job(rows, tmp_path / "fp16", lora_rank=4, model="demo-fp16", precision="fp16"))
    assert twin.result.format == "float"


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("embeddings", ["model.embed_tokens.weight"]),
        ("norms", ["model.norm.weight", "model.layers.0.input_layernorm.weight"]),
    ],
)
def test_a_frozen_part_stays_as_it_was(rows: Path, tmp_path: Path, part: str, names: list[str]) -> None:
    """To the bit, while the rest learns."""
    record = finetune(job(rows, tmp_path / "out", freeze=(part,)))
    before, after = (
        load_file(Path(record.base.path) / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_ternary_can_have_a_rate_of_its_own(rows: Path, tmp_path: Path) -> None:
    """With next to none, embeddings move next to not at all, and codes do."""
    record = finetune(job(rows, tmp_path / "out", float_learning_rate=1e-12, learning_rate=1e-2))
    before, after = (
        load_file(Path(record.base.path) / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert sum(point["flips"] for point in record.history) > 0


def test_a_summed_loss_has_larger_gradients_and_logs_the_same_loss(rows: Path, tmp_path: Path) -> None:
    """The gradient is that of the mean times the tokens of the step."""
    first = [
        finetune(
            job(rows, tmp_path / name, loss_reduction=name, max_steps=1, model="demo-fp16", precision="fp16")
        ).history[0]
        for name in ("mean", "sum")
    ]
    assert first[1]["loss"] == pytest.approx(first[0]["loss"])
    tokens = 20  # the four rows of the step have five response tokens each
    assert first[1]["grad_norm"] == pytest.approx(tokens * first[0]["grad_norm"], rel=1e-2)


def test_checkpointed_activations_give_the_same_weights(rows: Path, tmp_path: Path) -> None:
    """What is computed again is computed to the same bits."""
    weights = []
    for on in (False, True):
        finetune(job(rows, tmp_path / str(on), gradient_checkpointing=on, compute="fp32"))
        weights.append((tmp_path / str(on) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_noise_on_embeddings_is_not_in_validation(rows: Path, tmp_path: Path) -> None:
    """NEFTune changes what is learned from, and not what is measured: the first validation is that without it."""
    plain, noisy = (
        finetune(job(rows, tmp_path / str(alpha), neftune_alpha=alpha, hold_out=0.25)) for alpha in (None, 50.0)
    )
    assert noisy.validation[0] == plain.validation[0]
    assert noisy.history[0]["loss"] != plain.history[0]["loss"]


def test_a_warm_up_ends_wholly_ternary_and_is_validated_as_such(rows: Path, tmp_path: Path) -> None:
    """The deployed model's loss is what validation says, though the layers of the first steps are float."""
    plain, warm = (finetune(job(rows, tmp_path / str(steps), ternary_warmup=steps, hold_out=0.25)) for steps in (0, 4))
    assert warm.validation[0] == plain.validation[0]
    assert warm.history[0]["loss"] != plain.history[0]["loss"]
    with pytest.raises(BenchError, match="lasts as long as the whole run"):
        finetune(job(rows, tmp_path / "long", ternary_warmup=6))


def test_held_out_rows_are_the_same_for_every_seed_and_are_not_trained_on(rows: Path) -> None:
    """A row that recurs is on one side only."""
    from bitnet_bench.data.rows import read_rows

    known = read_rows(rows)
    splits = [
        split_validation_rows(known + known[:6], job(rows, Path("o"), hold_out=0.25, seed=seed)) for seed in (0, 1)
    ]
    assert splits[0] == splits[1]
    training, validation = splits[0]
    assert not set(training) & set(validation)
    assert set(training) | set(validation) == set(known)
    with pytest.raises(BenchError, match="Every training row is a validation row"):
        split_validation_rows(known, job(rows, Path("o"), validation=(str(rows),)))


def test_figures_are_written_for_tensorboard(rows: Path, tmp_path: Path) -> None:
    """By default into OUT/tensorboard; the warmup of a tracker that is not installed is a warning and no error."""
    finetune(job(rows, tmp_path / "out"))
    (events,) = (tmp_path / "out/tensorboard").iterdir()
    written = events.read_bytes()
    assert all(name in written for name in (b"train/loss", b"train/flips", b"train/tokens_per_s"))
    finetune(job(rows, tmp_path / "none", track=()))
    assert not (tmp_path / "none/tensorboard").exists()


def test_kept_codes_are_those_of_the_weights_at_every_step() -> None:
    """Quantized once between two steps; what an operation of autograd's changes is seen even if nobody said so."""
    torch.manual_seed(0)
    layer: Any = nn.Linear(16, 8, bias=False)
    model = make_trainable_ternary(nn.Sequential(layer))
    keep_codes(model)
    x = torch.randn(3, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    for _ in range(3):
        layer(x).square().sum().backward()
        first = layer._stored_codes
        layer(x)
        assert layer._stored_codes is first
        optimizer.step()
        forget_codes(model)
        codes, gamma = ternarize(layer.weight)
        q, step = quantize_activations(x)
        assert torch.equal(layer(x), (q.float() @ codes.float().T) * (step * gamma))
    with torch.no_grad():
        layer.weight.neg_()
    assert torch.equal(layer(x), -((q.float() @ codes.float().T) * (step * gamma)))


def test_accumulated_steps_with_kept_codes_end_with_the_same_weights(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit those of quantizing at every forward; with adapters, whose weights are new each time, as well."""
    from bitnet_bench.training import trainer

    for rank in (None, 2):
        options = {"gradient_accumulation": 2, "batch_size": 2, "lora_rank": rank, "hold_out": 0.25, "save_every": 2}
        finetune(job(rows, tmp_path / f"kept{rank}", **options))
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "keep_codes", lambda model: None)
            finetune(job(rows, tmp_path / f"anew{rank}", **options))
        first, second = ((tmp_path / f"{n}{rank}/model.safetensors").read_bytes() for n in ("kept", "anew"))
        assert first == second


@pytest.mark.parametrize(("instructions", "dtype"), [(["avx2"], "fp32"), (["avx512_bf16"], "bf16"), ([], "fp32")])
def test_products_are_in_what_the_processor_is_fast_at(
    instructions: list[str], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated bfloat16 products are 90 times slower than float32 ones."""
    names = ("avx2", "avx512_bf16", "amx_bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {name: name in instructions for name in names}, raising=False
    )
    assert fastest_dtype() == dtype


def test_the_record_names_the_dtype_that_was_chosen(rows: Path, tmp_path: Path) -> None:
    """`auto` on another machine may be something else, and then the run does not go on."""
    record = finetune(job(rows, tmp_path / "out", max_steps=1))
    assert record.job.compute == fastest_training_dtype()
    assert finetune(job(rows, tmp_path / "out", max_steps=1, compute=fastest_training_dtype())) == record


@pytest.mark.parametrize(
    ("seconds", "dtype"), [({"bf16": 1.0, "fp32": 2.0}, "bf16"), ({"bf16": 2.0, "fp32": 1.0}, "fp32")]
)
def test_training_takes_the_dtype_that_is_faster_where_the_processor_has_both(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], dtype: str
) -> None:
    """Instructions for bfloat16 may be slower than float32's: training was 1.85 times as slow on such a processor."""
    monkeypatch.setattr(fast_dtype, "find_gpu", lambda: None)
    monkeypatch.setattr(fast_dtype, "_cpu_has_bf16", lambda: True)
    names = {torch.bfloat16: "bf16", torch.float32: "fp32"}
    monkeypatch.setattr(fast_dtype, "_time_product", lambda asked: seconds[names[asked]])
    assert fastest_dtype() == "bf16"
    assert fastest_training_dtype.__wrapped__() == dtype


def test_training_on_a_card_without_our_kernels_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An old card, or no Triton, makes ternary steps slower without changing them; FP16 steps are the same."""
    card = CardState("13.0", True, None, 0, "Tesla T4", (7, 5), 10**10, 10**10, ("sm_75",), None, "3.6.0")
    monkeypatch.setattr(gpu, "inspect_card", lambda: card)
    asked = FinetuneJob(model="demo", data=("rows.jsonl",), out="out")
    starting_model._warn_about_kernels(asked.model_copy(update={"precision": "fp16"}))
    assert not caplog.text
    starting_model._warn_about_kernels(asked)
    assert "which is slower: the Tesla T4 is sm_75, and the GPU kernels need sm_80" in caplog.text
