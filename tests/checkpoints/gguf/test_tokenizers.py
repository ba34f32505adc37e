"""The tokenizer of a GGUF file gives the ids of the folder's, or is refused with what to give instead."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.gguf.tokenizer import _derive_merges, save_tokenizer
from bitnet_bench.checkpoints.gguf.vocabulary import WHOLE_TOKENIZER_KEY
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.layers import inspect_checkpoint
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.errors import BenchError

from .gguf_writer import read_whole, write_whole

TEXTS = ("안녕하세요, 오늘 날씨는 어때요?", "Hello, world! 12345", "👩‍👩‍👧 🇰🇷", "<s>안녕 </s> 네", "  두  칸\n\n\t끝")


Build = Callable[[Path, dict[str, Any]], Any]


def quiet(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


@pytest.fixture
def build_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Give what saves the tokenizer of a GGUF file with some metadata, and returns it as transformers loads it."""
    from transformers import PreTrainedTokenizerFast

    def build(path: Path, fields: dict[str, Any]) -> Any:
        folder = tmp_path_factory.mktemp("tokenizer")
        save_tokenizer(path, fields, folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)

    return build


@pytest.fixture
def demo_fields(tmp_path: Path) -> dict[str, Any]:
    """Give the metadata of the embedded model, without its whole tokenizer.json."""
    write_gguf(open_checkpoint("demo"), "tq2_0", tmp_path / "model.gguf", quiet)
    fields = read_whole(tmp_path / "model.gguf")[0]
    del fields[WHOLE_TOKENIZER_KEY]
    return fields


def test_tokens_and_merges_give_the_folders_ids(demo_fields: dict[str, Any], build_tokenizer: Build) -> None:
    """Korean, English, emoji, special tokens and spaces, with BOS where the folder adds it, and back to the text."""
    ours, theirs = build_tokenizer(Path("model.gguf"), demo_fields), load_tokenizer(open_checkpoint("demo"))
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids, text
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    named = ("bos_token", "eos_token", "pad_token")
    assert [getattr(ours, name) for name in named] == [getattr(theirs, name) for name in named]


def test_digits_are_split_as_the_name_says(demo_fields: dict[str, Any], build_tokenizer: Build) -> None:
    """SmolLM's name splits every digit; GPT-2's does not."""
    demo_fields["tokenizer.ggml.merges"] = ["1 2", *demo_fields["tokenizer.ggml.merges"]]
    tokens = demo_fields["tokenizer.ggml.tokens"]
    tokens[tokens.index("ì")] = "12"
    demo_fields["tokenizer.ggml.merges"] = ["1 2"]
    plain = build_tokenizer(Path("model.gguf"), demo_fields)
    split = build_tokenizer(Path("model.gguf"), demo_fields | {"tokenizer.ggml.pre": "smollm"})
    assert plain.tokenize("12") == ["12"]
    assert split.tokenize("12") == ["1", "2"]


def test_pieces_are_merged_by_their_scores(build_tokenizer: Build) -> None:
    """Llama 2's kind: a space before text unless the file says no, bytes for what is no piece, and BOS by default."""
    byte = [f"<0x{value:02X}>" for value in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte, "▁", "a", "b", "ab", "▁ab", "안", "녕", "안녕"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 8]
    fields = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0 if kind != 1 else -float(i) for i, kind in enumerate(kinds)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    made = build_tokenizer(Path("model.gguf"), fields)
    assert made.convert_ids_to_tokens(made("ab안녕c").input_ids) == ["<s>", "▁ab", "안녕", "<0x63>"]
    assert made.decode(made("ab 안녕").input_ids, skip_special_tokens=True) == "ab 안녕"
    bare = build_tokenizer(Path("model.gguf"), fields | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.convert_ids_to_tokens(bare("ab").input_ids) == ["<s>", "ab"]


def test_a_file_of_bitnet_cpp_that_names_no_split_is_read_as_llama_3(
    demo_fields: dict[str, Any], build_tokenizer: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own file of BitNet 2B-4T names none; Llama 3's first special token shows which it is."""
    del demo_fields["tokenizer.ggml.pre"]
    with pytest.raises(BenchError, match="splits text in a way called nothing at all") as caught:
        build_tokenizer(Path("model.gguf"), demo_fields)
    assert "Give `tokenizer`" in str(caught.value)
    demo_fields["tokenizer.ggml.tokens"].append("<|begin_of_text|>")
    made = build_tokenizer(Path("model.gguf"), demo_fields)
    assert [len(piece) for piece, _ in made.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345")] == [3, 2]
    assert "is read as that" in caplog.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer"),
        ({"tokenizer.ggml.model": "plamo2"}, "of the kind plamo2, which is not read"),
        ({"tokenizer.ggml.pre": "brand-new"}, "splits text in a way called brand-new"),
        ({"tokenizer.ggml.merges": ["no such"]}, "cannot be built"),
    ],
)
def test_an_unknown_tokenizer_says_what_to_give(
    fields: dict[str, Any], said: str, demo_fields: dict[str, Any], tmp_path: Path
) -> None:
    """The file can be looked at and its weights compared without one; whoever needs it is told of `tokenizer`."""
    merged = {name: value for name, value in (demo_fields | fields).items() if value is not None}
    file = write_whole(tmp_path / "odd.gguf", merged, read_whole(tmp_path / "model.gguf")[1])
    found = open_checkpoint(str(file))
    assert len(encode_prompts(found)) == 4
    assert said in str(inspect_checkpoint(found, quiet).tokenizer_problem)
    with pytest.raises(BenchError, match=said) as caught:
        load_tokenizer(found)
    assert "Give `tokenizer`" in str(caught.value)
    given = open_checkpoint(str(file), "demo")
    assert given.sha256 == found.sha256
    assert given.path != found.path
    ours, theirs = load_tokenizer(given), load_tokenizer(open_checkpoint("demo"))
    assert ours(TEXTS[0]).input_ids == theirs(TEXTS[0]).input_ids


def test_a_folder_keeps_its_own_tokenizer(
    tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The option is for GGUF files, and says so; what it names must have a tokenizer."""
    folder = tiny_model("llama")
    assert open_checkpoint(str(folder), "demo").path == str(folder)
    assert "`tokenizer` is for GGUF files" in caplog.text
    write_gguf(open_checkpoint("demo"), "tq2_0", tmp_path / "model.gguf", quiet)
    with pytest.raises(BenchError, match=r"has no tokenizer\.json"):
        open_checkpoint(str(tmp_path / "model.gguf"), str(tmp_path))


def test_merges_are_those_of_the_scores_and_take_little_memory(tmp_path: Path) -> None:
    """Every pair that makes a token, by score, then the longer left piece, then the earlier one; in columns."""
    tokens = ["a", "b", "c", "ab", "bc", "abc", "ca"]
    pairs = [("ab", "c"), ("a", "bc"), ("c", "a"), ("a", "b"), ("b", "c")]
    assert _derive_merges(tokens, [0, 0, 0, -2.0, -3.0, 5.0, -1.0]) == pairs
    syllables = [chr(0xAC00 + index) for index in range(150)]
    tokens = [*syllables, *(first + second for first in syllables for second in syllables)]
    tracemalloc.start()
    found = _derive_merges(tokens, range(0, -len(tokens), -1))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(token[0], token[1]) for token in tokens if len(token) == 2]
    assert peak_bytes / len(found) < 250  # 400 as tuples with their keys
