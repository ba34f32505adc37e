"""Checkpoint folders: what they are, what is loaded from them, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitnet_bench.checkpoints.config import PRECISION_KEY
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.checkpoints.saving import check_packable, save_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.linear import BitLinear, CodesLinear, find_bit_linears
from bitnet_bench.ternary.packing import unpack
from bitnet_bench.ternary.quantizer import ternarize

Models = Callable[[str], Path]
LAYER = "model.layers.0.mlp.up_proj"
TERNARY_PARAMETERS = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96)


def ids() -> Tensor:
    return torch.randint(3, 300, (3, 17), generator=torch.Generator().manual_seed(3))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(ids()).logits
    return found


def trained(source: Path) -> Any:
    """Return the BitLinear training model of a checkpoint."""
    return load_model(inspect_folder(source), "train", "ternary")


@pytest.fixture
def packed(tiny_model: Models, tmp_path: Path) -> Path:
    """Give a packed checkpoint of the tiny BitNet, its other weights in float32."""
    save_checkpoint(trained(tiny_model("bitnet")), tmp_path / "packed", "autobitlinear", "float32")
    return tmp_path / "packed"


def edit_config(folder: Path, **fields: Any) -> None:
    """Set *fields* in config.json; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Let *change* alter the tensors of a checkpoint."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


# what a folder is


def test_a_llama_without_quantization_config_is_float(tiny_model: Models) -> None:
    """A plain Llama checkpoint is float, and none of its parameters is ternary."""
    found = inspect_folder(tiny_model("llama"))
    assert (found.format, found.scale_direction, found.is_ternary) == ("float", None, False)
    assert found.architecture == "LlamaForCausalLM"
    assert found.dtype == "float32"
    assert found.ternary_parameters == 0
    assert found.zero_density is None
    assert found.parameters == TERNARY_PARAMETERS + 2 * 300 * 64 + 5 * 64
    assert found.weight_bytes == {
        "linear": 4 * TERNARY_PARAMETERS,
        "embedding": 4 * 300 * 64,
        "head": 4 * 300 * 64,
        "norm": 4 * 5 * 64,
    }


def test_a_bitnet_without_our_mark_holds_masters(tiny_model: Models) -> None:
    """`model_type: bitnet` with float weights and no mark is masters, as in the public bf16 release."""
    found = inspect_folder(tiny_model("bitnet"))
    assert (found.format, found.is_ternary) == ("masters", True)
    assert found.ternary_parameters == TERNARY_PARAMETERS
    assert "head" not in found.weight_bytes


def test_a_bitnet_with_the_fp16_mark_is_float(tiny_model: Models, tmp_path: Path) -> None:
    """Our own FP16 twin is of `model_type: bitnet` too, and its mark says that it is float."""
    model = load_model(inspect_folder(tiny_model("bitnet")), "train", "fp32")
    save_checkpoint(model, tmp_path / "twin", "float", "float16")
    found = inspect_folder(tmp_path / "twin")
    assert (found.format, found.dtype) == ("float", "float16")


def test_an_online_quantization_config_means_masters(tiny_model: Models, tmp_path: Path) -> None:
    """A Llama with float weights and an online `quantization_config: bitnet` is masters."""
    folder = copied(tiny_model("llama"), tmp_path / "online")
    edit_config(
        folder,
        quantization_config={
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
        },
    )
    assert inspect_folder(folder).format == "masters"


def test_a_packed_checkpoint_says_what_it_is(tiny_model: Models, packed: Path) -> None:
    """A packed checkpoint of ours multiplies by its scales, and its sizes and zeros are counted from its codes."""
    found = inspect_folder(packed)
    codes = [ternarize(layer.weight)[0] for layer in find_bit_linears(trained(tiny_model("bitnet"))).values()]
    zeros = sum(int((c == 0).sum()) for c in codes)
    assert (found.format, found.scale_direction, found.is_ternary) == ("autobitlinear", "multiply", True)
    assert found.dtype == "float32"
    assert found.ternary_parameters == TERNARY_PARAMETERS
    assert found.parameters == inspect_folder(tiny_model("bitnet")).parameters
    assert found.zero_density == pytest.approx(zeros / TERNARY_PARAMETERS)
    assert found.weight_bytes["ternary"] == TERNARY_PARAMETERS // 4 + len(codes) * 4


