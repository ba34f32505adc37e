"""Group-scaled ternary checkpoints: recognised by their values, stored and run without a change of code or scale."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import bitnet_bench as bb
from bitnet_bench.backends.reference import engine_logits, find_logits, transformers_logits
from bitnet_bench.backends.ternary.inference import open_session
from bitnet_bench.checkpoints.converting import convert_checkpoint
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.gguf.file_parity import find_layout
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.group_types import merge_groups, pack_codes, split_groups, unpack_codes
from bitnet_bench.checkpoints.gguf.types import Q2_0, Q2_0_G128
from bitnet_bench.checkpoints.grouped import check_not_rotated
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.layers import inspect_checkpoint
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.groups import (
    masters_from_groups,
    split_into_groups,
    ternarize_groups,
)

GroupModels = Callable[[str, int], Path]
RandomGroups = Callable[..., Tensor]
MODELS = [("qwen3", 128), ("qwen3", 64), ("llama", 128), ("llama", 64)]
needs_kernel = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")


def nothing(done: int, total: int, note: str = "") -> None:
    """Show no progress."""


@pytest.fixture
def changed(group_model: GroupModels, tmp_path: Path) -> Callable[[Callable[[dict[str, Tensor]], object]], Path]:
    """Give a function that returns a copy of the Qwen3 with groups of 128 whose tensors a function has changed."""

    def make(change: Callable[[dict[str, Tensor]], object]) -> Path:
        folder = Path(shutil.copytree(group_model("qwen3", 128), tmp_path / "changed"))
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize(("architecture", "group"), MODELS)
def test_an_unmarked_folder_is_recognised_by_its_values(
    group_model: GroupModels, architecture: str, group: int
) -> None:
    """The widest group that explains every matrix, the embedding and the head; no rounding of activations."""
    found = inspect_folder(group_model(architecture, group))
    assert (found.format, found.group_size, found.quantizes_activations) == ("grouped", group, False)
    tables = ("model.embed_tokens",) if architecture == "qwen3" else ("model.embed_tokens", "lm_head")
    assert found.ternary_tables == tables
    assert found.ternary_parameters == found.parameters - sum(
        tensor.numel() for tensor in load_file(Path(found.path) / "model.safetensors").values() if tensor.dim() == 1
    )
    described = inspect_checkpoint(found, nothing)
    assert found.zero_density is not None
    assert found.zero_density == pytest.approx(1 / 3, abs=0.01)
    assert {layer.name for layer in described.layers} >= {*tables, "model.layers.1.mlp.down_proj"}


def test_binary_weights_are_recognised_as_groups_without_zeros(
    changed: Callable[[Callable[[dict[str, Tensor]], object]], Path], random_groups: RandomGroups
) -> None:
    """1-bit Bonsai: only -s and +s."""

    def binarize(tensors: dict[str, Tensor]) -> None:
        for seed, (name, tensor) in enumerate(list(tensors.items())):
            if tensor.dim() == 2:
                tensors[name] = random_groups(*tensor.shape, 128, seed, values=(-1, 1))

    found = inspect_folder(changed(binarize))
    assert (found.format, found.group_size, found.zero_density) == ("grouped", 128, 0.0)


def test_float_embeddings_beside_ternary_layers_stay_floats(
    changed: Callable[[Callable[[dict[str, Tensor]], object]], Path],
) -> None:
    """Only what the values prove is ternary."""

    def randomize(tensors: dict[str, Tensor]) -> None:
        tensors["model.embed_tokens.weight"] = torch.randn(300, 128).half()

    found = inspect_folder(changed(randomize))
    assert (found.format, found.ternary_tables, found.dtype) == ("grouped", (), "float16")


def test_one_value_that_no_group_explains_makes_a_layer_float_and_is_named(
    changed: Callable[[Callable[[dict[str, Tensor]], object]], Path],
) -> None:
    """The whole of every layer is looked at, and a folder that is ternary in part is refused."""

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][200, 77] = 0.5

    with pytest.raises(BenchError, match=r"ternary values in some layers but not in .*1\.mlp\.up_proj"):
        inspect_folder(changed(spoil))


def test_random_floats_are_no_groups(changed: Callable[[Callable[[dict[str, Tensor]], object]], Path]) -> None:
    """A plain float model is one."""

    def randomize(tensors: dict[str, Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            tensors[name] = torch.randn(tensor.shape).half()

    assert inspect_folder(changed(randomize)).format == "float"


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "prism_hadamard_qwen35"},
        {"prism.hadamard.block_size": 1024},
        {"quantization": {"rotation": "hadamard"}},
    ],
)
def test_a_rotation_folded_into_the_weights_is_refused_by_name(
    group_model: GroupModels, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Bonsai 2: the model is ternary and would compute noise; fields that say no rotation, and rope, are none."""
    folder = Path(shutil.copytree(group_model("qwen3", 128), tmp_path / "rotated"))
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError, match=r"rotation folded into its weights .*hadamard"):
        inspect_folder(folder)
    check_not_rotated("x", {"rotation": None, "rope_parameters": {"partial_rotary_factor": 1.0}}, ["rotary_emb.inv"])


