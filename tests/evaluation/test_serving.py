"""A run of a served model: scored, resumed, compared and reported, with what cannot be known of it said."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from bitnet_bench.backends.openai import retrying
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli.output import list_notes, scores_table
from bitnet_bench.comparison.compare_runs import compare_runs
from bitnet_bench.errors import BenchError, EndpointLostError, UsageError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.generation import number_draws
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.serving import make_settings
from bitnet_bench.machine.runtime_choice import choose_backend
from bitnet_bench.measurement.candidates import make_candidates
from bitnet_bench.reports.sections import ReportOptions
from bitnet_bench.reports.write import write_report
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import RunRecord


def load_fake() -> ModuleType:
    """Return the fake server of the tests of the backend."""
    file = Path(__file__).parents[1] / "backends" / "fake_openai.py"
    spec = importlib.util.spec_from_file_location("fake_openai_of_runs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_openai_of_runs"] = module
    spec.loader.exec_module(module)
    return module


fake = load_fake()
KEY = "sk-very-secret-key"


def answer(handler: Any) -> None:
    """Answer as vLLM does: log-probabilities of a prompt by its characters, and texts."""
    if not handler.body.get("echo"):
        return fake.write_answer(handler)
    text = handler.body["prompt"]
    values = [None, *(-0.01 - 0.001 * (ord(one) % 997) for one in text[1:]), -0.5]
    top = [None, *({"x": -0.001} for _ in values[1:])]
    found = {"tokens": [*text, "!"], "token_logprobs": values, "top_logprobs": top}
    usage = {"prompt_tokens": len(text), "completion_tokens": 1}
    return handler.reply(200, {"choices": [{"text": text + "!", "logprobs": found}], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a fake server that answers like vLLM, and a key for it; nobody waits long for it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(retrying, "FIRST_WAIT_S", 0.001)
    with fake.serve() as found:
        found.answer = answer
        yield found


def run(server: Any, out: Path, *tasks: str, **more: Any) -> RunRecord:
    """Score the served model on tasks of `sample`."""
    job = EvaluateJob(backend="openai", base_url=server.url, **{"concurrency": 2, "limit": 3, **more})
    return evaluate(fake.MODEL, select_tasks(["sample"], tasks or ["copa", "qa"]), out, job)


def test_the_record_says_what_was_served_and_what_is_not_known(server: Any, tmp_path: Path) -> None:
    """Endpoint, what the server says, its tokens and times; the format is `served`, and no file is digested."""
    record = run(server, tmp_path / "run")
    assert record == load_record(tmp_path / "run")
    checkpoint = record.checkpoint
    assert (checkpoint.source, checkpoint.endpoint, checkpoint.format) == (fake.MODEL, server.url, "served")
    assert (record.backend, record.precision, checkpoint.is_ternary) == ("openai", "served", False)
    assert checkpoint.served_as == {"owned_by": "fake"}
    assert record.runtime == "a server of fake, over OpenAI's protocol"
    assert {score.task for score in record.scores} == {"sample:copa", "sample:qa"}
    served = record.serving["sample:qa"]
    assert (served.answers, served.prompt_tokens, served.new_tokens, served.cut) == (3, 15, 9, 0)
    assert served.first_token_s is not None
    written = "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "run").rglob("*.json*"))
    assert KEY not in written


def test_a_second_run_asks_nothing_again(server: Any, tmp_path: Path) -> None:
    """Answers are stored for this endpoint and model, likelihoods and texts alike, with their tokens and times."""
    first = run(server, tmp_path / "a")
    asked = len(server.bodies)
    second = run(server, tmp_path / "b")
    assert len(server.bodies) == asked
    assert second.counts["cached"] == second.counts["requests"] == first.counts["requests"]
    assert (second.scores, second.serving) == (first.scores, first.serving)


def test_another_model_of_the_same_name_shares_no_answer(server: Any, tmp_path: Path) -> None:
    """What the server says of it is part of its identity."""
    run(server, tmp_path / "a", "qa")
    described = {"id": fake.MODEL, "owned_by": "fake", "root": "/models/other"}
    server.faults_of_models.extend([lambda handler: handler.reply(200, {"data": [described]})] * 2)
    other = run(server, tmp_path / "b", "qa")
    assert other.counts["cached"] == 0
    with pytest.raises(BenchError, match="checkpoint"):
        run(server, tmp_path / "b", "qa")


def test_a_server_that_goes_away_keeps_what_it_answered(server: Any, tmp_path: Path) -> None:
    """The run ends with a sentence, the tasks before it are scored, and the same command asks only for the rest."""
    server.faults.extend([answer, answer, fake.status(401, "expired")])
    with pytest.raises(EndpointLostError, match="refuses the key"):
        run(server, tmp_path / "run", "qa", "translation", concurrency=1)
    assert KEY not in (tmp_path / "run" / "record.json").read_text(encoding="utf-8")
    record = run(server, tmp_path / "run", "qa", "translation", concurrency=1)
    assert record.counts["cached"] == 2
    assert record.errors == {}
    assert len(record.scores) > 1


def test_a_request_that_is_refused_fails_its_task_and_names_its_row(server: Any, tmp_path: Path) -> None:
    """Too long a prompt is one row of one task; the other task is scored."""
    server.faults.extend([answer, fake.status(400, "the prompt is too long")])
    record = run(server, tmp_path / "run", "qa", "translation", concurrency=1)
    assert list(record.errors) == ["sample:qa"]
    assert "too long" in record.errors["sample:qa"]
    assert record.errors["sample:qa"].startswith("Line 2 of ")
    assert {score.task for score in record.scores} == {"sample:translation"}


def test_likelihoods_without_log_probabilities_are_no_scores(server: Any, tmp_path: Path) -> None:
    """A server that ignores `echo` scores generated answers only; a chat template and running text likewise."""
    server.answer = fake.write_answer
    record = run(server, tmp_path / "run")
    assert list(record.errors) == ["sample:copa"]
    assert "log-probabilities of a prompt" in record.errors["sample:copa"]
    server.answer = answer
    record = run(server, tmp_path / "chat", chat_template=True)
    assert list(record.errors) == ["sample:copa"]
    assert "chat_template" in record.errors["sample:copa"]
    assert server.seen[-1][0] == "/v1/chat/completions"
    assert [one["role"] for one in server.bodies[-1]["messages"]] == ["user"]


def test_what_is_about_a_checkpoint_here_is_refused(server: Any, tmp_path: Path) -> None:
    """A precision of a served model is not ours to choose, and its costs are not measured from here."""
    with pytest.raises(UsageError, match="`precision`"):
        run(server, tmp_path / "run", "qa", precision="fp32")
    run(server, tmp_path / "run", "qa")
    with pytest.raises(BenchError, match="on a server"):
        make_candidates([str(tmp_path / "run")], (), None)
    with pytest.raises(UsageError, match="opens no checkpoint"):
        choose_backend("openai", open_checkpoint("demo"), "ternary")


def test_a_base_url_and_its_backend_come_together(server: Any, tmp_path: Path) -> None:
    """One without the other is wrong usage, before anything is asked."""
    for job in (EvaluateJob(backend="openai"), EvaluateJob(base_url=server.url)):
        with pytest.raises(UsageError, match="base_url"):
            evaluate(fake.MODEL, select_tasks(["sample"], ["qa"]), tmp_path / "run", job)
    assert server.seen == []


def test_served_runs_are_compared_and_reported(server: Any, tmp_path: Path) -> None:
    """Beside a run of a checkpoint here, with their provenance, and text of the server as text."""
    name = "<script>alert(1)</script>"
    described = {"id": fake.MODEL, "owned_by": name, "meta": {"n_params": 1000}}
    server.faults_of_models.extend([lambda handler: handler.reply(200, {"data": [described]})] * 2)
    served = run(server, tmp_path / "served")
    local = evaluate("demo", select_tasks(["sample"], ["copa", "qa"]), tmp_path / "local", EvaluateJob(limit=3))
    found = compare_runs(tmp_path / "served", tmp_path / "local", 1.0)
    assert {one.task for one in found.comparison.differences} == {"sample:copa", "sample:qa"}
    assert scores_table([served, local]).columns
    assert list_notes([served, local]) is not None
    page, _ = write_report([tmp_path / "served", tmp_path / "local"], tmp_path / "r.html", options=ReportOptions())
    html = page.read_text(encoding="utf-8")
    assert name not in html
    assert fake.MODEL in html
    assert KEY not in html
    assert json.dumps(name)[1:-1] in html or "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_how_tokens_are_drawn_is_said_to_the_server() -> None:
    """Nothing for the most likely ones; else temperature, its limits, and a seed for each answer to a row."""
    greedy = SimpleNamespace(temperature=0.0, seed=5, top_p=0.5, thinking="auto")
    assert make_settings(greedy, 3, is_chat=True) == {}
    assert make_settings(None, 0, is_chat=True) == {}
    drawn = SimpleNamespace(temperature=0.7, seed=5, top_p=0.9, top_k=40, thinking="off")
    wanted = {"temperature": 0.7, "seed": 5 + 3 * 1_000_003, "top_p": 0.9, "top_k": 40}
    assert make_settings(drawn, 3, is_chat=False) == wanted
    assert make_settings(drawn, 3, is_chat=True) == wanted | {"chat_template_kwargs": {"enable_thinking": False}}


def test_answers_to_one_row_are_numbered() -> None:
    """As lm-eval repeats a request: the same object."""
    one, two = (Instance("generate_until", {}, ("가", {}), 0) for _ in range(2))
    assert number_draws([one, two, one, one]) == [0, 0, 1, 2]