def test_the_digest_changes_with_the_weights(packed: Path) -> None:
    """Two folders with the same weights have one digest, and one changed scale gives another."""
    before = inspect_folder(packed).sha256
    edit_config(packed, note="weights are as they were")
    assert inspect_folder(packed).sha256 == before
    edit_tensors(packed, lambda tensors: tensors[f"{LAYER}.weight_scale"].mul_(2))
    assert inspect_folder(packed).sha256 != before


# what is loaded


@pytest.mark.parametrize("architecture", ["bitnet", "llama", "qwen2"])
def test_what_was_trained_is_what_is_deployed(architecture: str, tiny_model: Models, tmp_path: Path) -> None:
    """The logits of a packed checkpoint equal those of the model that was trained, within 1e-5."""
    model = trained(tiny_model(architecture))
    save_checkpoint(model, tmp_path / "packed", "autobitlinear", "float32")
    deployed = load_model(inspect_folder(tmp_path / "packed"), "run", "ternary")
    assert all(isinstance(deployed.get_submodule(name), CodesLinear) for name in find_bit_linears(model))
    torch.testing.assert_close(logits(deployed), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bitnet", "llama", "qwen2"])
def test_masters_run_as_they_trained(architecture: str, tiny_model: Models, tmp_path: Path) -> None:
    """Masters that are saved and run ternary give the logits of the model that was trained."""
    model = trained(tiny_model(architecture))
    save_checkpoint(model, tmp_path / "masters", "masters", "float32")
    found = inspect_folder(tmp_path / "masters")
    assert found.format == "masters"
    torch.testing.assert_close(logits(load_model(found, "run", "ternary")), logits(model), rtol=0, atol=1e-5)


def test_masters_keep_float32_whatever_the_rest_is_stored_in(tiny_model: Models, tmp_path: Path) -> None:
    """Masters survive a round trip to the bit, while what is not ternary is stored in the dtype asked for."""
    model = trained(tiny_model("bitnet"))
    save_checkpoint(model, tmp_path / "masters", "masters", "bfloat16")
    again = trained(tmp_path / "masters")
    for name, layer in find_bit_linears(model).items():
        assert torch.equal(again.get_submodule(name).weight, layer.weight)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, embedding.bfloat16().float())
    assert inspect_folder(tmp_path / "masters").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scales_stay_float32_whatever_the_rest_is_stored_in(dtype: str, tiny_model: Models, tmp_path: Path) -> None:
    """A packed checkpoint keeps its scales to the bit, and its norms and embedding in the dtype asked for."""
    model = trained(tiny_model("bitnet"))
    save_checkpoint(model, tmp_path / "packed", "autobitlinear", dtype)
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    for name, layer in find_bit_linears(model).items():
        assert torch.equal(tensors[f"{name}.weight_scale"], ternarize(layer.weight)[1].reshape(1))
    assert tensors["model.norm.weight"].dtype == getattr(torch, dtype)
    assert inspect_folder(tmp_path / "packed").dtype == dtype


def test_a_packed_checkpoint_trains_on_with_its_codes_and_scales(packed: Path) -> None:
    """Loaded for training, a packed checkpoint has the stored codes, and the stored scales within 1e-6."""
    model = trained(packed)
    tensors = load_file(packed / "model.safetensors")
    assert len(find_bit_linears(model)) == 14
    for name, layer in find_bit_linears(model).items():
        assert layer.weight.dtype == torch.float32
        assert layer.weight.requires_grad
        codes, gamma = ternarize(layer.weight.detach())
        assert torch.equal(codes, unpack(tensors[f"{name}.weight"]))
        assert float(gamma) == pytest.approx(float(tensors[f"{name}.weight_scale"]), rel=1e-6)


