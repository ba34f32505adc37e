"""Files of a checkpoint that are of another kind than this version knows, or that lie about a model's size."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.building import build_outline, load_config_object
from bitnet_bench.checkpoints.config import MAX_LAYERS, read_config, read_generation_config
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.bounds import bounded
from bitnet_bench.errors import BenchError

DEMO = Path(open_checkpoint("demo-fp16").path)


@pytest.fixture
def change(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that copies a checkpoint and changes fields of one of its JSON files."""

    def make(file: str = "config.json", **fields: Any) -> Path:
        folder = tmp_path / "checkpoint"
        shutil.copytree(DEMO, folder)
        there = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps({**there, **fields}), encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 2**31),
        ("num_hidden_layers", MAX_LAYERS + 1),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", "4"),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 4.0),
        ("num_hidden_layers", None),
        ("hidden_size", 2**40),
        ("hidden_size", -64),
        ("intermediate_size", 10**400),
        ("num_attention_heads", 2**31),
        ("num_key_value_heads", 0),
        ("vocab_size", 2**31),
        ("vocab_size", [6144]),
        ("max_position_embeddings", 2**63),
        ("model_type", 3),
        ("architectures", "BitNetForCausalLM"),
        ("architectures", [None]),
        ("quantization_config", "bitnet"),
        ("quantization_config", {"modules_to_not_convert": "lm_head"}),
        ("quantization_config", {"rms_norm_eps": float("nan")}),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1, 2**40]),
        ("text_config", {"num_hidden_layers": 2**31}),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_a_config_of_wrong_types_or_sizes_names_the_field(field: str, value: Any, change: Callable[..., Path]) -> None:
    """2^31 layers were built until the machine had no memory; others ended in a traceback."""
    folder = change(**{field: value})
    with pytest.raises(BenchError) as raised:
        inspect_folder(folder)
    assert str(folder / "config.json") in raised.value.problem
    assert field in raised.value.problem or "digits" in raised.value.problem


@pytest.mark.parametrize(
    "shape",
    [{"num_key_value_heads": None}, {"head_dim": None}, {"max_position_embeddings": 2**20}, {"new_field": [{}]}],
)
def test_what_published_configs_hold_is_read(shape: dict[str, Any], change: Callable[..., Path]) -> None:
    """A null stands for a default, and fields that are not used may hold anything."""
    assert read_config(change(**shape))["model_type"] == "bitnet"


@pytest.mark.parametrize("value", ["1", [None], {"a": 1}, 2**40, 0.5])
def test_a_generation_config_of_wrong_types_names_the_field(value: Any, change: Callable[..., Path]) -> None:
    folder = change("generation_config.json", eos_token_id=value)
    with pytest.raises(BenchError, match=r"generation_config\.json cannot be used: eos_token_id"):
        read_generation_config(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({"attention_dropout": "high"}, "attention_dropout"),
        ({"rope_parameters": 7}, ""),
        ({"hidden_act": "nonesuch"}, "nonesuch"),
    ],
)
def test_a_config_that_transformers_refuses_is_a_sentence(
    fields: dict[str, Any], words: str, change: Callable[..., Path]
) -> None:
    """Whatever a family's code raises; the sentence names the file and what it said."""
    folder = change(**fields)
    checkpoint = open_checkpoint("demo-fp16").model_copy(update={"path": str(folder)})
    for use in (lambda: load_model(checkpoint, "run", "fp32"), lambda: load_config_object(folder)):
        if fields.get("hidden_act") and use is not None:
            use = lambda: load_model(checkpoint, "run", "fp32")  # noqa: E731 - a config alone builds no activation
        with pytest.raises(BenchError) as raised:
            use()
        assert str(folder / "config.json") in raised.value.problem
        assert words in str(raised.value)
        assert raised.value.__cause__ is not None


