"""A GGUF file is a model: its weights, its settings and its tokenizer are those of the folder that it was made from."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitnet_bench.backends.reference import transformers_logits
from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.gguf.gguf_shards import INDEX_NAME, read_index
from bitnet_bench.checkpoints.gguf.naming import I2S_ORDER_KEY, SOURCE_KEY
from bitnet_bench.checkpoints.gguf.parts import list_part_names
from bitnet_bench.checkpoints.gguf.types import (
    F16,
    F32,
    I2_S,
    Q8_0,
    TL1,
    TQ2_0,
    Form,
    I2sOrder,
    TensorType,
    pack_i2_s,
    pack_tensor,
    unpack_codes,
)
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.loading import find_end_ids, load_model, load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

from .gguf_writer import Tensors, read_whole, write_whole

FORMS: tuple[Form, ...] = ("f16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0", "i2_s")
TEXTS = ("안녕하세요, 오늘 날씨는?", "Hello, world! 12345", "👩‍👩‍👧 이모지 🇰🇷", "<s> 안녕</s>", "  두  칸\n\n\t", "")


def quiet(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


@pytest.fixture
def export(tmp_path: Path) -> Callable[[str | Checkpoint, Form], Path]:
    """Give what writes a checkpoint as GGUF and returns the file."""

    def write(model: str | Checkpoint, form: Form) -> Path:
        checkpoint = open_checkpoint(model) if isinstance(model, str) else model
        out = tmp_path / f"{Path(checkpoint.source).name}-{form}.gguf"
        write_gguf(checkpoint, form, out, quiet)
        return out

    return write


def changed(file: Path, out: Path, fields: dict[str, Any] | None = None, tensors: Tensors | None = None) -> Path:
    """Write *file* again with other fields (None: without) and other tensors."""
    old, held = read_whole(file)
    merged = {name: value for name, value in (old | (fields or {})).items() if value is not None}
    return write_whole(out, merged, held | (tensors or {}))


def assert_same_ternary(found: Checkpoint, source: Checkpoint) -> None:
    """Assert that two checkpoints have the same codes, scales and biases."""
    ours, theirs = Weights(found), Weights(source)
    assert set(ours.ternary) == set(theirs.ternary) != set()
    for module in theirs.ternary:
        (codes, gamma), (other, scale) = ours.codes(module), theirs.codes(module)
        assert torch.equal(codes, other), module
        assert gamma == scale, module
        assert ours.count_zeros(module) == int((other == 0).sum())


@pytest.mark.parametrize("form", FORMS)
def test_the_embedded_model_comes_back_from_every_type(form: Form, export: Callable[..., Path]) -> None:
    """Codes and scales are equal to the bit, of rows that fill no block too; so are ids, and what ends an answer."""
    source, file = open_checkpoint("demo"), export("demo", form)
    found = open_checkpoint(str(file))
    assert (found.format, found.source) == ("packed", str(file))
    assert_same_ternary(found, source)
    assert found.zero_density == source.zero_density
    assert (found.parameters, found.ternary_parameters) == (source.parameters, source.ternary_parameters)
    ours, theirs = load_tokenizer(found), load_tokenizer(source)
    assert [ours(text).input_ids for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]
    assert find_end_ids(found, ours) == find_end_ids(source, theirs)
    assert read_config(Path(found.path))["hidden_act"] == "relu2"


def test_the_digest_of_a_file_is_its_sha256(export: Callable[..., Path]) -> None:
    """A record names the file that anybody can hash, and says which types of tensors it holds."""
    import hashlib

    file = export("demo-fp16", "q8_0")
    found = open_checkpoint(str(file))
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.format == "float"
    assert found.dtype == "Q8_0"
    assert set(found.gguf_types) == {"Q8_0", "F32"}
    assert sum(found.weight_bytes.values()) == sum(found.gguf_types.values())


@pytest.mark.parametrize("form", ["tq1_0", "tq2_0", "i2_s", "q8_0"])
def test_rows_of_a_llama_stand_in_transformers_order(
    form: Form, llama: Checkpoint, export: Callable[..., Path]
) -> None:
    """llama.cpp's order of q and k is undone, with codes as with floats."""
    found = open_checkpoint(str(export(llama, form)))
    assert_same_ternary(found, llama)
    if form != "q8_0":  # which rounds the embedding
        prompts = encode_prompts(llama)
        assert torch.allclose(transformers_logits(found, prompts), transformers_logits(llama, prompts), atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_float_models_compute_the_same(
    architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path, export: Callable[..., Path]
) -> None:
    """Biases, norms of q and k, an untied head, Gemma's windows and its norms, which a file holds 1 larger."""
    from transformers import AutoModelForCausalLM

    folder, tokenizer = tmp_path / architecture, tiny_model("llama")
    if architecture == "gemma3":
        _write_tiny_gemma(folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_model(architecture))
        model.resize_token_embeddings(304, mean_resizing=False)  # Qwen2's class of tokenizers adds a token
        model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    source = open_checkpoint(str(folder))
    found = open_checkpoint(str(export(source, "f16")))
    assert found.format == "float"
    prompts = encode_prompts(source)
    ours, theirs = transformers_logits(found, prompts), transformers_logits(source, prompts)
    assert (ours - theirs).abs().max() < 0.01 * theirs.std()
    for name in Weights(source).floats:
        if Weights(source).tensor(name).dim() == 1:
            assert torch.allclose(Weights(found).tensor(name).float(), Weights(source).tensor(name).float(), atol=1e-6)


def _write_tiny_gemma(folder: Path) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, sliding_window=8, query_pre_attn_scalar=32, max_position_embeddings=128,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)


