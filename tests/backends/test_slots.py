"""Decoding in slots, as a graph replays it: the tokens of plain decoding, for rows of any lengths side by side."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.hf.slots import LENGTH_STEP, MOST_SLOTS, Slots
from bitnet_bench.protocols import sort_answers
from tests.backends.test_branches import random_model

Work = Callable[[], None]


class FakeGraphs:
    """Captures as a GPU does: the step is run a few times first, and replayed as it was."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.captured, self.replayed = works, 0, 0

    def __call__(self, step: Work) -> Work | None:
        """Return a replay that is counted."""
        self.captured += 1
        for _ in range(3):
            step()

        def replay() -> None:
            self.replayed += 1
            step()

        return replay if self.works else None


class Words:
    """A tokenizer whose texts are ids."""

    eos_token_id = 0

    def decode(self, ids: list[int], **_: Any) -> str:
        """Return the ids as words."""
        return " ".join(map(str, ids))


def sessions(model_type: str, graphs: FakeGraphs) -> tuple[HFSession, HFSession]:
    """Return the same model decoding plainly and in slots."""
    model = random_model(model_type)
    plain, slotted = (HFSession(model, Words(), "fp32") for _ in range(2))
    slotted.uses_slots, slotted.reader.in_rows, slotted.slots = True, True, Slots(model, graphs)
    return plain, slotted


def prompts(lengths: list[int]) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 300) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "bitnet"])
@pytest.mark.parametrize("works", [True, False])
def test_slots_decode_what_the_growing_cache_decodes(model_type: str, works: bool) -> None:
    graphs = FakeGraphs(works)
    with torch.inference_mode():
        plain, slotted = sessions(model_type, graphs)
        if model_type == "mistral":
            plain._model.config.sliding_window = None
        batch = prompts([9, 9, 9])
        one, other = plain.prefill(batch), slotted.prefill(batch)
        assert other.tokens.tolist() == one.tokens.tolist()
        for steps in (1, 5, 1):
            one, other = plain.decode(one, steps), slotted.decode(other, steps)
            assert other.tokens.tolist() == one.tokens.tolist()
    assert graphs.captured == 1, "one slot for all of it; and no second try where the first failed"
    assert graphs.replayed == (7 if works else 0)


def test_a_slot_that_is_full_makes_way_for_a_longer_one() -> None:
    graphs = FakeGraphs()
    with torch.inference_mode():
        plain, slotted = sessions("llama", graphs)
        batch = prompts([LENGTH_STEP - 2])
        one, other = plain.prefill(batch), slotted.prefill(batch)
        for _ in range(6):
            one, other = plain.decode(one, 1), slotted.decode(other, 1)
            assert other.tokens.tolist() == one.tokens.tolist()
    assert other.slot is not None
    assert other.slot.length == 2 * LENGTH_STEP
    assert graphs.captured == 2


def test_prompts_of_other_lengths_are_continued_side_by_side_as_alone() -> None:
    graphs = FakeGraphs()
    asked = prompts([3, 40, 17, 17, 1, 60, 25, 8, 33, 2])
    with torch.inference_mode():
        plain, slotted = sessions("llama", graphs)
        wanted = sort_answers(plain.generate(asked, 12, ["17 "]))
        found = sort_answers(slotted.generate(asked, 12, ["17 "]))
    assert found == wanted
    assert graphs.captured == 1, "one batch, which the growing cache cannot have"


def test_a_slot_in_use_is_not_given_away_and_one_that_is_free_is_used_again() -> None:
    graphs = FakeGraphs()
    with torch.inference_mode():
        plain, slotted = sessions("llama", graphs)
        first, second = prompts([9, 14])
        a, b = slotted.prefill([first]), slotted.prefill([second])
        for _ in range(4):
            a, b = slotted.decode(a, 1), slotted.decode(b, 1)
        assert graphs.captured == 2
        assert a.tokens.tolist() == plain.decode(plain.prefill([first]), 4).tokens.tolist()
        assert b.tokens.tolist() == plain.decode(plain.prefill([second]), 4).tokens.tolist()
        del a, b
        gc.collect()
        again = slotted.decode(slotted.prefill([first]), 4)
        assert graphs.captured == 2
        assert again.tokens.tolist() == plain.decode(plain.prefill([first]), 4).tokens.tolist()


def test_slots_of_many_shapes_do_not_pile_up() -> None:
    with torch.inference_mode():
        _, slotted = sessions("llama", FakeGraphs())
        for rows in range(1, MOST_SLOTS + 4):
            slotted.decode(slotted.prefill(prompts([5] * rows)), 1)
    assert len(slotted.slots._slots) <= MOST_SLOTS
