"""Several models, several processes, several programs: the scores are those of one run."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from bitnet_bench import cli, plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import evaluate as scoring
from bitnet_bench.evaluation.answer_cache import list_stored_models
from bitnet_bench.evaluation.evaluate import evaluate, evaluate_several
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.folder import load_record, lock_folder
from bitnet_bench.runs.jobs import EvaluateJob

TASKS = ["copa", "qa"]
Bench = Callable[..., tuple[str, str]]


@pytest.fixture
def bench(start_command: Callable[..., BaseProcess]) -> Bench:
    """Give what runs a command line in so many processes, and returns both streams of the first one."""

    def run(*words: str, processes: int = 1) -> tuple[str, str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        launched = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = [{**launched, "RANK": str(i)} if processes > 1 else {} for i in range(processes)]
        started = [start_command(*words, **variables) for variables in given]
        for process in started:
            process.join(300)
        said = [[file.read_text(encoding="utf-8") for file in one.output] for one in started]  # type: ignore[attr-defined]
        assert [one.exitcode for one in started] == [0] * processes, said
        return said[0][0], said[0][1]

    return run


def chosen() -> Any:
    return select_tasks(["sample"], TASKS)


@pytest.mark.parametrize("share", [0.5, 0.0], ids=["open together", "one by one"])
def test_models_take_turns_and_score_as_they_do_alone(
    tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task by task where both fit into memory, model by model where they do not; the scores are the same."""
    monkeypatch.setattr(scoring, "WEIGHTS_SHARE", share)
    job = EvaluateJob(limit=4, cache=False)
    begun: list[str] = []
    real = scoring._score_task

    def seen(run: Any, one: Any, *rest: Any) -> None:
        begun.append(f"{run.record.name} {one.task.name}")
        real(run, one, *rest)

    monkeypatch.setattr(scoring, "_score_task", seen)
    models = ["demo", "demo-fp16"]
    together = evaluate_several([(model, tmp_path / model) for model in models], chosen(), job)
    turns = [f"{model} {task}" for task in TASKS for model in models]
    assert begun == (turns if share else sorted(turns, key=lambda turn: turn.startswith("demo-fp16")))
    for model, record in zip(models, together, strict=True):
        assert record.scores == evaluate(model, chosen(), tmp_path / f"{model}-alone", job).scores
        assert load_record(tmp_path / model) == record


