"""Drawn tokens: the distribution is that of transformers, and a text depends on nothing but its own request."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from bitnet_bench.backends.batched_session import BatchedSession, Prompt, Writing
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.hf.slots import Slots
from bitnet_bench.backends.token_choice import NO_TOKEN, Sampler, choose_greedy, draw_tokens, filter_scores
from bitnet_bench.errors import NotFiniteError
from bitnet_bench.protocols import Completion, Sampling, Share, sort_answers
from tests.backends.test_slots import FakeGraphs, Words, sessions

pytestmark = pytest.mark.usefixtures("on_the_cpu")
WARM = Sampling(temperature=1.3, seed=5)
logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.1, 5),
    top_p=st.floats(0.05, 1.0),
    top_k=st.none() | st.integers(1, 50),
)


def draw_plainly(row: Sequence[float], uniform: float, sampling: Sampling) -> int:
    """Return the token at *uniform* of the distribution, in plain Python."""
    scores = [value / sampling.temperature for value in row]
    kept = set(range(len(row)))
    if sampling.top_k is not None and sampling.top_k < len(row):
        least = sorted(scores, reverse=True)[sampling.top_k - 1]
        kept = {i for i in kept if scores[i] >= least}
    total = math.fsum(math.exp(scores[i] - max(scores)) for i in kept)
    before, least = 0.0, math.inf
    for score in sorted((scores[i] for i in kept), reverse=True):
        if before >= sampling.top_p:
            break
        before, least = before + math.exp(score - max(scores)) / total, score
    shares = [math.exp(s - max(scores)) if i in kept and s >= least else 0.0 for i, s in enumerate(scores)]
    running = list(accumulate(shares))
    return next((i for i, sum_ in enumerate(running) if sum_ > uniform * running[-1]), len(row) - 1)


@settings(deadline=None, max_examples=200)
@example(row=[0.0, 0.0], uniform=0.9, sampling=Sampling(temperature=1.0, top_p=0.5))
@example(row=[0.0] * 10, uniform=0.95, sampling=Sampling(temperature=1.0, top_p=0.1))
@given(row=logits, uniform=st.floats(0, 1, exclude_max=True), sampling=samplings)
def test_a_drawn_token_is_that_of_a_plain_implementation(row: list[float], uniform: float, sampling: Sampling) -> None:
    """At every place of the distribution, whatever is left out; rounding decides where a sum is a bound itself."""
    drawn = draw_tokens(torch.tensor([row]), torch.tensor([uniform], dtype=torch.float64), sampling)
    shifts = (-1e-9, 0, 1e-9)
    alike = [replace(sampling, top_p=min(sampling.top_p + shift, 1.0)) for shift in shifts]
    near = {draw_plainly(row, min(max(uniform + shift, 0), 1 - 1e-12), one) for shift in shifts for one in alike}
    assert drawn.item() in near


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 10**6), vocabulary=st.sampled_from([3, 50, 3000]), sampling=samplings)
def test_what_is_left_out_is_what_transformers_leaves_out(seed: int, vocabulary: int, sampling: Sampling) -> None:
    """Its own warpers, one after the other, give the same probabilities; a large vocabulary takes another path."""
    row = 3 * torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = TemperatureLogitsWarper(float(sampling.temperature))(None, row.clone())
    if sampling.top_k is not None:
        wanted = TopKLogitsWarper(sampling.top_k)(None, wanted)
    if sampling.top_p < 1.0:
        wanted = TopPLogitsWarper(sampling.top_p)(None, wanted)
    found = filter_scores(row / sampling.temperature, sampling)
    torch.testing.assert_close(found.softmax(-1), wanted.softmax(-1), rtol=0, atol=1e-12)


def test_drawn_tokens_are_as_frequent_as_they_are_likely() -> None:
    """Over 20,000 prompts that differ in one number; the greedy token is only one of them."""
    row = torch.tensor([1.0, 0.0, -1.0, 2.0, -30.0])
    sampler = Sampler(Sampling(temperature=1.0), [[i] for i in range(20_000)], [0] * 20_000)
    shares = sampler.choose(row.expand(20_000, -1)).bincount(minlength=5) / 20_000
    torch.testing.assert_close(shares, row.softmax(-1), rtol=0, atol=0.015)


def test_each_random_number_is_of_its_own_request_and_step() -> None:
    """Seed, prompt, draw and step each give another one, and the same four the same."""
    flat = torch.zeros(1, 10**6)

    def draw(seed: int = 0, ids: Sequence[int] = (1, 2), number: int = 0, steps: int = 1) -> int:
        sampler = Sampler(Sampling(1.0, seed=seed), [ids], [number])
        return [sampler.choose(flat) for _ in range(steps)][-1].item()

    found = [draw(), draw(seed=1), draw(ids=(2, 1)), draw(ids=(1, 2, 0)), draw(number=1), draw(steps=2)]
    assert len(set(found)) == len(found)
    assert draw() == found[0]


def test_a_row_with_a_logit_that_is_no_number_has_no_token() -> None:
    """As in greedy decoding, and the other rows are drawn."""
    rows = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [-math.inf, 0.0], [-math.inf, -math.inf]])
    drawn = draw_tokens(rows, torch.full((4,), 0.5, dtype=torch.float64), WARM).tolist()
    assert drawn == [NO_TOKEN, NO_TOKEN, 1, NO_TOKEN] == choose_greedy(rows).tolist()


def test_a_nearly_cold_temperature_is_greedy() -> None:
    """Without overflow: the largest logit is taken off before the division."""
    rows = torch.tensor([[900.0, 899.0, -900.0], [-5.0, -4.0, -3.0]])
    uniforms = torch.tensor([0.0, 0.999999], dtype=torch.float64)
    assert draw_tokens(rows, uniforms, Sampling(1e-6)).tolist() == [0, 2]


@pytest.fixture
def session() -> HFSession:
    """Give a session on a small float model, whose texts are ids."""
    return sessions("llama", FakeGraphs())[0]


def make_prompts(count: int) -> list[list[int]]:
    rng = random.Random(3)
    return [[rng.randrange(3, 300) for _ in range(rng.choice([3, 7, 7, 12]))] for _ in range(count)]


def write(session: BatchedSession, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Completion]:
    with torch.inference_mode():
        return sort_answers(session.generate(prompts, 12, ["17 "], **settings))


def test_texts_do_not_depend_on_what_else_is_asked(session: HFSession) -> None:
    """Alone, in another order, in smaller batches, shared by two workers, or with half of them known."""
    prompts = make_prompts(12)
    whole = write(session, prompts, sampling=WARM)
    assert whole != write(session, prompts), "they are drawn"
    assert len({answer.text for answer in whole}) > 6
    assert [write(session, [prompt], sampling=WARM)[0] for prompt in prompts] == whole
    assert write(session, prompts[::-1], sampling=WARM) == whole[::-1]
    shares = [write(session, prompts, sampling=WARM, part=Share(worker=w, workers=2)) for w in (0, 1)]
    assert sorted(answer.text for share in shares for answer in share) == sorted(answer.text for answer in whole)
    some = write(session, prompts, sampling=WARM, part=Share(known=frozenset(range(0, 12, 2))))
    assert some == whole[1::2]
    session.budget = 14
    assert write(session, prompts, sampling=WARM) == whole


def test_draws_of_one_prompt_differ_and_each_is_repeatable(session: HFSession) -> None:
    """Draw 2 is the same text with or without draws 0 and 1; without a temperature all are one."""
    (prompt,) = make_prompts(1)
    three = write(session, [prompt] * 3, sampling=WARM, draws=[0, 1, 2])
    assert len({answer.text for answer in three}) == 3
    assert write(session, [prompt], sampling=WARM, draws=[2]) == three[2:]
    assert len({answer.text for answer in write(session, [prompt] * 3, draws=[0, 1, 2])}) == 1


def test_a_longer_limit_continues_the_same_text(session: HFSession) -> None:
    """The limit is not part of the random numbers."""
    prompts = make_prompts(4)
    with torch.inference_mode():
        short, long = (sort_answers(session.generate(prompts, n, [], sampling=WARM)) for n in (4, 12))
    assert all(more.text.startswith(less.text) for less, more in zip(short, long, strict=True))
    assert all(answer.cut == (len(answer.text.split()) == 4) for answer in short)


def test_an_answer_ends_where_the_context_does(session: HFSession) -> None:
    """A prompt that leaves three tokens gets three, beside one with room for all; both are cut."""
    session.max_length = 20
    session.uses_slots, session.in_rows, session.slots = True, True, Slots(session._model, FakeGraphs())
    with torch.inference_mode():
        answers = sort_answers(session.generate([[5] * 17, [6] * 17, [7]], 6, []))
    assert [(len(answer.text.split()), answer.cut) for answer in answers] == [(3, True), (3, True), (6, True)]


def test_slots_draw_the_texts_of_plain_decoding(session: HFSession) -> None:
    """After each replay of a graph, which chooses greedily, the drawn tokens take the place of its own."""
    graphs = FakeGraphs()
    plain, slotted = sessions("llama", graphs)
    prompts = make_prompts(9)
    assert write(slotted, prompts, sampling=WARM) == write(plain, prompts, sampling=WARM)
    assert graphs.replayed
    assert write(slotted, prompts) == write(plain, prompts), "nothing of the draws is left"


def test_a_row_that_is_not_finite_is_named_while_others_are_drawn() -> None:
    """The number of the request, as in greedy decoding."""

    class Broken(HFSession):
        """A session whose second row breaks."""

        def __init__(self) -> None:
            self.precision, self.tokenizer = "fp32", Words()

        def prefill(self, batch: Any) -> Any:
            """Return a token for the first row alone."""
            return type("State", (), {"tokens": self._choose(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]))})

        def queue(self, state: Any) -> Any:
            """Wait for each."""

    with pytest.raises(NotFiniteError) as caught:
        Broken()._continue([Prompt((1,), 1), Prompt((2,), 1)], Writing(sampling=WARM))
    assert caught.value.request == 1
