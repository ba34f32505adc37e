"""Where an answer ends: at every id that a checkpoint names, and at stop strings with special tokens in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench.backends.batched_session import Prompt, Writing
from bitnet_bench.backends.hf import HFBackend
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import find_end_ids
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import sort_answers

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture
def checkpoint(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """Give a folder of a float model of its own."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "llama"))


def write(file: Path, **settings: Any) -> None:
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**there, **settings}), encoding="utf-8")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("ids", [7, [7, 9], [1, 7]])
def test_every_id_that_a_checkpoint_names_ends_an_answer(
    file: str, ids: int | list[int], checkpoint: Path, tokenizer: Any
) -> None:
    """One id or a list, in either file, beside the tokenizer's EOS."""
    write(checkpoint / file, eos_token_id=ids)
    assert find_end_ids(inspect_folder(checkpoint), tokenizer) == {
        tokenizer.eos_token_id,
        *([ids] if ids == 7 else ids),
    }


def test_a_checkpoint_without_generation_settings_has_the_ends_of_its_config(checkpoint: Path, tokenizer: Any) -> None:
    """A broken file of them is a sentence with its name."""
    (checkpoint / "generation_config.json").unlink()
    assert find_end_ids(inspect_folder(checkpoint), tokenizer) == {1}
    for text in ("{", "[]"):
        (checkpoint / "generation_config.json").write_text(text, encoding="utf-8")
        with pytest.raises(BenchError, match=r"generation_config\.json"):
            find_end_ids(inspect_folder(checkpoint), tokenizer)


def test_an_opened_checkpoint_stops_where_transformers_stops(checkpoint: Path) -> None:
    """The third greedy token is made an end of turn: the answer is what `generate` of transformers gives."""
    from transformers import AutoModelForCausalLM

    prompt = [0, 50, 60, 70]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)

    def theirs() -> list[int]:
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        return made[0, len(prompt) :].tolist()

    free = theirs()
    model.generation_config.eos_token_id = [1, free[2]]
    model.generation_config.save_pretrained(checkpoint)
    cut = theirs()
    assert len(cut) < len(free)
    with HFBackend().open(inspect_folder(checkpoint), "fp32") as session:
        (found,) = sort_answers(session.generate([prompt], 12, []))
        assert found.text == session.tokenizer.decode(cut[:-1], skip_special_tokens=True)


class Scripted(HFSession):
    """A session that writes what it is told."""

    def __init__(self, tokenizer: Any, ids: list[int]) -> None:
        self.tokenizer, self._ids = tokenizer, ids

    def prefill(self, batch: Any) -> Any:
        """Write the first id."""
        return State(self._ids)

    def decode(self, state: Any, steps: int) -> Any:
        """Write the next one."""
        return State(state.ids[1:])

    def queue(self, state: Any) -> Any:
        """Wait for each."""
        return None


class State:
    """What is still to be written."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.tokens = ids, torch.tensor(ids[:1])


@pytest.fixture(scope="module")
def chat_words(make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer whose end of turn is a special token, and not its EOS."""
    made = make_tokenizer(False)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


@pytest.mark.parametrize(
    ("written", "stop", "answer"),
    [
        ("서울<|im_end|>\n부산", "<|im_end|>", "서울"),
        ("서울\n<|im_end|>\n부산", "\n<|im_end|>", "서울"),
        ("서울<|im_end|>\n부산", "<|im_end|>\n", "서울"),
        ("<|im_end|>부산", "<|im_end|>", ""),
        ("<|im_start|>서울 시<|im_end|>부산", "시<|im_end|>", "서울 "),
        ("<|im_start|>서울\n부산", "\n", "서울"),
        ("서울<|im_start|>부산</s>대구", "<|im_end|>", "서울부산"),
        ("서울", "<|im_end|>", "서울"),
    ],
)
def test_a_stop_string_that_is_a_special_token_ends_an_answer(
    written: str, stop: str, answer: str, chat_words: Any
) -> None:
    """Stops are looked for with special tokens kept, and the answer has none of them."""
    ids = chat_words.encode(written, add_special_tokens=False)
    (found,) = Scripted(chat_words, ids)._continue([Prompt((0,), len(ids))], Writing([stop]))
    assert found.text == answer
