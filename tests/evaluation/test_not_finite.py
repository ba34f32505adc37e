"""A model that computes NaN or infinity is an error that names the row, and no score."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.backends.batched_session import BatchedSession
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.ternary.inference import open_session
from bitnet_bench.backends.token_choice import NO_TOKEN, choose_greedy
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.comparison.comparing import compare
from bitnet_bench.errors import BenchError, NotFiniteError, RowError
from bitnet_bench.evaluation.answer_cache import AnswerStore
from bitnet_bench.evaluation.lm import LIKELIHOOD_STRUCT, SessionLM
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import evaluate_task
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.measurement.worker import _BatchWorker
from bitnet_bench.runs.folder import save_record, save_samples
from bitnet_bench.runs.reading import read_run
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.usefixtures("on_the_cpu")


class Shelf(AnswerStore):
    """A store in memory."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}

    def lookup(self, requests: Any) -> dict[int, bytes]:
        """Return what is there."""
        return {i: self.answers[request] for i, request in enumerate(requests) if request in self.answers}

    def save(self, pairs: Any) -> None:
        """Keep all."""
        self.answers.update(pairs)


def make_hf_session(family: str, value: float) -> HFSession:
    """Return a session on a random model whose last norm multiplies by *value*; `falcon` decodes without slots."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **shape, vocab_size=6144, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(value)
    return HFSession(model, load_tokenizer(open_checkpoint("demo")), "fp16")


@pytest.fixture(params=["llama", "falcon", "ternary"])
def session(request: pytest.FixtureRequest) -> Iterator[BatchedSession]:
    """Give a session whose model computes NaN."""
    with torch.inference_mode():
        if request.param != "ternary":
            yield make_hf_session(request.param, math.nan)
            return
        if kernel.load_library() is None:
            pytest.skip("the CPU kernel is not built here")
        with open_session(open_checkpoint("demo"), "ternary", "stored") as found:
            found._engine.final_norm.weight.fill_(math.nan)  # type: ignore[attr-defined]
            yield found


@pytest.mark.parametrize("task", ["copa", "translation"])
def test_nan_is_an_error_with_the_row_and_nothing_is_kept(task: str, session: BatchedSession) -> None:
    ((suite, found),) = select_tasks(["sample"], [task])
    shelf = Shelf()
    with pytest.raises(
        BenchError, match=r"Line \d+ of .*test.jsonl makes the model compute NaN or infinity in"
    ) as error:
        evaluate_task(SessionLM(session, answers=shelf), build_task(suite, found, TaskSettings()), limit=2)
    assert ("`precision=bf16`" in error.value.hint) == (session.precision == "fp16")
    assert shelf.answers == {}


def test_nan_in_an_answer_of_chat_is_an_error_with_the_precision(session: BatchedSession) -> None:
    with pytest.raises(NotFiniteError, match=f"The model computes NaN or infinity in {session.precision}"):
        list(session.generate([[5, 6, 7]], 4, []))


def test_nan_is_an_error_of_measuring(session: BatchedSession) -> None:
    """Its times are those of no model that works."""
    state = session.decode(session.prefill([[5, 6, 7]]), 2)
    assert state.tokens.tolist() == [NO_TOKEN]
    worker = object.__new__(_BatchWorker)
    worker._session = session
    with pytest.raises(NotFiniteError):
        worker._check_tokens(state)


def test_infinity_is_an_error_as_well() -> None:
    session = make_hf_session("llama", math.inf)
    with torch.inference_mode(), pytest.raises(NotFiniteError):
        list(session.generate([[5, 6, 7]], 4, []))


def test_a_token_that_is_impossible_does_not_hinder_the_others() -> None:
    """A family may mask parts of its vocabulary with -inf; a row of nothing else has no token."""
    inf = math.inf
    logits = torch.tensor([[-inf, 1.0, 3.0, 3.0], [math.nan, 1.0, 2.0, 0.0], [0.0, inf, 1.0, 2.0], [-inf] * 4])
    assert choose_greedy(logits).tolist() == [2, NO_TOKEN, NO_TOKEN, NO_TOKEN]


def test_nan_in_the_cache_of_an_older_version_is_asked_again() -> None:
    """A stored NaN is no answer; what the session says now is kept instead."""
    session, shelf = make_hf_session("llama", 0.01), Shelf()
    asked = [Instance("loglikelihood", {}, ("하늘은", " 푸르다"), 0, ("task", 3, 1))]
    with torch.inference_mode():
        (expected,) = SessionLM(session, answers=shelf).loglikelihood(asked)
        for bad in (math.nan, -math.inf):
            shelf.answers = dict.fromkeys(shelf.answers, LIKELIHOOD_STRUCT.pack(bad, False))
            lm = SessionLM(session, answers=shelf)
            assert lm.loglikelihood(asked) == [expected]
            assert lm.counts["cached"] == 0
        assert SessionLM(session, answers=shelf).loglikelihood(asked) == [expected]
        with pytest.raises(RowError) as caught:
            SessionLM(make_hf_session("llama", math.nan)).loglikelihood(asked)
    assert caught.value.row == 3


def test_null_log_likelihoods_of_an_old_run_are_named(make_results: Any, tmp_path: Path) -> None:
    """`compare` says why there are no pairs, and the notice that the score means nothing."""
    run = make_results("old", {"s:t": [1.0, 0.0, 1.0]})
    samples = {task: save_samples(tmp_path, task, rows) for task, rows in run.examples.items()}
    save_record(tmp_path, run.record.model_copy(update={"samples": samples}))
    file = tmp_path / "samples" / "s-t.jsonl"
    rows = [json.loads(line) | {"loglikelihoods": [None, None]} for line in file.read_text("utf-8").splitlines()]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    old = read_run(tmp_path)
    (refused,) = compare(old, old).refused
    (why,) = {found.en for found in refused.differs}
    assert why == "old has examples whose log-likelihoods are null: the model computed NaN or infinity"
    assert any("the model computed NaN or infinity" in notice.what.en for notice in old.notices)