@pytest.mark.parametrize(("architecture", "group"), MODELS)
def test_a_folder_packed_and_unpacked_has_the_same_bits(
    group_model: GroupModels, tmp_path: Path, architecture: str, group: int
) -> None:
    """float16 -> 2-bit codes with float16 scales -> float16, and masters on the way, for every tensor."""
    source = inspect_folder(group_model(architecture, group))
    for form in ("packed", "masters"):
        convert_checkpoint(source, form, tmp_path / form, nothing, logits=None)  # type: ignore[arg-type]
        there = inspect_folder(tmp_path / form)
        assert (there.group_size, there.ternary_tables) == (group, source.ternary_tables)
        convert_checkpoint(there, "grouped", tmp_path / f"from-{form}", nothing, logits=None)
        ours, theirs = (
            load_file(path / "model.safetensors") for path in (Path(source.path), tmp_path / f"from-{form}")
        )
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            assert torch.equal(tensor, theirs[name]), name
    packed = load_file(tmp_path / "packed" / "model.safetensors")
    assert packed["model.layers.0.mlp.up_proj.weight_scale"].dtype == torch.float16
    assert packed["model.layers.0.mlp.up_proj.weight_scale"].shape == (256, 128 // group)


def test_scales_that_float16_does_not_hold_are_packed_in_float32(
    changed: Callable[[Callable[[dict[str, Tensor]], object]], Path], tmp_path: Path
) -> None:
    """Nothing is rounded on the way."""

    def widen(tensors: dict[str, Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            tensors[name] = tensor.float() * 1.0001 if tensor.dim() == 2 else tensor

    source = inspect_folder(changed(widen))
    found = convert_checkpoint(source, "packed", tmp_path / "packed", nothing, logits=find_logits(source))
    assert found.largest_scale_error == 0
    name = "model.layers.0.mlp.up_proj.weight_scale"
    assert load_file(tmp_path / "packed" / "model.safetensors")[name].dtype == torch.float32


def test_formats_with_one_scale_a_layer_are_refused(group_model: GroupModels, tmp_path: Path) -> None:
    """It is never made ternary per tensor, and never called a float model."""
    source = inspect_folder(group_model("qwen3", 128))
    for form in ("autobitlinear", "bitlinear", "baked"):
        with pytest.raises(BenchError, match="scales of groups of 128 inputs"):
            convert_checkpoint(source, form, tmp_path / form, nothing, logits=None)  # type: ignore[arg-type]


@needs_kernel
@pytest.mark.parametrize(("architecture", "group"), MODELS)
@pytest.mark.usefixtures("on_the_cpu")
def test_the_engine_computes_what_the_dense_model_computes(
    group_model: GroupModels, tmp_path: Path, architecture: str, group: int
) -> None:
    """Up to the rounding of float32 sums; packed and unpacked give the same bits."""
    source = inspect_folder(group_model(architecture, group))
    convert_checkpoint(source, "packed", tmp_path / "packed", nothing, logits=None)
    prompts = encode_prompts(source)
    ours, dense = engine_logits(source, prompts), transformers_logits(source, prompts)
    assert torch.equal(ours, engine_logits(inspect_folder(tmp_path / "packed"), prompts))
    torch.testing.assert_close(ours, dense, rtol=1e-3, atol=1e-4)
    assert float((ours - dense).abs().mean() / dense.std()) < 1e-5


@needs_kernel
@pytest.mark.usefixtures("on_the_cpu")
def test_rounded_activations_are_asked_for_and_measured(group_model: GroupModels) -> None:
    """int8 by group: another arithmetic, whose distance in nats is in the description that a record keeps."""
    source = inspect_folder(group_model("qwen3", 128))
    with open_session(source, "ternary", "stored") as session:
        assert "activations float32" in (session.describe_runtime() or "")
        plain = next(iter(session.loglikelihood([([5, 6, 7], [8])])))[0][1][0]
        arithmetic = session.arithmetic
    with open_session(source, "ternary", "stored", "int8") as session:
        error = session.rounding_error  # type: ignore[attr-defined]
        assert f"off by {error:.2g} nats" in (session.describe_runtime() or "")
        rounded = next(iter(session.loglikelihood([([5, 6, 7], [8])])))[0][1][0]
        assert session.arithmetic != arithmetic
    assert 0 < error < 0.1
    assert rounded != plain
    assert rounded == pytest.approx(plain, abs=0.1)


@needs_kernel
@pytest.mark.usefixtures("on_the_cpu")
def test_the_engine_holds_two_bits_of_every_matrix(group_model: GroupModels) -> None:
    """Embedding and head included: a quarter of a byte a weight, and the scales."""
    source = inspect_folder(group_model("llama", 128))
    with open_session(source, "ternary", "stored") as session:
        held = session.weights_by_kind()
    assert held["embedding 2-bit"] == held["head 2-bit"] == 304 * 128 // 4
    assert held["ternary 2-bit"] == (source.ternary_parameters - 2 * 300 * 128) // 4
    assert held["head scales float16"] == 304 * 2


def test_what_only_a_scale_per_group_or_per_layer_can_is_refused(group_model: GroupModels, stored_as: Any) -> None:
    """An int8 head for a head that is ternary, and rounding for a model that rounds already."""
    with (
        pytest.raises(BenchError, match="its head is not quantized further"),
        open_session(inspect_folder(group_model("qwen3", 128)), "ternary", "int8"),
    ):
        pass
    with (
        pytest.raises(BenchError, match="rounds the activations of its ternary layers to int8 already"),
        open_session(inspect_folder(stored_as("qwen3", "packed")), "ternary", "stored", "int8"),
    ):
        pass


@pytest.mark.parametrize("precision", ["ternary", "fp32", "bf16"])
def test_transformers_runs_the_dense_weights_at_every_precision(
    group_model: GroupModels, tmp_path: Path, precision: Any
) -> None:
    """Of the packed folder too, which has them exactly."""
    source = inspect_folder(group_model("qwen3", 128))
    convert_checkpoint(source, "packed", tmp_path / "packed", nothing, logits=None)
    dense = load_file(Path(source.path) / "model.safetensors")
    for checkpoint in (source, inspect_folder(tmp_path / "packed")):
        model = load_model(checkpoint, "run", precision)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, dense[name].to(parameter.dtype)), name


@pytest.mark.parametrize("group", [64, 128])
def test_masters_give_their_codes_and_scales_back(random_groups: RandomGroups, group: int) -> None:
    """Whatever the share of zeros in a group; an all-zero group stays one."""
    weights = random_groups(64, 512, group, 3).float()
    weights[5] = 0
    weights[6] = weights[6].abs().sign() * 0.5
    found = split_into_groups(weights, group)
    assert found is not None
    again = ternarize_groups(masters_from_groups(*found), group)
    assert torch.equal(again[0], found[0])
    assert torch.equal(again[1], found[1])


def test_a_packed_folder_without_its_scales_is_refused(group_model: GroupModels, tmp_path: Path) -> None:
    """Missing, of another shape, negative, or not a number: one sentence, at inspection."""
    source = inspect_folder(group_model("qwen3", 128))
    convert_checkpoint(source, "packed", tmp_path / "packed", nothing, logits=None)
    name, file = "model.layers.0.mlp.up_proj.weight_scale", tmp_path / "packed" / "model.safetensors"
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    config["quantization_config"]["sha256"] = {}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    tensors = load_file(file)
    shapes = json.dumps(Weights(inspect_folder(tmp_path / "packed")).ternary)
    good = tensors[name].clone()
    for bad, words in ((None, "no scales"), (good[:5], "no scales"), (-good, "negative"), (good * torch.nan, "NaN")):
        spoiled = {**tensors, name: bad} if bad is not None else {n: t for n, t in tensors.items() if n != name}
        save_file(spoiled, file, {"format": "pt", "shapes": shapes})
        with pytest.raises(BenchError, match=words):
            inspect_folder(tmp_path / "packed")


@pytest.mark.parametrize(("architecture", "group"), MODELS)
def test_a_gguf_of_q2_0_holds_every_code_and_scale(
    group_model: GroupModels, tmp_path: Path, architecture: str, group: int
) -> None:
    """Read back by its bytes: embedding and head too, rows in the order of llama.cpp, groups of 128 as two of 64."""
    source, file = inspect_folder(group_model(architecture, group)), tmp_path / "model.gguf"
    found = export_gguf(source.path, "q2_0", file)
    assert (found.largest_scale_error, found.ternary_layers) == (0, len(Weights(source).ternary))
    assert found.types["Q2_0"] == source.ternary_parameters // 64 * 18
    written, weights = GgufFile(file), Weights(source)
    layout = find_layout(source, weights, written)
    for module, shape in weights.ternary.items():
        codes, scales = (layout.rows(module, values).numpy() for values in weights.codes(module))
        name = f"{layout.name(module)}.weight"
        start, size = written.tensors[name].start, written.tensors[name].bytes
        theirs, halves = unpack_codes(
            np.frombuffer(file.read_bytes()[start : start + size], dtype=np.uint8), Q2_0, shape
        )
        assert (theirs == codes).all(), name
        merged = merge_groups(theirs, halves, group)
        assert merged is not None
        assert (merged == scales).all(), name


def test_a_gguf_of_floats_holds_the_dense_weights(group_model: GroupModels, tmp_path: Path) -> None:
    """F16 exactly."""
    source = inspect_folder(group_model("qwen3", 128))
    assert export_gguf(source.path, "f16", tmp_path / "model.gguf").largest_scale_error == 0


def test_types_of_one_scale_and_of_groups_are_not_mixed_up(
    group_model: GroupModels, stored_as: Any, tmp_path: Path
) -> None:
    """TQ2_0 for a model with groups, and Q2_0 for one without: refused, nothing is rounded without a word."""
    for model, form, words in (
        (group_model("qwen3", 128), "tq2_0", "has scales of groups, which tq2_0 does not hold"),
        (stored_as("llama", "packed"), "q2_0", "has one scale per layer, which q2_0 does not hold"),
    ):
        with pytest.raises(BenchError, match=words):
            export_gguf(str(model), form, tmp_path / "model.gguf")  # type: ignore[arg-type]
        assert not (tmp_path / "model.gguf").exists()


def test_a_gguf_that_tells_of_a_rotation_is_refused_by_name(tmp_path: Path) -> None:
    """`prism.hadamard.*`, as Bonsai 2 has it: without it llama.cpp loads the same weights and prints noise."""
    from gguf import GGUFWriter

    file = tmp_path / "bonsai-2.gguf"
    writer = GGUFWriter(file, "qwen35")
    writer.add_uint32("prism.hadamard.block_size", 1024)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(BenchError, match=r"rotation folded into its weights \(prism.hadamard.block_size: 1024\)"):
        GgufFile(file)


def test_a_gguf_with_groups_of_128_under_the_number_of_q2_0_is_told_by_its_size(
    random_groups: RandomGroups, tmp_path: Path
) -> None:
    """As PrismML's fork wrote it: written here by hand, 34 bytes for 128 weights."""
    from gguf import GGUFWriter
    from gguf.gguf_writer import TensorInfo

    weights = random_groups(64, 256, 128, 1)
    codes, scales = (found.numpy() for found in split_into_groups(weights, 128) or ())
    for kind in (Q2_0, Q2_0_G128):
        file = tmp_path / f"{kind.block}.gguf"
        stored = scales if kind == Q2_0_G128 else split_groups(codes, scales, 64)
        data = pack_codes(codes, stored, kind)
        writer = GGUFWriter(file, "qwen3")
        for name in ("a.weight", "b.weight"):
            writer.tensors[-1][name] = TensorInfo(weights.shape, kind.number, data.size)  # type: ignore[arg-type]
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _ in range(2):
            writer.write_tensor_data(data)
        writer.close()
        found = GgufFile(file)
        assert found.tensors["a.weight"].kind == kind
        assert found.tensors["b.weight"].start == found.tensors["a.weight"].start + data.size
        assert (found.values("b.weight") == weights.float().numpy()).all()


@needs_kernel
@pytest.mark.usefixtures("on_the_cpu")
def test_a_run_keeps_what_rounding_its_activations_changed(group_model: GroupModels, tmp_path: Path) -> None:
    """In the description of the runtime and among the settings, which decide whether a run is continued."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "한국의 수도는 서울이에요."}, ensure_ascii=False) + "\n", encoding="utf-8")
    job = bb.EvaluateJob(backend="ternary", activations="int8", rows={"language_modeling:own": str(rows)}, cache=False)
    record = bb.evaluate(group_model("qwen3", 128), "language_modeling", tmp_path / "run", job, tasks=("own",))
    assert record.settings["activations"] == "int8"
    assert "nats in the mean from those of float activations" in (record.runtime or "")


def test_a_random_model_has_groups_where_they_are_asked_for(tmp_path: Path) -> None:
    """The shape of a published model, so that it can be measured without a download."""
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 300,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    write_random_checkpoint(config, 0, "grouped", tmp_path / "random", tmp_path, nothing)
    found = inspect_folder(tmp_path / "random")
    assert (found.format, found.group_size, found.ternary_tables) == ("grouped", 128, ("model.embed_tokens", "lm_head"))


def test_inspect_says_what_groups_a_model_has(group_model: GroupModels) -> None:
    """Size, tables, activations, in words; and that it can be trained, whatever the number of rows."""
    from bitnet_bench.cli.checkpoints import inspection_table
    from bitnet_bench.cli.tables import show

    described = inspect_checkpoint(inspect_folder(group_model("llama", 64)), nothing)
    assert described.trainable
    (cells,) = [column for column in inspection_table(described).columns if "grouped" in list(column.cells)]
    words = next(str(cell) for cell in cells.cells if "every 64 inputs" in str(cell))
    assert (
        words == "ternary, a scale for every 64 inputs of a row, float activations, embed_tokens, lm_head ternary too"
    )
    show(inspection_table(described))
