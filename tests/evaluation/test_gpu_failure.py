"""A GPU that fails in the middle of an evaluation: what was answered is kept, and a sentence says how to go on."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench import cli
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.errors import BenchError, GpuLostError
from bitnet_bench.evaluation.answer_cache import list_stored_models
from bitnet_bench.protocols import sort_answers
from bitnet_bench.runs.folder import load_record
from tests.backends.test_branches import random_model, requests

LOST = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later")


def failing(after: int, error: Exception) -> Any:
    """Return a `hidden` that fails from its pass number *after* on."""
    real, passes = HFSession.hidden, []

    def hidden(session: HFSession, *arguments: Any) -> Any:
        passes.append(1)
        if len(passes) > after:
            raise error
        return real(session, *arguments)

    return hidden


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit status of a command."""
    monkeypatch.setattr("sys.argv", ["bitnet-bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_lost_gpu_keeps_answers_and_finished_tasks_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    words = ["evaluate", "--suite", "sample", "--task", "copa", "--task", "boolq", "--backend", "hf"]
    words += ["--out", str(tmp_path / "one")]
    with monkeypatch.context() as patch:
        patch.setattr(HFSession, "hidden", failing(3, LOST))
        assert run(words, patch) == 1
    said = capsys.readouterr().err
    assert "The GPU failed: CUDA error: an illegal memory access was encountered." in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    before = sum(model.answers for model in list_stored_models(own_cache))
    assert before > 0
    record = load_record(tmp_path / "one")
    assert len(record.errors) == 1, "the tasks after it are not tried on a lost GPU"
    assert run(words, monkeypatch) == 0
    record = load_record(tmp_path / "one")
    assert not record.errors
    assert {score.task for score in record.scores} == {"sample:copa", "sample:boolq"}
    assert record.counts["cached"] == before, "every answer before the failure is used"


@pytest.mark.parametrize("in_flight", [0, 1])
def test_what_was_started_before_an_error_of_ours_is_still_answered(
    in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        session = HFSession(random_model("llama"), None, "fp32")
        session.budget, session.in_flight = 40, in_flight
        wanted = dict(enumerate(sort_answers(session.loglikelihood(requests()))))
        monkeypatch.setattr(HFSession, "hidden", failing(3, BenchError("no", "")))
        found: dict[int, Any] = {}
        with pytest.raises(BenchError, match="no"):
            deque((found.update(some) for some in session.loglikelihood(requests())), maxlen=0)
    assert len(found) >= 3
    assert all(wanted[i] == answer for i, answer in found.items())


def test_one_batch_is_started_before_the_last_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with torch.inference_mode():
        session = HFSession(random_model("llama"), None, "fp32")
        session.budget, session.in_flight = 40, 1
        real = HFSession._score

        def score(self: HFSession, *arguments: Any) -> Any:
            order.append("start")
            collect = real(self, *arguments)

            def waited() -> Any:
                order.append("wait")
                return collect()

            return waited

        monkeypatch.setattr(HFSession, "_score", score)
        list(session.loglikelihood(requests()))
    assert order[:5] == ["start", "start", "wait", "start", "wait"]
    assert order.count("start") == order.count("wait")


def test_a_gpu_that_fails_while_it_writes_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        session = HFSession(random_model("llama"), None, "fp32")
        monkeypatch.setattr(HFSession, "prefill", lambda *_: (_ for _ in ()).throw(LOST))
        with pytest.raises(GpuLostError, match="illegal memory access"):
            list(session.generate([[1, 2, 3]], 4, []))
