"""GGUF export: codes and scales come back equal, other models are caught, and what has no place is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.checkpoints.gguf import vocabulary
from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.naming import GgufLayout, make_layout
from bitnet_bench.checkpoints.gguf.types import (
    F16,
    F32,
    GROUP_TYPES,
    I2_S,
    TERNARY_TENSOR_TYPES,
    TQ1_0,
    TQ2_0,
    Form,
    pack_tensor,
    read_i2_s_scale,
    unpack_tensor,
)
from bitnet_bench.checkpoints.gguf.writing import ACTIVATION_KEY, SOURCE_KEY, plan_gguf_tensors, write_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

ALL: tuple[Form, ...] = ("f16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0", "i2_s")


def quiet(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


@settings(deadline=None)  # the first call imports the gguf package
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_codes_survive_the_blocks_of_ggml(rows: int, blocks: int, seed: int) -> None:
    """TQ2_0, TQ1_0 and I2_S give back every code; TQ2_0 has the very bytes of the gguf package."""
    from gguf import GGMLQuantizationType, quants

    codes = np.random.default_rng(seed).integers(-1, 2, (rows, 256 * blocks), dtype=np.int8)
    codes[:, ::256] = 1  # the package takes a block's scale from its largest value, which 256 zeros have not
    for kind in (kind for kind in TERNARY_TENSOR_TYPES if kind not in GROUP_TYPES):
        data = pack_tensor(codes, kind, scale=0.25)
        assert data.size == kind.bytes(codes.size)
        assert np.array_equal(unpack_tensor(data.reshape(-1), kind, codes.shape), codes)
    theirs = quants.quantize(codes.astype(np.float32), GGMLQuantizationType.TQ2_0)
    assert np.array_equal(pack_tensor(codes, TQ2_0).reshape(-1), theirs.reshape(-1))
    assert read_i2_s_scale(pack_tensor(codes, I2_S, scale=0.25)) == 0.25


def test_i2_s_stands_as_bitnet_cpp_reads_it() -> None:
    """Of 128 codes the first 32 are in the highest bits of 32 bytes (quantize_to_i2_s of microsoft/BitNet)."""
    codes = np.zeros((1, 128), dtype=np.int8)
    codes[0, 0], codes[0, 33], codes[0, 127] = 1, -1, 1
    data = pack_tensor(codes, I2_S, scale=2.0)
    zero = 0b01010101
    assert data[0] == zero + (1 << 6)
    assert data[1] == zero - (1 << 4)
    assert data[31] == zero + 1
    assert data.size == 32 + 32


@pytest.mark.parametrize("form", ALL)
def test_an_exported_llama_is_the_checkpoint(form: Form, llama: Checkpoint, tmp_path: Path) -> None:
    """Codes are equal in every type, and scales where the type keeps them, whatever the order of a head's rows."""
    file = tmp_path / "model.gguf"
    assert write_gguf(llama, form, file, quiet) == ()
    found = compare_weights(llama, GgufFile(file))
    assert found.ternary_layers == 14
    assert found.largest_scale_error <= {"q8_0": 1e-3, "q4_0": 0.2}.get(form, 1e-6)
    assert found.largest_float_error <= {"q8_0": 0.01, "q4_0": 0.01}.get(form, 1e-3)


def test_a_bitnet_says_its_norms_and_its_activation(bitnet: Checkpoint, tmp_path: Path) -> None:
    """SubLN's tensors stand under llama.cpp's names; the squared ReLU and the source are fields of the file."""
    file = tmp_path / "model.gguf"
    write_gguf(bitnet, "tq2_0", file, quiet)
    found = GgufFile(file)
    assert found.architecture == "bitnet"
    assert {"blk.0.attn_sub_norm.weight", "blk.1.ffn_sub_norm.weight", "blk.0.attn_q.scale"} <= found.tensors.keys()
    assert found.fields[ACTIVATION_KEY] == "relu2"
    assert found.fields[SOURCE_KEY] == bitnet.sha256
    write_gguf(bitnet, "i2_s", tmp_path / "i2_s.gguf", quiet)
    assert GgufFile(tmp_path / "i2_s.gguf").architecture == "bitnet-b1.58"


def test_rows_that_fill_no_block_stay_codes(tmp_path: Path) -> None:
    """The embedded model's 704 columns are no whole blocks: those layers are named, and exact as floats.

    bitnet.cpp reads no scale beside a tensor, so that it is multiplied in, in float32.
    """
    demo = open_checkpoint("demo")
    forms: tuple[Form, ...] = ("tq2_0", "i2_s")
    for form, kind, beside in zip(forms, (F16, F32), (True, False), strict=True):
        named = write_gguf(demo, form, tmp_path / form, quiet)
        assert named == tuple(f"blk.{i}.ffn_down.weight" for i in range(4))
        file = GgufFile(tmp_path / form)
        assert file.tensors[named[0]].kind == kind
        assert ("blk.0.ffn_down.scale" in file.tensors) == beside
        assert compare_weights(demo, file).largest_scale_error < 1e-7