def test_both_scale_directions_give_the_same_logits(packed: Path, tmp_path: Path) -> None:
    """`bitlinear` with inverse scales is the same model as `autobitlinear` with scales."""
    # powers of two have exact inverses, so that the logits can be compared to the bit
    edit_tensors(packed, lambda t: [t[name].fill_(2.0**-4) for name in t if name.endswith("weight_scale")])
    divide = copied(packed, tmp_path / "divide")
    edit_tensors(divide, lambda t: [t[name].reciprocal_() for name in t if name.endswith("weight_scale")])
    edit_config(divide, quantization_config={"quant_method": "bitnet"})  # `bitlinear`, offline: the defaults
    assert inspect_folder(divide).scale_direction == "divide"
    multiplied = logits(load_model(inspect_folder(packed), "run", "ternary"))
    assert torch.equal(logits(load_model(inspect_folder(divide), "run", "ternary")), multiplied)


def test_swapped_scale_directions_give_other_logits(packed: Path) -> None:
    """Reading scales that multiply as scales that divide is no rounding error: the logits differ plainly."""
    right = logits(load_model(inspect_folder(packed), "run", "ternary"))
    edit_config(packed, quantization_config={"quant_method": "bitnet", "linear_class": "bitlinear"})
    wrong = logits(load_model(inspect_folder(packed), "run", "ternary"))
    assert float((right - wrong).abs().max()) > 0.1


@pytest.mark.parametrize("architecture", ["bitnet", "llama", "qwen2"])
def test_transformers_opens_a_packed_checkpoint(architecture: str, tiny_model: Models, tmp_path: Path) -> None:
    """transformers' own loader reads our packed folder, and its logits agree as far as float rounding lets them.

    Measured over 43 random batches of the three families at a logit standard deviation of 0.8: at most 2e-6 where
    no activation lay on a rounding boundary of int8, else at most 3.5e-2, 1.6e-3 in the mean, and 98 % of the
    greedy tokens equal. A wrong scale gives differences above 0.5.
    """
    from transformers import AutoModelForCausalLM

    model = trained(tiny_model(architecture))
    save_checkpoint(model, tmp_path / "packed", "autobitlinear", "float32")
    theirs = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32))
    ours = logits(model)
    assert float((theirs - ours).abs().max()) < 0.1
    assert float((theirs - ours).abs().mean()) < 5e-3
    assert float((theirs.argmax(-1) == ours.argmax(-1)).float().mean()) >= 0.95


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_float_checkpoint_runs_in_the_dtype_asked_for(precision: Any, dtype: str, tiny_model: Models) -> None:
    """A float checkpoint runs as plain layers in that dtype, near transformers' own logits."""
    from transformers import AutoModelForCausalLM

    model = load_model(inspect_folder(tiny_model("llama")), "run", precision)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not any(p.requires_grad for p in model.parameters())
    theirs = logits(AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=getattr(torch, dtype)))
    assert torch.equal(logits(model), theirs)


def test_the_twin_trains_in_float32_with_plain_layers(tiny_model: Models) -> None:
    """For training at fp16 precision the weights are float32 and no layer is ternary."""
    model = load_model(inspect_folder(tiny_model("llama")), "train", "fp16")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(isinstance(module, BitLinear) for module in model.modules())


def test_the_tokenizer_comes_with_the_checkpoint(tiny_model: Models, tokenizer: Any) -> None:
    """load_tokenizer gives the fast tokenizer of the folder."""
    loaded = load_tokenizer(inspect_folder(tiny_model("bitnet")))
    assert loaded("오늘 서울").input_ids == tokenizer("오늘 서울").input_ids


# what is written


def test_an_interrupted_save_leaves_nothing(tiny_model: Models, tmp_path: Path) -> None:
    """Interrupted after the weights were written, save() leaves neither weights nor temporary files."""

    class Interrupting:
        def save_pretrained(self, folder: Path) -> None:
            assert (folder / "model.safetensors").is_file()
            raise KeyboardInterrupt

    model = trained(tiny_model("bitnet"))
    model.generation_config = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(model, tmp_path / "out", "autobitlinear", "float32")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_save_keeps_the_checkpoint_that_was_there(tiny_model: Models, packed: Path) -> None:
    """Interrupted, save() leaves the older checkpoint of the folder as it was."""

    class Interrupting:
        def save_pretrained(self, folder: Path) -> None:
            raise KeyboardInterrupt

    before = {file.name: file.read_bytes() for file in packed.iterdir()}
    model = trained(tiny_model("bitnet"))
    model.generation_config = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(model, packed, "float", "float32")
    assert {file.name: file.read_bytes() for file in packed.iterdir()} == before


