"""Trees in the rows of a batch, as a GPU reads them: the same answers, and little padding."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.backends.batch_size import LEAST_TOKENS, MOST_TOKENS, activation_bytes, choose_logits, choose_tokens
from bitnet_bench.backends.batched_session import Tree
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.hf.tree_mask import TreeMask
from bitnet_bench.backends.hf.tree_rows import ALIGNMENT, TreeRows, choose_rows, pack
from bitnet_bench.protocols import sort_answers
from tests.backends.test_branches import random_model, requests


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("shared", [0, 5, 70])
@pytest.mark.parametrize("budget", [40, 300, 100_000])
def test_rows_give_the_answers_of_one_row(model_type: str, shared: int, budget: int) -> None:
    asked = requests(shared)
    with torch.inference_mode():
        session = HFSession(random_model(model_type), None, "fp32")
        wanted = sort_answers(session.loglikelihood(asked))
        session.reader.in_rows, session.in_flight, session.budget = True, 1, budget
        found = sort_answers(session.loglikelihood(asked))
        again = sort_answers(session.loglikelihood(asked))
    assert again == found, "a batch leaves nothing behind in the keys of the prefix"
    for (ours, greedy), (theirs, same) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert greedy == same


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 200))
def test_every_tree_is_in_one_row_and_no_row_is_too_long(lengths: list[int], prefix: int) -> None:
    lengths = sorted(lengths, reverse=True)
    room, rows = choose_rows(lengths, prefix, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= room for row in rows)
    assert room >= max(lengths[0], prefix)
    assert (room + prefix) % ALIGNMENT == 0


def test_the_fullest_row_that_has_room_takes_the_next_tree() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_rows_of_a_korean_task_hold_little_padding() -> None:
    rng = random.Random(0)
    lengths = sorted((rng.randint(80, 340) for _ in range(90)), reverse=True)
    room, rows = choose_rows(lengths, 0, 2560)
    assert len(rows) * room < 1.12 * sum(lengths)


def test_no_token_is_without_anything_to_attend_to() -> None:
    layout = TreeRows.from_trees([Tree((1, 2, 3), ((4,), (5, 6))), Tree((7,), ((),))], 2, 64)
    seen = layout.find_seen(torch.device("cpu"))
    mask = TreeMask(2, layout.positions, seen)(len(seen), layout.ids.shape[1], layout.ids.shape[1] + 2)
    assert mask.shape[2:] == (layout.ids.shape[1], layout.ids.shape[1] + 2)
    assert bool((mask == 0).any(-1).all()), "a row of -inf is NaN, and NaN spreads"
    visible = (mask[0, 0] == 0).int().tolist()
    assert visible[3][:8] == [1, 1, 1, 1, 1, 1, 0, 0], "the first branch sees prefix, context and itself"
    assert visible[5][:8] == [1, 1, 1, 1, 1, 0, 1, 1], "the second does not see the first"


class TwoB:
    """The shape of 2B-4T."""

    hidden_size, intermediate_size, num_attention_heads, num_key_value_heads = 2560, 6912, 20, 5


def test_batches_are_as_large_as_the_free_memory_lets_them_be() -> None:
    token = activation_bytes(TwoB, 2)
    assert 50_000 < token < 250_000
    assert choose_tokens(100e9, token) == MOST_TOKENS
    assert LEAST_TOKENS < choose_tokens(1e9, token) < MOST_TOKENS
    assert choose_tokens(1e9, token) * token <= 0.5e9
    assert choose_tokens(2.0e9, token) == choose_tokens(2.1e9, token), "a run that goes on finds a little more or less"
    assert choose_tokens(0, token) == LEAST_TOKENS
    assert choose_logits(1e9) < choose_logits(100e9) == 2**27