def test_a_float_model_is_exported_and_has_no_ternary_types(tmp_path: Path) -> None:
    """The FP16 twin becomes F16; TQ2_0 would need codes that it has not."""
    twin = open_checkpoint("demo-fp16")
    write_gguf(twin, "f16", tmp_path / "model.gguf", quiet)
    assert compare_weights(twin, GgufFile(tmp_path / "model.gguf")).largest_float_error == 0
    with pytest.raises(BenchError, match="plain float weights"):
        write_gguf(twin, "tq2_0", tmp_path / "other.gguf", quiet)


def test_a_file_of_another_model_is_caught(
    llama: Checkpoint, other_llama: Checkpoint, bitnet: Checkpoint, tmp_path: Path
) -> None:
    """Another seed of one shape differs in its codes, another architecture by its name, and floats by their values."""
    file = tmp_path / "model.gguf"
    write_gguf(other_llama, "tq2_0", file, quiet)
    with pytest.raises(BenchError, match=r"another model .* codes of blk\.0"):
        compare_weights(llama, GgufFile(file))
    with pytest.raises(BenchError, match="of the architecture llama, the checkpoint is bitnet"):
        compare_weights(bitnet, GgufFile(file))


def test_one_wrong_code_is_caught(llama: Checkpoint, tmp_path: Path) -> None:
    """A single byte of a matrix that is another is another model."""
    file = tmp_path / "model.gguf"
    write_gguf(llama, "tq1_0", file, quiet)
    data = bytearray(file.read_bytes())
    data[GgufFile(file).tensors["blk.1.ffn_up.weight"].start] ^= 0b10000
    file.write_bytes(data)
    with pytest.raises(BenchError, match=r"codes of blk\.1\.ffn_up"):
        compare_weights(llama, GgufFile(file))


def test_a_cut_off_or_foreign_file_is_refused(llama: Checkpoint, tmp_path: Path) -> None:
    """Half a file, and a file of another kind, are named and not read."""
    file = tmp_path / "model.gguf"
    write_gguf(llama, "tq2_0", file, quiet)
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b"PK\x03\x04" + whole[4:]):
        file.write_bytes(part)
        with pytest.raises(BenchError, match=r"GGUF|ends before"):
            GgufFile(file)


def test_heads_rows_are_turned_as_llama_cpp_wants() -> None:
    """The halves of a head become neighbours, as in llama.cpp's own converter; a BitNet's rows stay."""
    config = {"num_attention_heads": 2, "num_key_value_heads": 1}
    rows = torch.arange(8)[:, None]
    turned = GgufLayout("llama", config).rows("model.layers.0.self_attn.q_proj", rows)
    assert turned[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(GgufLayout("bitnet", config).rows("model.layers.0.self_attn.q_proj", rows), rows)


def test_splits_of_text_are_named() -> None:
    """GPT-2's, Llama 3's and Qwen's expressions are told apart by how they take digits."""
    assert vocabulary.find_pre_tokenizer({"type": "ByteLevel", "use_regex": True}) == "gpt-2"
    assert vocabulary.find_pre_tokenizer({"pattern": {"Regex": r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"}}) == "llama-bpe"
    assert vocabulary.find_pre_tokenizer({"pattern": {"Regex": r"\p{N}| ?[^\s\p{L}\p{N}]+"}}) == "qwen2"


def test_families_are_exported_and_strange_ones_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """An untied head comes back; biases and norms of heads have names; what llama.cpp computes otherwise is refused."""
    llama = open_checkpoint(str(tiny_model("llama")))
    write_gguf(llama, "f16", tmp_path / "llama.gguf", quiet)
    assert compare_weights(llama, GgufFile(tmp_path / "llama.gguf")).largest_float_error < 1e-3
    for family, name in {"qwen2": "blk.0.attn_q.bias", "qwen3": "blk.1.attn_k_norm.weight"}.items():
        checkpoint = open_checkpoint(str(tiny_model(family)))
        weights = Weights(checkpoint)
        found = plan_gguf_tensors(weights, make_layout(checkpoint, weights.config, "llama.cpp"), "f16")
        assert name in {entry.name for entry in found}
    for family, reason in {"mistral": "sliding-window", "gpt2": "model_type gpt2"}.items():
        with pytest.raises(BenchError, match=reason):
            write_gguf(open_checkpoint(str(tiny_model(family))), "f16", tmp_path / "other.gguf", quiet)


def test_tq1_holds_its_own_size() -> None:
    """54 bytes for 256 codes: 1.6875 bits each."""
    assert TQ1_0.bytes(256) == 54