def test_values_that_the_dtype_cannot_hold_are_refused(tiny_model: Models, tmp_path: Path) -> None:
    """A weight beyond float16's range is not stored as infinity, and nothing is written."""
    model = load_model(inspect_folder(tiny_model("llama")), "train", "fp16")
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    with pytest.raises(BenchError, match=r"model\.norm\.weight"):
        save_checkpoint(model, tmp_path / "out", "float", "float16")
    assert not (tmp_path / "out").exists()


def test_our_mark_does_not_outlive_its_truth(tiny_model: Models, tmp_path: Path) -> None:
    """A ternary model that started from an FP16 twin is marked ternary, and the other way round."""
    save_checkpoint(
        load_model(inspect_folder(tiny_model("bitnet")), "train", "fp32"), tmp_path / "twin", "float", "float32"
    )
    save_checkpoint(trained(tmp_path / "twin"), tmp_path / "again", "masters", "float32")
    assert json.loads((tmp_path / "again" / "config.json").read_text())[PRECISION_KEY] == "ternary"
    assert inspect_folder(tmp_path / "again").format == "masters"


# what is refused


@pytest.fixture
def folder(tiny_model: Models, tmp_path: Path) -> Path:
    """Give a copy of the tiny Llama to damage."""
    return copied(tiny_model("llama"), tmp_path / "damaged")


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    """A folder without config.json is named, with what a checkpoint consists of."""
    with pytest.raises(BenchError, match=r"no config\.json") as caught:
        inspect_folder(tmp_path)
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("text", ["{", "", '{"model_type": ', b"\xff\xfe"])
def test_a_broken_config_is_named(text: str | bytes, folder: Path) -> None:
    """A config.json that is not JSON, or not UTF-8, is named."""
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BenchError, match=r"config\.json cannot be read: it is not (valid JSON|UTF-8)"):
        inspect_folder(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '"bitnet"'])
def test_a_config_of_something_else_is_refused(text: str, folder: Path) -> None:
    """A config.json without a model_type is refused."""
    (folder / "config.json").write_text(text)
    with pytest.raises(BenchError, match="model_type"):
        inspect_folder(folder)


def test_an_unknown_model_type_is_refused_with_a_sentence(folder: Path) -> None:
    """A model_type that transformers does not know is a BenchError, not a traceback."""
    edit_config(folder, model_type="no-such-family")
    with pytest.raises(BenchError):
        load_model(inspect_folder(folder), "run", "fp32")


def test_pickled_weights_are_refused(folder: Path) -> None:
    """A folder with only *.bin says why it is not opened, and how to convert it."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BenchError, match="pickled") as caught:
        inspect_folder(folder)
    assert "save_pretrained" in caught.value.hint


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    """A folder with a config and no weights is refused."""
    (folder / "model.safetensors").unlink()
    with pytest.raises(BenchError, match=r"no \*\.safetensors"):
        inspect_folder(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(share: float, folder: Path) -> None:
    """A safetensors file that was cut off anywhere is named as damaged."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BenchError, match=r"model\.safetensors cannot be read"):
        inspect_folder(folder)


