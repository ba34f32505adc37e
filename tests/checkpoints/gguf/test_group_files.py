"""GGUF files with scales of groups are models: every code and scale comes back, and every command has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bitnet_bench.backends.reference import can_engine_run, engine_logits, find_logits, transformers_logits
from bitnet_bench.checkpoints.converting import convert_checkpoint
from bitnet_bench.checkpoints.gguf.exports import export_gguf, is_itself, open_for_precision
from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.group_types import merge_groups, pack_codes, unpack_codes
from bitnet_bench.checkpoints.gguf.types import PQ2_0, Q1_0, Q2_0, Q2_0_G128, TensorType
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.layers import inspect_layers
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import no_progress
from bitnet_bench.runs.records import Checkpoint

from .gguf_writer import Tensors, read_whole, write_whole

GroupModels = Callable[[str, int], Path]
MODELS = [("qwen3", 128), ("qwen3", 64), ("llama", 128), ("llama", 64)]


def export(folder: Path, out: Path) -> Path:
    """Write the model in *folder* as Q2_0."""
    export_gguf(str(folder), "q2_0", out)
    return out


def write_again(file: Path, out: Path, kind: TensorType, change: Callable[[np.ndarray], np.ndarray] = np.copy) -> Path:
    """Write a Q2_0 *file* with groups of 128 as *kind*, by hand, its codes changed by a function."""
    fields, tensors = read_whole(file)
    others: Tensors = {}
    for name, (stored, shape, data) in tensors.items():
        others[name] = stored, shape, data
        if stored == Q2_0:
            codes, scales = unpack_codes(data, stored, (shape[0], shape[1]))
            wide = merge_groups(codes, scales, kind.block)
            assert wide is not None
            others[name] = kind, shape, pack_codes(change(codes), wide, kind)
    return write_whole(out, fields, others)


def assert_same_groups(found: Checkpoint, source: Checkpoint) -> None:
    """Assert that two checkpoints have the same codes, scales and other weights, bit for bit."""
    assert (found.group_size, found.ternary_tables) == (source.group_size, source.ternary_tables)
    ours, theirs = Weights(found), Weights(source)
    assert set(ours.ternary) == set(theirs.ternary) != set()
    for name in ours.ternary:
        assert all(torch.equal(one, other) for one, other in zip(ours.codes(name), theirs.codes(name), strict=True))
    assert set(ours.floats) == set(theirs.floats)
    assert all(torch.equal(ours.tensor(name).float(), theirs.tensor(name).float()) for name in ours.floats)


@pytest.mark.parametrize(("architecture", "group"), MODELS)
def test_every_code_and_scale_of_a_q2_0_file_comes_back(
    group_model: GroupModels, architecture: str, group: int, tmp_path: Path
) -> None:
    """From a folder to the file, from the file to a packed folder, and from that to the file again."""
    source = inspect_folder(group_model(architecture, group))
    file = export(Path(source.path), tmp_path / "model.gguf")
    found = open_checkpoint(str(file))
    assert (found.format, found.is_gguf, found.quantizes_activations) == ("packed", True, False)
    assert found.dtype == "float16"  # that of the scales
    assert_same_groups(found, source)
    assert found.zero_density == pytest.approx(1 / 3, abs=0.01)
    assert sum(found.weight_bytes.values()) == sum(found.gguf_types.values())
    convert_checkpoint(found, "packed", tmp_path / "packed", no_progress, logits=find_logits(found))
    assert_same_groups(inspect_folder(tmp_path / "packed"), source)
    again = export(tmp_path / "packed", tmp_path / "again.gguf")
    first, second = read_whole(file)[1], read_whole(again)[1]
    assert {name: entry[:2] for name, entry in first.items()} == {name: entry[:2] for name, entry in second.items()}
    assert all((first[name][2] == second[name][2]).all() for name in first)


@pytest.mark.parametrize(("architecture", "group"), [("qwen3", 128), ("llama", 64)])
def test_a_q2_0_file_computes_what_its_folder_does(
    group_model: GroupModels, architecture: str, group: int, tmp_path: Path
) -> None:
    """In the engine, and dense as `hf` runs it."""
    source = inspect_folder(group_model(architecture, group))
    found = open_checkpoint(str(export(Path(source.path), tmp_path / "model.gguf")))
    prompts = encode_prompts(source)
    for run in (engine_logits, transformers_logits) if can_engine_run(source) else (transformers_logits,):
        assert torch.equal(run(found, prompts), run(source, prompts))


@pytest.mark.parametrize("kind", [PQ2_0, Q2_0_G128])
def test_files_of_other_writers_hold_the_same(group_model: GroupModels, kind: TensorType, tmp_path: Path) -> None:
    """Groups of 128 under their own number, or under that of Q2_0; llama.cpp gets them as its own Q2_0."""
    source = inspect_folder(group_model("llama", 128))
    file = export(Path(source.path), tmp_path / "model.gguf")
    found = open_checkpoint(str(write_again(file, tmp_path / "other.gguf", kind)))
    assert found.gguf_types.keys() == {kind.name, "F32"}
    assert_same_groups(found, source)
    run = open_for_precision(found, "ternary", None)
    assert not is_itself(found, run)
    assert {entry.kind for name, entry in run.tensors.items() if "norm" not in name} == {Q2_0}
    compare_weights(source, run)


def test_a_binary_file_is_a_ternary_one_without_zeros(group_model: GroupModels, tmp_path: Path) -> None:
    """Q1_0 holds -s and +s; it opens with groups of 128, and llama.cpp runs it as it is."""
    source = inspect_folder(group_model("llama", 128))
    file = export(Path(source.path), tmp_path / "model.gguf")
    found = open_checkpoint(
        str(write_again(file, tmp_path / "one.gguf", Q1_0, lambda codes: np.where(codes < 0, -1, 1)))
    )
    assert (found.group_size, found.zero_density) == (128, 0.0)
    theirs, ours = Weights(source), Weights(found)
    for name in theirs.ternary:
        (codes, scales), (signs, own) = theirs.codes(name), ours.codes(name)
        assert torch.equal(codes[codes != 0], signs[codes != 0])
        assert torch.equal(scales, own)
    assert is_itself(found, open_for_precision(found, "ternary", None))


def test_an_exported_file_is_run_as_it_is(group_model: GroupModels, tmp_path: Path) -> None:
    """As `ternary` or `q2_0`, its weights compared with nothing."""
    found = open_checkpoint(str(export(group_model("qwen3", 128), tmp_path / "model.gguf")))
    assert all(is_itself(found, open_for_precision(found, precision, None)) for precision in ("ternary", "q2_0"))
    assert not is_itself(found, open_for_precision(found, "fp16", None))
    for file in (open_for_precision(found, "fp16", None), GgufFile(tmp_path / "model.gguf")):
        compare_weights(found, file)


def test_a_float_file_of_a_grouped_model_is_recognised_by_its_values(group_model: GroupModels, tmp_path: Path) -> None:
    """F16 holds every weight; the file says whether activations are rounded."""
    source = inspect_folder(group_model("qwen3", 128))
    export_gguf(source.path, "f16", tmp_path / "model.gguf")
    found = open_checkpoint(str(tmp_path / "model.gguf"))
    assert (found.format, found.group_size, found.quantizes_activations) == ("grouped", 128, False)
    assert_same_groups(found, source)


@pytest.mark.parametrize("form", ["q2_0", "f16"])
def test_rounding_of_activations_goes_into_the_file(group_model: GroupModels, form: str, tmp_path: Path) -> None:
    """A model that was trained with int8 activations is opened with them."""
    source = inspect_folder(group_model("qwen3", 128))
    convert_checkpoint(source, "packed", tmp_path / "packed", no_progress, logits=None)
    config = tmp_path / "packed" / "config.json"
    said = config.read_text(encoding="utf-8")
    config.write_text(said.replace('"quantizes_activations": false', '"quantizes_activations": true'), encoding="utf-8")
    export_gguf(str(tmp_path / "packed"), form, tmp_path / "model.gguf")  # type: ignore[arg-type]
    assert open_checkpoint(str(tmp_path / "model.gguf")).quantizes_activations


def test_a_code_of_two_makes_a_file_float(group_model: GroupModels, tmp_path: Path) -> None:
    """Q2_0 allows +2, which is no ternary code: the file runs as what it holds."""
    file = export(group_model("qwen3", 128), tmp_path / "model.gguf")
    fields, tensors = read_whole(file)
    kind, shape, data = tensors["blk.0.ffn_up.weight"]
    data = data.copy()
    data[2] |= 3
    found = open_checkpoint(
        str(write_whole(tmp_path / "two.gguf", fields, tensors | {"blk.0.ffn_up.weight": (kind, shape, data)}))
    )
    assert (found.format, found.group_size, found.dtype) == ("float", None, "Q2_0")
    scale = float(data[:2].view(np.float16)[0])
    assert float(Weights(found).tensor("model.layers.0.mlp.up_proj.weight")[0, 0]) == 2 * scale


def test_a_scale_that_is_not_finite_is_damage(group_model: GroupModels, tmp_path: Path) -> None:
    """Named by the tensor of the file."""
    file = export(group_model("qwen3", 128), tmp_path / "model.gguf")
    fields, tensors = read_whole(file)
    kind, shape, data = tensors["blk.0.ffn_up.weight"]
    data = data.copy()
    data[:2] = np.array([np.nan], np.float16).view(np.uint8)
    bad = write_whole(tmp_path / "nan.gguf", fields, tensors | {"blk.0.ffn_up.weight": (kind, shape, data)})
    with pytest.raises(BenchError, match=r"blk\.0\.ffn_up\.weight in .*nan\.gguf holds NaN or infinity"):
        open_checkpoint(str(bad))


def test_inspect_shows_the_groups_of_a_file(group_model: GroupModels, tmp_path: Path) -> None:
    """With its bits per weight: 2 bits, and a float16 for every 64."""
    found = inspect_layers(str(export(group_model("qwen3", 128), tmp_path / "model.gguf")))
    assert found.checkpoint.group_size == 128
    assert found.ternary_bits_per_weight == pytest.approx(2.25)
    assert found.trainable


def test_a_file_can_be_trained(group_model: GroupModels, tmp_path: Path) -> None:
    """Its masters give its codes and scales again."""
    source = inspect_folder(group_model("qwen3", 128))
    found = open_checkpoint(str(export(Path(source.path), tmp_path / "model.gguf")))
    ours, theirs = (load_model(one, "train", "ternary").state_dict() for one in (found, source))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
