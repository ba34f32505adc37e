"""Every format of every architecture is the same model, and a conversion that is not leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.reference import transformers_logits
from bitnet_bench.checkpoints.converting import convert_checkpoint, write_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.parity import SCALE_TOLERANCE, encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.linear import CodesLinear, find_bit_linears
from bitnet_bench.ternary.panels import from_panels
from bitnet_bench.ternary.quantizer import ternarize

Stored = Callable[[str, Any], Path]
ARCHITECTURES = ["bitnet", "llama", "mistral", "qwen2", "qwen3"]
FORMATS = ["masters", "bitlinear", "autobitlinear", "packed", "baked"]
LAYER = "model.layers.0.mlp.up_proj"


def nothing(done: int, total: int, note: str = "") -> None:
    """Show no progress."""


# every format is the same model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", FORMATS[1:])
def test_a_format_is_recognised_and_reads_back(architecture: str, form: str, stored_as: Stored) -> None:
    """What was written in a format is recognised as it, with the codes, scales and biases of the masters."""
    ours, theirs = (
        Weights(inspect_folder(stored_as(architecture, "masters"))),
        Weights(inspect_folder(stored_as(architecture, form))),
    )
    directions = {"bitlinear": "divide", "baked": None}
    assert theirs.checkpoint.format == form
    assert theirs.checkpoint.scale_direction == directions.get(form, "multiply")
    assert theirs.checkpoint.parameters == ours.checkpoint.parameters
    assert theirs.ternary == ours.ternary
    assert set(theirs.floats) == set(ours.floats)
    for module in ours.ternary:
        codes, gamma = ternarize(ours.tensor(f"{module}.weight"))
        found, scale = theirs.codes(module)
        panels, again = theirs.panels(module)
        assert found.dtype == torch.int8
        assert torch.equal(found, codes)
        assert torch.equal(from_panels(panels, *theirs.ternary[module]), codes)
        assert again == scale
        assert scale.dtype == torch.float32
        assert float(scale) == pytest.approx(float(gamma), rel=SCALE_TOLERANCE)
        expected, bias = ours.bias(module), theirs.bias(module)
        assert (bias is None) == (expected is None)
        if bias is not None:
            torch.testing.assert_close(bias, expected, rtol=SCALE_TOLERANCE, atol=0)


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
def test_every_format_becomes_every_other(before: str, after: str, stored_as: Stored, tmp_path: Path) -> None:
    """From any format to any other, the gate finds the same model; qwen2 has biases, which two formats scale."""
    if before == after:
        with pytest.raises(BenchError, match=f"is {after} already"):
            convert_checkpoint(
                inspect_folder(stored_as("qwen2", before)), after, tmp_path / "out", nothing, logits=None
            )  # type: ignore[arg-type]
        return
    source = inspect_folder(stored_as("qwen2", before))
    parity = convert_checkpoint(source, after, tmp_path / "out", nothing, logits=transformers_logits)  # type: ignore[arg-type]
    assert inspect_folder(tmp_path / "out").format == after
    assert parity.layers == 14
    assert parity.largest_scale_error <= SCALE_TOLERANCE
    assert parity.prompt_tokens == sum(len(ids) for ids in encode_prompts(source)) > 0
    assert parity.mean_logit_error is not None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", ["masters", "bitlinear", "autobitlinear"])
def test_transformers_computes_the_same(architecture: str, form: str, stored_as: Stored, logits: Any) -> None:
    """Where transformers opens a format itself, its logits agree as far as int8 steps let them.

    The bounds are those of `test_transformers_opens_a_packed_checkpoint`.
    """
    from transformers import AutoModelForCausalLM

    folder = stored_as(architecture, form)
    theirs = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    ours = logits(load_model(inspect_folder(folder), "run", "ternary"))
    assert float((theirs - ours).abs().max()) < 0.1
    assert float((theirs - ours).abs().mean()) < 5e-3
    assert float((theirs.argmax(-1) == ours.argmax(-1)).float().mean()) >= 0.95


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_trains_on(form: str, stored_as: Stored) -> None:
    """Loaded for training, every format has masters with its own codes and scales."""
    checkpoint = inspect_folder(stored_as("qwen2", form))
    weights = Weights(checkpoint)
    layers = find_bit_linears(load_model(checkpoint, "train", "ternary"))
    assert layers.keys() == weights.ternary.keys()
    for module, layer in layers.items():
        codes, gamma = ternarize(layer.weight.detach())
        assert torch.equal(codes, weights.codes(module)[0])
        assert float(gamma) == pytest.approx(float(weights.codes(module)[1]), rel=SCALE_TOLERANCE)
        bias = weights.bias(module)
        assert (layer.bias is None) == (bias is None)
        if bias is not None:
            assert torch.equal(layer.bias.detach(), bias)


def test_baked_weights_run_as_plain_layers_in_transformers(stored_as: Stored) -> None:
    """Baked weights are the effective ones: codes times scale, in plain linear layers of float32."""
    from transformers import AutoModelForCausalLM

    weights = Weights(inspect_folder(stored_as("llama", "packed")))
    model = AutoModelForCausalLM.from_pretrained(stored_as("llama", "baked"), dtype=torch.float32)
    for module in weights.ternary:
        codes, gamma = weights.codes(module)
        assert torch.equal(model.get_submodule(module).weight, codes * gamma)


def test_transformers_does_not_open_panels(stored_as: Stored) -> None:
    """transformers knows nothing of our layout, and fails instead of running it as something else."""
    from transformers import AutoModelForCausalLM

    with pytest.raises(RuntimeError, match="mismatched"):
        AutoModelForCausalLM.from_pretrained(stored_as("bitnet", "packed"))


# what goes along


def test_the_small_files_come_along(stored_as: Stored) -> None:
    """A converted checkpoint has the tokenizer and the generation settings of its source, and no other file."""
    names = {file.name for file in stored_as("bitnet", "packed").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


@pytest.fixture
def partly_float(stored_as: Stored, tmp_path: Path, edit_config: Any) -> Path:
    """Give masters whose down projections and head stay float."""
    folder = Path(shutil.copytree(stored_as("bitnet", "masters"), tmp_path / "partly"))
    quant = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config=quant | {"modules_to_not_convert": ["down_proj", "lm_head"]})
    return folder


@pytest.mark.parametrize("form", ["bitlinear", "autobitlinear", "packed"])
def test_layers_kept_out_of_quantization_stay_float(form: Any, partly_float: Path, tmp_path: Path, logits: Any) -> None:
    """Layers of `modules_to_not_convert` are float in every format, here and in transformers."""
    from transformers import AutoModelForCausalLM

    source = inspect_folder(partly_float)
    convert_checkpoint(source, form, tmp_path / "out", nothing, logits=transformers_logits)
    found = inspect_folder(tmp_path / "out")
    model = load_model(found, "run", "ternary")
    assert found.ternary_parameters == source.ternary_parameters == 2 * (64 * (64 + 32 + 32 + 64) + 2 * 64 * 96)
    assert isinstance(model.get_submodule(LAYER), CodesLinear)
    assert type(model.get_submodule("model.layers.0.mlp.down_proj")) is torch.nn.Linear
    if form != "packed":
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        assert float((logits(theirs) - logits(model)).abs().mean()) < 5e-3


def test_baked_cannot_say_which_layers_stay_float(partly_float: Path, tmp_path: Path) -> None:
    """Without a quantization_config the float layers would look like masters."""
    with pytest.raises(BenchError, match="keeps down_proj out of quantization, and baked cannot say so"):
        convert_checkpoint(inspect_folder(partly_float), "baked", tmp_path / "out", nothing, logits=None)


def test_a_head_that_transformers_would_make_ternary_is_refused(partly_float: Path, edit_config: Any) -> None:
    """A list that names layers but not the head makes the head ternary in transformers; that is no silent matter."""
    quant = json.loads((partly_float / "config.json").read_text())["quantization_config"]
    edit_config(partly_float, quantization_config=quant | {"modules_to_not_convert": ["down_proj"]})
    with pytest.raises(BenchError, match="not the output head"):
        inspect_folder(partly_float)


def test_what_a_fine_tune_saves_names_the_layers_that_stayed_float(partly_float: Path, tmp_path: Path) -> None:
    """A trained model with float layers is saved so that it is read back as it was."""
    from bitnet_bench.checkpoints.saving import save_checkpoint

    model = load_model(inspect_folder(partly_float), "train", "ternary")
    save_checkpoint(model, tmp_path / "out", "autobitlinear", "float32")
    again = load_model(inspect_folder(tmp_path / "out"), "run", "ternary")
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(again.get_submodule(name).weight, model.get_submodule(name).weight)
    assert isinstance(again.get_submodule(LAYER), CodesLinear)


def test_shards_are_as_small_as_asked_for(stored_as: Stored, tmp_path: Path) -> None:
    """A checkpoint in many files is the same as in one."""
    source = inspect_folder(stored_as("llama", "autobitlinear"))
    convert_checkpoint(source, "packed", tmp_path / "out", nothing, logits=None, shard_bytes=5_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 5
    assert inspect_folder(tmp_path / "out").weight_bytes == inspect_folder(stored_as("llama", "packed")).weight_bytes


def mapped(address: int, file: Path) -> bool:
    """Whether *address* lies in a mapping of *file* into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if begin <= address < end:
            return line.endswith(str(file))
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped where")
def test_packed_codes_are_the_bytes_of_the_file(stored_as: Stored) -> None:
    """The kernel reads the mapped file: the panels begin on a cache line and are no copy."""
    weights = Weights(inspect_folder(stored_as("bitnet", "packed")))
    for module in weights.ternary:
        panels, _ = weights.panels(module)
        assert panels.data_ptr() % 64 == 0
        assert mapped(panels.data_ptr(), weights.shards.files[0])