@pytest.mark.parametrize("order", ["x86", "arm", "rows"])
def test_the_order_of_i2_s_is_found_from_the_weights(
    order: I2sOrder, export: Callable[..., Path], tmp_path: Path
) -> None:
    """The file does not say how its machine ordered the codes; columns fit the norms before them in one order only."""
    fields, tensors = read_whole(export("demo", "i2_s"))
    del fields[I2S_ORDER_KEY]
    for name, (kind, shape, data) in tensors.items():
        if kind == I2_S:
            scale = float(data[-32:-28].view(np.float32)[0])
            tensors[name] = kind, shape, pack_i2_s(unpack_codes(data, kind, shape), scale, order)
    found = open_checkpoint(str(write_whole(tmp_path / "other.gguf", fields, tensors)))
    index = read_index(Path(found.path))
    assert index is not None
    assert index.order == order
    assert_same_ternary(found, open_checkpoint("demo"))


def test_weights_that_show_no_order_are_read_in_the_published_one(
    bitnet: Checkpoint, export: Callable[..., Path], tmp_path: Path
) -> None:
    """Random columns fit nothing; files that are written here say their order."""
    file = changed(export(bitnet, "i2_s"), tmp_path / "unmarked.gguf", {I2S_ORDER_KEY: None})
    assert_same_ternary(open_checkpoint(str(file)), bitnet)


def test_blocks_with_scales_of_their_own_are_no_ternary_model(
    bitnet: Checkpoint, export: Callable[..., Path], tmp_path: Path
) -> None:
    """Such a file runs dense, with the values that it holds; as ternary it is refused with the reason."""
    file = export(bitnet, "tq2_0")
    kind, shape, data = read_whole(file)[1]["blk.0.attn_q.weight"]
    data[64:66] = np.array([0.5], np.float16).view(np.uint8)
    other = changed(file, tmp_path / "other.gguf", tensors={"blk.0.attn_q.weight": (kind, shape, data)})
    found = open_checkpoint(str(other))
    assert found.format == "float"
    values = Weights(found).tensor("model.layers.0.self_attn.q_proj.weight")
    codes, gamma = Weights(bitnet).codes("model.layers.0.self_attn.q_proj")
    wanted = codes * gamma
    wanted[0] *= 0.5  # a row is one block
    assert torch.equal(values, wanted)
    load_model(found, "run", "fp32")
    with pytest.raises(BenchError, match="a scale for every block of 256, not one for each layer"):
        load_model(found, "run", "ternary")


def test_a_block_of_zeros_needs_no_scale(bitnet: Checkpoint, export: Callable[..., Path], tmp_path: Path) -> None:
    """ggml writes scale 0 there; the layer has one scale all the same."""
    file = export(bitnet, "tq2_0")
    kind, shape, data = read_whole(file)[1]["blk.0.attn_q.weight"]
    zeros = pack_tensor(np.zeros((1, 256), np.int8), TQ2_0).reshape(-1)
    zeros[64:] = 0
    data[: TQ2_0.block_bytes] = zeros
    found = open_checkpoint(
        str(changed(file, tmp_path / "other.gguf", tensors={"blk.0.attn_q.weight": (kind, shape, data)}))
    )
    codes, gamma = Weights(found).codes("model.layers.0.self_attn.q_proj")
    wanted, scale = Weights(bitnet).codes("model.layers.0.self_attn.q_proj")
    assert gamma == scale
    assert not codes[0].any()
    assert torch.equal(codes[1:], wanted[1:])


