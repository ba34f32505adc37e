"""A config.json that describes another model than the weights is refused by the lean engine as by `hf`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.backends.hf import HFBackend
from bitnet_bench.backends.ternary import TernaryBackend
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import InferenceBackend
from bitnet_bench.ternary import kernel

CHANGES: dict[str, Callable[[Any], Any]] = {
    "vocab_size": lambda size: 2 * size,
    "tie_word_embeddings": lambda tied: not tied,
    "num_key_value_heads": lambda _: 7,
    "num_attention_heads": lambda heads: heads // 2,
    "hidden_size": lambda size: 2 * size,
    "intermediate_size": lambda size: size // 2,
    "num_hidden_layers": lambda layers: layers - 1,
    "head_dim": lambda _: 32,
}


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
@pytest.mark.parametrize("field", CHANGES)
def test_a_config_of_another_model_is_refused(field: str, tmp_path: Path) -> None:
    """Some were scored as if nothing were wrong, and another ended in a ValueError while prompts were read."""
    demo = Path(open_checkpoint("demo").path)
    for file in demo.iterdir():
        shutil.copy(file, tmp_path / file.name)
    config = json.loads((demo / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {field: CHANGES[field](config.get(field))}), "utf-8")
    backends: list[InferenceBackend] = [TernaryBackend(), HFBackend()]
    for backend in backends:
        with pytest.raises(BenchError) as caught, backend.open(inspect_folder(tmp_path), "ternary"):
            pass
        assert "do not fit its config" in caught.value.problem or "config.json" in caught.value.problem