def test_an_all_zero_layer_is_converted(stored_as: Stored, tmp_path: Path, edit_tensors: Any) -> None:
    """A layer without a non-zero code has no scale to compare and computes zero in every format."""
    folder = Path(shutil.copytree(stored_as("llama", "masters"), tmp_path / "zero"))
    edit_tensors(folder, lambda tensors: tensors[f"{LAYER}.weight"].zero_())
    before = inspect_folder(folder)
    for form in ("packed", "baked", "bitlinear"):
        convert_checkpoint(before, form, tmp_path / form, nothing, logits=transformers_logits)  # type: ignore[arg-type]
        assert not Weights(inspect_folder(tmp_path / form)).codes(LAYER)[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_baked_weights_of_16_bits_keep_their_scale(
    dtype: torch.dtype, stored_as: Stored, tmp_path: Path, edit_tensors: Any
) -> None:
    """A baked layer's scale is what its dtype holds, and converting it keeps it to the bit."""
    folder = Path(shutil.copytree(stored_as("bitnet", "baked"), tmp_path / "half"))
    edit_tensors(folder, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    source = inspect_folder(folder)
    parity = convert_checkpoint(source, "packed", tmp_path / "out", nothing, logits=transformers_logits)
    assert (source.format, parity.largest_scale_error) == ("baked", 0.0)


# what is refused


def spoiled(change: Callable[[Weights], None]) -> Any:
    """Return a writer that writes a model which *change* has altered."""

    class Altered(Weights):
        def codes(self, module: str) -> tuple[Tensor, Tensor]:
            codes, gamma = super().codes(module)
            if module == LAYER:
                change_codes(codes, gamma)
            return codes, gamma

        def tensor(self, name: str) -> Tensor:
            tensor = super().tensor(name).clone()
            if name == "model.norm.weight":
                change_norm(tensor)
            return tensor

    change_codes, change_norm = change  # type: ignore[misc]
    return lambda source, *rest: write_checkpoint(Altered(source.checkpoint), *rest)


def keep(*_: Tensor) -> None:
    """Change nothing."""


def flip(codes: Tensor, gamma: Tensor) -> None:
    codes[0, 0] = 1 if codes[0, 0] < 1 else 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((flip, keep), rf"1 of 6144 codes of {LAYER} are others"),
        ((lambda codes, gamma: gamma.mul_(1.0001), keep), rf"the scale of {LAYER} is "),
        ((keep, lambda norm: norm[0].add_(1)), r"model\.norm\.weight has other values"),
    ],
)
def test_a_conversion_without_parity_leaves_nothing(change: Any, words: str, stored_as: Stored, tmp_path: Path) -> None:
    """One wrong code, scale or norm is named by its layer, and the output is deleted."""
    with pytest.raises(BenchError, match=words):
        convert_checkpoint(
            inspect_folder(stored_as("bitnet", "masters")), "packed", tmp_path / "out", nothing,
            logits=None, writer=spoiled(change),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_other_logits_are_no_parity(stored_as: Stored, tmp_path: Path) -> None:
    """Equal weights that compute something else (a lost norm, a wrong engine) do not pass either."""

    def wrong(checkpoint: Checkpoint, prompts: Any) -> Tensor:
        found = transformers_logits(checkpoint, prompts)
        return found if checkpoint.format == "masters" else found.roll(1, dims=-1)

    with pytest.raises(BenchError, match="logits differ by"):
        convert_checkpoint(
            inspect_folder(stored_as("bitnet", "masters")), "packed", tmp_path / "out", nothing, logits=wrong
        )
    assert not (tmp_path / "out").exists()


def test_a_bias_that_is_lost_is_no_parity(stored_as: Stored, tmp_path: Path) -> None:
    """A bias that the output lacks is named."""

    def without_biases(source: Weights, *rest: Any) -> None:
        class Unbiased(Weights):
            def bias(self, module: str) -> None:
                return None

        write_checkpoint(Unbiased(source.checkpoint), *rest)

    with pytest.raises(BenchError, match=r"q_proj\.bias is in one of them only"):
        convert_checkpoint(
            inspect_folder(stored_as("qwen2", "masters")), "packed", tmp_path / "out", nothing,
            logits=None, writer=without_biases,
        )  # fmt: skip


def test_a_folder_that_holds_something_is_not_written_over(stored_as: Stored, tmp_path: Path) -> None:
    """OUT must be new: what stands there is never mixed with a checkpoint, nor deleted."""
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(BenchError, match="is not empty"):
        convert_checkpoint(inspect_folder(stored_as("bitnet", "masters")), "packed", tmp_path, nothing, logits=None)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_float_weights_are_not_converted(tiny_model: Any, tmp_path: Path) -> None:
    """Plain float weights were not trained to be ternary."""
    with pytest.raises(BenchError, match="not trained to be ternary"):
        convert_checkpoint(inspect_folder(tiny_model("llama")), "packed", tmp_path / "out", nothing, logits=None)


@pytest.mark.parametrize("form", ["bitlinear", "autobitlinear"])
def test_rows_that_transformers_layouts_cannot_hold(form: Any, odd: Path, tmp_path: Path) -> None:
    """A row count that is no multiple of four is named, with the format that holds it."""
    with pytest.raises(BenchError, match=rf"gate_proj has 10 rows, .*{form} cannot hold it") as caught:
        convert_checkpoint(inspect_folder(odd), form, tmp_path / "out", nothing, logits=None)
    assert "packed" in caught.value.hint


def test_any_row_count_is_packed(odd: Path, tmp_path: Path) -> None:
    """Our own layout fills panels up and notes the true shape."""
    parity = convert_checkpoint(inspect_folder(odd), "packed", tmp_path / "out", nothing, logits=transformers_logits)
    assert parity.layers == 7
    assert inspect_folder(tmp_path / "out").ternary_parameters == inspect_folder(odd).ternary_parameters
    assert inspect_folder(tmp_path / "out").zero_density == pytest.approx(
        float(
            torch.cat(
                [Weights(inspect_folder(odd)).codes(m)[0].flatten() for m in Weights(inspect_folder(odd)).ternary]
            )
            .eq(0)
            .float()
            .mean()
        )
    )


@pytest.fixture
def odd(tmp_path: Path, edit_config: Any) -> Path:
    """Give masters of a Llama whose inner size is 10."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "odd")
    edit_config(tmp_path / "odd", quantization_config={"quant_method": "bitnet", "quantization_mode": "online"})
    return tmp_path / "odd"
