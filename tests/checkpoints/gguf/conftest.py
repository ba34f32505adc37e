"""What the tests of GGUF share: a tiny ternary Llama whose rows fill the blocks of every tensor type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitnet_bench
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.runs.records import Checkpoint

DEMO = Path(bitnet_bench.__file__).parent / "demo" / "ternary"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 6144,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.1,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    },
}


@pytest.fixture(autouse=True)
def own_folder(make_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep exported files of a test to itself."""
    folder = make_folder()
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(folder))
    return folder


def _written(folder: Path, seed: int, **changed: Any) -> Checkpoint:
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    write_random_checkpoint(
        {**CONFIG, **changed}, seed, "autobitlinear", folder, DEMO, lambda done, total, note="": None
    )
    return open_checkpoint(str(folder))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Give a random ternary Llama of 2 layers, 256 / 512."""
    return _written(tmp_path_factory.mktemp("llama") / "llama", seed=0)


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Give another model of the same shape."""
    return _written(tmp_path_factory.mktemp("llama") / "other", seed=1)


@pytest.fixture(scope="session")
def bitnet(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Give a BitNet of the same shape: SubLN, and a squared ReLU."""
    changed = {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2"}
    return _written(tmp_path_factory.mktemp("llama") / "bitnet", seed=0, **changed)