def test_a_model_that_takes_too_long_to_outline_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that is not bounded, such as the number of experts, cannot build for hours."""
    from bitnet_bench.checkpoints import building

    monkeypatch.setattr(building, "OUTLINE_SECONDS", 0.05)
    with pytest.raises(BenchError, match="transformers cannot build") as raised:
        build_outline({**read_config(DEMO), "num_hidden_layers": MAX_LAYERS})
    assert "computing" in raised.value.hint


def test_time_alone_can_be_bounded() -> None:
    def loop() -> None:
        with bounded(0.05):
            while True:
                pass

    with pytest.raises(TimeoutError):
        loop()


def test_a_time_that_ends_in_the_garbage_collector_is_over_after_it() -> None:
    """Python drops what is raised in a callback of the collector, and pytest makes a failure of it."""

    def wait(phase: str, info: dict[str, int]) -> None:
        started = time.process_time()
        while phase == "start" and time.process_time() - started < 0.2:
            pass

    def collect() -> None:
        with bounded(0.05):
            gc.collect()
            while True:
                pass

    gc.callbacks.append(wait)
    try:
        with pytest.raises(TimeoutError):
            collect()
    finally:
        gc.callbacks.remove(wait)


def test_a_model_larger_than_its_files_is_refused_before_it_takes_memory(change: Callable[..., Path]) -> None:
    """A config of a petabyte beside weights of 9 MB."""
    folder = change(intermediate_size=2**22, num_hidden_layers=1000)
    checkpoint = open_checkpoint("demo-fp16").model_copy(update={"path": str(folder)})
    with pytest.raises(BenchError, match="do not fit its config: it describes"):
        load_model(checkpoint, "run", "fp32")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"post_processor": ' + b'{"a": [' * 40 + b"]}" * 40 + b"}"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Nonesuch"}}'),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"eos_token": 5}'),
        ("tokenizer_config.json", b'{"tokenizer_class": 5}'),
        ("tokenizer_config.json", b'{"tokenizer_class": "Nonesuch", "eos_token": "</s>", "eos_token": "x"}'),
        ("tokenizer_config.json", b"\xb0\xa1"),
        ("special_tokens_map.json", b"3"),
        ("added_tokens.json", b"{"),
    ],
)
def test_a_tokenizer_of_another_kind_is_a_sentence(file: str, content: bytes, change: Callable[..., Path]) -> None:
    """The Rust library raises bare exceptions, and transformers whatever a wrong type gives."""
    folder = change()
    (folder / file).write_bytes(content)
    with pytest.raises(BenchError) as raised:
        load_tokenizer(open_checkpoint("demo-fp16").model_copy(update={"path": str(folder)}))
    assert str(folder) in raised.value.problem
    assert raised.value.hint


def test_a_panic_of_the_rust_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no `Exception`; Ctrl-C, which is none either, is not taken for one."""
    import transformers

    class PanicException(BaseException):
        """What pyo3 raises."""

    def fail(error: BaseException) -> Callable[..., Any]:
        def load(*_: Any, **__: Any) -> Any:
            raise error

        return load

    checkpoint = open_checkpoint("demo-fp16")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail(PanicException("index out of bounds")))
    with pytest.raises(BenchError, match="no usable tokenizer") as raised:
        load_tokenizer(checkpoint)
    assert "index out of bounds" in raised.value.hint
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(checkpoint)


@pytest.mark.parametrize(
    "index",
    [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": ""}}', b"{",
     b'{"weight_map": {"a": "../model.safetensors"}}', b'{"weight_map": {"a": "' + b"x" * 300 + b'"}}'],
)  # fmt: skip
def test_a_wrong_index_is_a_sentence(index: bytes, change: Callable[..., Path]) -> None:
    folder = change()
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(BenchError) as raised:
        inspect_folder(folder)
    assert str(folder) in raised.value.problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"null"),
        ("tokenizer.json", '{"모델": {}}'.encode("cp949")),
        ("chat_template.jinja", "{{ '한국어' }}".encode("cp949")),
        ("additional_chat_templates/tool.jinja", "{{ '한국어' }}".encode("cp949")),
    ],
)
def test_a_file_of_the_tokenizer_that_cannot_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(open_checkpoint("demo").path, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(BenchError, match=f"{name} cannot be read"):
        load_tokenizer(open_checkpoint(str(folder)))