def write_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", ".."])
def test_an_index_cannot_name_a_file_elsewhere(name: str, folder: Path) -> None:
    """An index that points out of its folder is refused."""
    write_index(folder, json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(BenchError):
        inspect_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    """A shard that the index names and the folder lacks is named."""
    write_index(folder, json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(BenchError, match=r"lacks model-2\.safetensors"):
        inspect_folder(folder)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_index_is_refused_with_a_sentence(text: str, folder: Path) -> None:
    """An index that is cut off, or holds no weight_map, is a BenchError, not a traceback."""
    write_index(folder, text)
    with pytest.raises(BenchError):
        inspect_folder(folder)


def test_sharded_weights_are_read_together(folder: Path) -> None:
    """The tensors of all shards make the model."""
    whole = inspect_folder(folder)
    expected = logits(load_model(whole, "run", "fp32"))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard, {"format": "pt"})
    write_index(folder, json.dumps({"weight_map": {name: s for s, members in shards.items() for name in members}}))
    (folder / "model.safetensors").unlink()
    assert inspect_folder(folder).parameters == whole.parameters
    assert torch.equal(logits(load_model(inspect_folder(folder), "run", "fp32")), expected)


def test_an_unknown_quantization_is_refused(folder: Path) -> None:
    """Another quant_method is refused by its name."""
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(BenchError, match="'gptq'"):
        inspect_folder(folder)


def test_packed_weights_without_a_direction_are_refused(packed: Path) -> None:
    """8-bit weights without a quantization_config are refused: which way the scales work is not guessed."""
    edit_config(packed, quantization_config=None)
    with pytest.raises(BenchError, match="no quantization_config"):
        inspect_folder(packed)


def test_float_weights_that_claim_to_be_packed_are_refused(folder: Path) -> None:
    """An offline quantization_config over float weights is refused."""
    edit_config(folder, quantization_config={"quant_method": "bitnet"})
    with pytest.raises(BenchError, match="says that its weights are packed"):
        inspect_folder(folder)


def test_norms_that_masters_announce_and_lack_are_named(folder: Path) -> None:
    """use_rms_norm without the weights of the norms is refused: transformers would run with ones."""
    edit_config(
        folder,
        quantization_config={"quant_method": "bitnet", "quantization_mode": "online", "use_rms_norm": True},
    )
    with pytest.raises(BenchError, match=r"q_proj has no rms_norm\.weight"):
        inspect_folder(folder)


def test_norms_that_packed_weights_announce_and_lack_are_named(packed: Path) -> None:
    """use_rms_norm without the weights of the norms is refused for packed weights as well."""
    edit_config(packed, quantization_config={"quant_method": "bitnet", "use_rms_norm": True})
    with pytest.raises(BenchError):
        load_model(inspect_folder(packed), "run", "ternary")


@pytest.mark.parametrize(("kept", "refused"), [(["lm_head"], False), (["model.layers.0.mlp.up_proj"], True)])
def test_a_layer_kept_out_of_quantization_is_refused(packed: Path, kept: list[str], refused: bool) -> None:
    """Only the head may be kept out: another layer would be made ternary in silence."""
    quant = {"quant_method": "bitnet", "linear_class": "autobitlinear", "modules_to_not_convert": kept}
    edit_config(packed, quantization_config=quant)
    if refused:
        with pytest.raises(BenchError, match="modules_to_not_convert"):
            inspect_folder(packed)
    else:
        assert inspect_folder(packed).format == "autobitlinear"


def test_a_missing_scale_is_named(packed: Path) -> None:
    """A packed layer without its weight_scale is named."""
    edit_tensors(packed, lambda tensors: tensors.pop(f"{LAYER}.weight_scale"))
    with pytest.raises(BenchError, match=rf"{LAYER} is packed but has no weight_scale"):
        load_model(inspect_folder(packed), "run", "ternary")


@pytest.mark.parametrize("purpose", ["run", "train"])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_scale_is_named(scale: float, purpose: Any, packed: Path) -> None:
    """A scale that is zero, negative or not finite is named."""
    edit_tensors(packed, lambda tensors: tensors[f"{LAYER}.weight_scale"].fill_(scale))
    with pytest.raises(BenchError, match=rf"{LAYER}\.weight_scale"):
        load_model(inspect_folder(packed), purpose, "ternary")


def test_a_scale_per_row_is_refused(packed: Path) -> None:
    """A weight_scale of several numbers is another format."""
    edit_tensors(packed, lambda tensors: tensors.update({f"{LAYER}.weight_scale": torch.ones(96)}))
    with pytest.raises(BenchError, match="must be one positive number"):
        load_model(inspect_folder(packed), "run", "ternary")


def test_a_field_that_is_no_code_is_named(packed: Path) -> None:
    """A packed byte that holds a 3 is named with its tensor, already by inspect()."""
    edit_tensors(packed, lambda tensors: tensors[f"{LAYER}.weight"][0, 0].fill_(3))
    with pytest.raises(BenchError, match=rf"{LAYER}\.weight in .*model\.safetensors is damaged"):
        inspect_folder(packed)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_missing_tensor_is_named(name: str, folder: Path) -> None:
    """A weight that the model needs and the file lacks is named, and never left random."""
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(BenchError, match=f"{name} is missing"):
        load_model(inspect_folder(folder), "run", "fp32")


def test_a_missing_packed_layer_is_named(packed: Path) -> None:
    """A ternary layer that the file lacks is named."""
    edit_tensors(packed, lambda t: [t.pop(f"{LAYER}.{part}") for part in ("weight", "weight_scale")])
    with pytest.raises(BenchError, match=f"{LAYER}.weight is missing"):
        load_model(inspect_folder(packed), "run", "ternary")


def test_a_tensor_too_many_is_named(folder: Path) -> None:
    """A weight that the model does not have is named, and not ignored."""
    edit_tensors(folder, lambda tensors: tensors.update({"model.extra.weight": torch.ones(3)}))
    with pytest.raises(BenchError, match=r"model\.extra\.weight is not part of the model"):
        load_model(inspect_folder(folder), "run", "fp32")


def test_a_packed_layer_too_many_is_named(packed: Path) -> None:
    """A packed layer that the model does not have is named, and not ignored."""
    extra = {"model.extra.weight": torch.zeros(1, 4, dtype=torch.uint8), "model.extra.weight_scale": torch.ones(1)}
    edit_tensors(packed, lambda tensors: tensors.update(extra))
    with pytest.raises(BenchError, match=r"model\.extra"):
        load_model(inspect_folder(packed), "run", "ternary")


def test_float_weights_of_another_shape_are_refused(folder: Path) -> None:
    """Float weights that do not fit the config are refused."""
    edit_config(folder, intermediate_size=128)
    with pytest.raises(BenchError, match="do not fit its config"):
        load_model(inspect_folder(folder), "run", "fp32")


@pytest.mark.parametrize("purpose", ["run", "train"])
def test_packed_weights_of_another_shape_are_refused(purpose: Any, packed: Path) -> None:
    """Packed weights that do not fit the config are refused when they are loaded, not at the first forward."""
    edit_config(packed, num_key_value_heads=4)
    with pytest.raises(BenchError, match="do not fit its config"):
        load_model(inspect_folder(packed), purpose, "ternary")


def test_float_weights_are_not_run_as_ternary(folder: Path) -> None:
    """Plain float weights are not quantized in silence."""
    with pytest.raises(BenchError, match="not trained to be ternary"):
        load_model(inspect_folder(folder), "run", "ternary")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_packed_weights_are_not_run_as_float(precision: Any, packed: Path) -> None:
    """Packed codes have no float weights to run or to train."""
    for purpose in ("run", "train"):
        with pytest.raises(BenchError, match=f"has no {precision} weights"):
            load_model(inspect_folder(packed), purpose, precision)


def test_a_tokenizer_larger_than_its_model_is_refused(folder: Path) -> None:
    """A tokenizer with more tokens than the embedding has rows belongs to another model."""
    edit_config(folder, vocab_size=250)
    with pytest.raises(BenchError, match="its model only 250"):
        load_tokenizer(inspect_folder(folder))


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    """A checkpoint without tokenizer files says so."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(BenchError, match="tokenizer"):
        load_tokenizer(inspect_folder(folder))


def test_rows_that_cannot_be_packed_are_refused_before_training(tmp_path: Path) -> None:
    """A layer whose row count is no multiple of four is named before a run is spent on it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "odd")
    with pytest.raises(BenchError, match=r"gate_proj has 10 rows"):
        check_packable(trained(tmp_path / "odd"))


def test_a_model_with_no_layer_to_make_ternary_is_refused_before_training(tiny_model: Models) -> None:
    """GPT-2 has no linear layers (its Conv1D is none): training it would be plain float training in silence."""
    with pytest.raises(BenchError):
        check_packable(trained(tiny_model("gpt2")))