def test_two_models_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--model A --model B` gives two run folders, one table and a list in JSON; equal names are refused."""
    monkeypatch.chdir(tmp_path)

    def bench(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["bitnet-bench", "evaluate", "--suite", "sample", "--task", "copa", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    both = ["--model", "demo", "--model", "demo-fp16", "--limit", "4"]
    assert bench(*both, "--json") == 0
    assert [record["name"] for record in json.loads(capsys.readouterr().out)] == ["demo-sample", "demo-fp16-sample"]
    assert bench(*both, "--out", "there") == 0
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["demo", "demo-fp16"]
    assert bench("--model", "demo", "--model", "demo") == 2
    assert "end in the same name" in capsys.readouterr().err


def test_a_run_folder_has_one_writer(tmp_path: Path) -> None:
    """While one process holds it another is told so; a folder in which nothing came about is gone again."""
    out = tmp_path / "runs" / "one"
    with lock_folder(out), pytest.raises(BenchError, match="Another process writes into"):
        evaluate("demo", chosen(), out)
    assert not (tmp_path / "runs").exists()
    with lock_folder(out):
        (tmp_path / "runs" / "another").mkdir()
    assert [place.name for place in (tmp_path / "runs").iterdir()] == ["another"]


@pytest.mark.usefixtures("on_the_cpu")
def test_ctrl_c_ends_with_a_sentence_and_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    """Status 130; the same command takes the answers of the batches before, and leaves no half-made folder."""
    from bitnet_bench.backends.batched_session import BatchedSession

    real, passes = BatchedSession._score, []

    def interrupted(*arguments: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    words = ["bitnet-bench", "evaluate", "--suite", "sample", "--task", "copa", "--backend", "hf"]
    words += ["--out", str(tmp_path / "runs" / "one")]
    monkeypatch.setattr("sys.argv", words)
    with monkeypatch.context() as patch:
        patch.setattr(BatchedSession, "_score", interrupted)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    before = sum(model.answers for model in list_stored_models(own_cache))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert load_record(tmp_path / "runs" / "one").counts["cached"] == before > 0


def test_an_error_that_nobody_foresaw_loses_no_other_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the record by its name, and its traceback in a file."""
    from bitnet_bench.evaluation import task_run as run

    real = run.evaluate_task

    def broken(lm: Any, built: Any, *rest: Any) -> Any:
        if built.task.name == "copa":
            raise ZeroDivisionError("by zero")
        return real(lm, built, *rest)

    monkeypatch.setattr(run, "evaluate_task", broken)
    record = evaluate("demo", chosen(), tmp_path, EvaluateJob(limit=2))
    assert {score.task for score in record.scores} == {"sample:qa"}
    assert "ZeroDivisionError: by zero" in record.errors["sample:copa"]
    assert "in broken" in (tmp_path / "errors/sample-copa.txt").read_text(encoding="utf-8")


def test_two_processes_score_as_one_does(tmp_path: Path, bench: Bench) -> None:
    """With torchrun's variables, two gloo processes: the same scores and samples, each answer computed once."""
    one = evaluate("demo-fp16", chosen(), tmp_path / "one", EvaluateJob(limit=12, cache=False))
    words = ["evaluate", "--model", "demo-fp16", "--suite", "sample", "--limit", "12", "--out", str(tmp_path / "two")]
    shown, told = bench(*words, *(w for t in TASKS for w in ("--task", t)), "--json", processes=2)
    (two,) = json.loads(shown)  # one process talks
    assert [score.model_dump(mode="json") for score in one.scores] == two["scores"]
    for task in TASKS:
        file = f"samples/sample-{task}.jsonl"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert len(re.findall(r"sample:copa.*12/12", told)) == 1


TASK = """
task: copa_here
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{premise}}}} 그래서"
doc_to_choice: "{{{{[alternative_1, alternative_2]}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
PREMISES = ["비가 많이 왔다.", "아이가 넘어졌다.", "시험에 붙었다.", "불이 꺼졌다."]


@pytest.mark.parametrize("arguments", ["pretrained=demo-fp16,precision=fp32", "pretrained=demo,backend=ternary"])
def test_lm_evals_own_command_line_takes_our_models(tmp_path: Path, bench: Bench, arguments: str) -> None:
    """`bitnet-bench lm-eval run --model bitnet-bench`: the log-probabilities of our session, and the model's digest."""
    rows = tmp_path / "rows.jsonl"
    docs = [
        {"premise": p, "alternative_1": "우산을 썼다.", "alternative_2": "울었다.", "label": i % 2}
        for i, p in enumerate(PREMISES)
    ]
    rows.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs), encoding="utf-8")
    (tmp_path / "copa_here.yaml").write_text(TASK.format(file=rows), encoding="utf-8")
    words = ["run", "--model", "bitnet-bench", "--model_args", arguments, "--tasks", "copa_here"]
    places = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"]
    bench("lm-eval", *words, *places)
    (result,) = (tmp_path / "out").rglob("results_*.json")
    model = arguments.removeprefix("pretrained=").split(",")[0]
    checkpoint = open_checkpoint(model)
    assert json.loads(result.read_text(encoding="utf-8"))["config"]["model_sha256"] == checkpoint.sha256
    (samples,) = (tmp_path / "out").rglob("samples_copa_here_*.jsonl")
    found = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    theirs = {s["doc_id"]: [float(ll) for ll, _ in s["filtered_resps"]] for s in found}
    opener = plugins.load_plugin("backends", "ternary" if "ternary" in arguments else "hf")
    with opener.open(checkpoint, "ternary" if model == "demo" else "fp32") as session:
        lm = SessionLM(session)
        pairs = [(f"{d['premise']} 그래서", f" {d[f'alternative_{i}']}") for d in docs for i in (1, 2)]
        ours = [ll for ll, _ in lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])]
    assert [ll for i in range(len(docs)) for ll in theirs[i]] == pytest.approx(ours, abs=1e-5)


def test_lm_evals_command_line_refuses_an_argument_that_we_do_not_have() -> None:
    """`--model_args pretrained=demo,dtype=float16` is said to be wrong, not ignored."""
    from bitnet_bench.lm_eval_model import BitNetBenchLM

    with pytest.raises(BenchError, match="no argument dtype"):
        BitNetBenchLM(pretrained="demo", dtype="float16")


class Odd:
    """A tokenizer that adds *begin* and *end* to every text."""

    bos_token, eos_token, bos_token_id, eos_token_id, name_or_path = "<s>", "</s>", 0, 1, "odd"

    def __init__(self, begin: list[int], end: list[int]) -> None:
        self.begin, self.end = begin, end

    def encode(self, text: str, **_: Any) -> list[int]:
        """Return one token with what is added."""
        return [*self.begin, 7, *self.end]


@pytest.mark.parametrize(
    ("begin", "end", "said"), [([0, 0], [], "twice before"), ([0], [1], "ends every text"), ([], [1], "ends every")]
)
def test_a_tokenizer_that_changes_the_text_is_refused(begin: list[int], end: list[int], said: str) -> None:
    """Two BOS, or an EOS between a question and its choice, before the first request."""

    class Session:
        tokenizer = Odd(begin, end)

    with pytest.raises(BenchError, match=said):
        SessionLM(Session())  # type: ignore[arg-type]
    Session.tokenizer = Odd([0], [])
    SessionLM(Session())  # type: ignore[arg-type]