def test_llama3_positions_come_back_from_their_divisors(tmp_path: Path, export: Callable[..., Path]) -> None:
    """A file holds the divisors of the frequencies and not the four settings that they come from."""
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    from .conftest import CONFIG, DEMO

    rope = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    config = {name: value for name, value in CONFIG.items() if name != "rope_theta"} | {"rope_parameters": rope}
    write_random_checkpoint(config, 0, "autobitlinear", tmp_path / "llama3", DEMO, quiet)
    found = open_checkpoint(str(export(str(tmp_path / "llama3"), "tq2_0")))
    assert read_config(Path(found.path))["rope_parameters"] == rope


def test_a_split_file_is_opened_with_all_its_parts(export: Callable[..., Path], tmp_path: Path) -> None:
    """Any part stands for all; a missing one is named."""
    fields, tensors = read_whole(export("demo", "tq2_0"))
    names = list(tensors)
    parts = [tmp_path / name for name in list_part_names("model-00001-of-00003.gguf")]
    for number, part in enumerate(parts):
        own = {name: tensors[name] for name in names[number::3]}
        about = {"split.no": number, "split.count": 3, "split.tensors.count": len(names)}
        write_whole(part, (fields if number == 0 else {}) | about, own)
    for part in parts[:2]:
        found = open_checkpoint(str(part))
        assert_same_ternary(found, open_checkpoint("demo"))
        assert found.source == str(part)
    parts[2].unlink()
    parts[1].unlink()
    with pytest.raises(BenchError, match=r"one of 3 parts, and model-00002-of-00003\.gguf, model-00003-of-00003\.gguf"):
        open_checkpoint(str(parts[0]))
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(BenchError, match="one of 3 parts, and its name does not say which"):
        open_checkpoint(str(tmp_path / "renamed.gguf"))


def test_a_file_that_moves_is_the_same_model(export: Callable[..., Path], tmp_path: Path) -> None:
    """Its folder in the cache is found again, with where it is now; a changed file has another."""
    file = export("demo-fp16", "f16")
    before = open_checkpoint(str(file))
    kept = (Path(before.path) / "tokenizer.json").stat().st_mtime_ns
    moved = file.rename(tmp_path / "moved.gguf")
    with pytest.raises(BenchError, match="is gone"):
        Weights(before)
    after = open_checkpoint(str(moved))
    assert after.path == before.path
    assert (Path(after.path) / "tokenizer.json").stat().st_mtime_ns == kept
    assert torch.equal(Weights(after).tensor("model.norm.weight"), Weights(after).tensor("model.norm.weight"))
    assert open_checkpoint(after.path).source == str(moved)
    other = changed(moved, tmp_path / "other.gguf", {SOURCE_KEY: "another"})
    assert open_checkpoint(str(other)).path != after.path


def test_an_empty_tensor_is_damage(export: Callable[..., Path], tmp_path: Path) -> None:
    """No model has one, and no value of it could be looked at."""
    empty: Tensors = {"blk.0.ffn_up.weight": (F32, (0, 256), np.zeros(0, np.uint8))}
    with pytest.raises(BenchError, match=r"has the shape \[0, 256\], which F32 cannot have"):
        open_checkpoint(str(changed(export("demo", "tq2_0"), tmp_path / "empty.gguf", tensors=empty)))


def test_nothing_is_decoded_when_a_file_is_opened(export: Callable[..., Path], tmp_path: Path) -> None:
    """Less memory is allocated than three quarters of the file: of blocks only scales are kept."""
    file = export("demo-fp16", "q8_0")
    fields, tensors = read_whole(file)
    rows = 60_000
    fields["tokenizer.ggml.tokens"] = None
    zeros = np.zeros(Q8_0.bytes(rows * 256), np.uint8)
    tensors["token_embd.weight"] = Q8_0, (rows, 256), zeros
    del fields["tokenizer.ggml.tokens"]
    big = write_whole(tmp_path / "big.gguf", fields, tensors)
    open_checkpoint(str(file))  # imports
    tracemalloc.start()
    open_checkpoint(str(big))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 4 * rows * 256
    assert peak < 0.75 * big.stat().st_size < 0.25 * whole


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("general.architecture", "rwkv6", "of the architecture rwkv6, which is not read"),
        ("bitnet.block_count", 2**40, "says that it has 1099511627776 layers, and holds tensors of 4"),
        ("bitnet.attention.head_count", 2**31 - 1, "and its tensor blk.0.attn_q.weight is 256 x 256"),
        ("bitnet.attention.head_count_kv", 7, "and its tensor blk.0.attn_k.weight is 128 x 256"),
        ("bitnet.feed_forward_length", 0, "says 0 for bitnet.feed_forward_length"),
        ("bitnet.embedding_length", 512, "and its tensor token_embd.weight is 6144 x 256"),
        ("bitnet.context_length", None, "says None for bitnet.context_length"),
        ("bitnet.attention.layer_norm_rms_epsilon", float("nan"), "must be a number above 0"),
        ("bitnet.rope.scaling.type", "longrope", None),
    ],
)
def test_a_header_that_lies_is_one_sentence(
    field: str, value: Any, said: str | None, export: Callable[..., Path], tmp_path: Path
) -> None:
    """Counts are compared with the tensors before anything of their size is made."""
    fields: dict[str, Any] = {field: value}
    if said is None:
        fields, said = fields | {"bitnet.rope.scaling.factor": 4.0}, "rotary positions of type longrope"
    file = changed(export("demo-fp16", "f16"), tmp_path / "lies.gguf", fields)
    with pytest.raises(BenchError, match=said) as caught:
        open_checkpoint(str(file))
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("blk.0.ffn_gate_inp.weight", F16, "a mixture of experts"),
        ("blk.0.rotation.weight", F16, r"a tensor blk\.0\.rotation\.weight"),
        ("blk.0.attn_q.weight", TL1, "of type TL1, which only the build that wrote it reads"),
    ],
)
def test_a_tensor_that_no_model_has_is_named(
    name: str, kind: TensorType, said: str, export: Callable[..., Path], tmp_path: Path
) -> None:
    """Leaving it out would compute another model."""
    data = np.zeros(kind.bytes(256 * 256), np.uint8)
    file = changed(export("demo-fp16", "f16"), tmp_path / "odd.gguf", tensors={name: (kind, (256, 256), data)})
    with pytest.raises(BenchError, match=said):
        open_checkpoint(str(file))


def test_a_cut_off_or_flipped_file_is_one_sentence(export: Callable[..., Path], tmp_path: Path) -> None:
    """Wherever it ends; codes and scales that cannot be are found when it is opened, not when it runs."""
    whole = export("demo", "i2_s").read_bytes()
    cut = tmp_path / "cut.gguf"
    for share in (0.0, 0.01, 0.3, 0.6, 0.999):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BenchError):
            open_checkpoint(str(cut))
    fields, tensors = read_whole(export("demo-fp16", "f16"))
    data = tensors["output_norm.weight"][2]
    data[:4] = np.array([np.nan], np.float32).view(np.uint8)
    with pytest.raises(BenchError, match=r"output_norm\.weight in .* holds NaN or infinity"):
        open_checkpoint(str(write_whole(tmp_path / "nan.gguf", fields, tensors)))
    fields, tensors = read_whole(tmp_path / "demo-i2_s.gguf")
    data = tensors["blk.1.attn_k.weight"][2]
    data[5] = 0xFF
    with pytest.raises(BenchError, match=r"blk\.1\.attn_k\.weight in .* holds values that are no codes"):
        open_checkpoint(str(write_whole(tmp_path / "flipped.gguf", fields, tensors)))
    data[5], data[-32:-28] = 0, 0xFF
    with pytest.raises(BenchError):
        open_checkpoint(str(write_whole(tmp_path / "scale.gguf", fields, tensors)))


def test_what_is_no_model_is_said_so(tmp_path: Path, export: Callable[..., Path]) -> None:
    """A file that is missing, a folder that holds files only, and a damaged index, which is made again."""
    with pytest.raises(BenchError, match=r"no file model\.gguf"):
        open_checkpoint("model.gguf")
    file = export("demo", "tq2_0")
    with pytest.raises(BenchError, match=r"holds demo-tq2_0\.gguf and no config\.json"):
        open_checkpoint(str(tmp_path))
    place = Path(open_checkpoint(str(file)).path) / INDEX_NAME
    place.write_text("{}", encoding="utf-8")
    assert open_checkpoint(str(file)).format == "packed"
    assert read_index(place.parent) is not None
