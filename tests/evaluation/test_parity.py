"""Our session gives what lm-eval's own `hf` model gives, on the same rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.backends.hf import HFBackend
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import evaluate_task
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.protocols import Completion, sort_answers
from bitnet_bench.runs.jobs import EvaluateJob

# both sides on the CPU: a GPU differs by the order of float sums, which tests of its own bound
pytestmark = pytest.mark.usefixtures("on_the_cpu")

DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
KOBEST = ["boolq", "copa", "wic", "hellaswag", "sentineg"]
needs_data = pytest.mark.skipif(
    not (DATA / "kobest").is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA"
)


def _reference(model: str, precision: Any, built: Any, limit: int | None) -> list[dict[str, Any]]:
    """Return lm-eval's samples from its own HFLM, one request at a time so that nothing is padded."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    checkpoint = open_checkpoint(model)
    loaded = load_model(checkpoint, "run", precision)
    lm = HFLM(pretrained=loaded, tokenizer=load_tokenizer(checkpoint), batch_size=1)
    tasks = {"tasks": {built.task_name: built}, "groups": {}, "group_map": {}}
    results = evaluator.evaluate(lm, tasks, limit=limit, bootstrap_iters=0, log_samples=True)
    return sorted(results["samples"][built.task_name], key=lambda s: s["doc_id"])


def _compare(model: str, precision: Any, suite_name: str, task_name: str, limit: int | None) -> None:
    ((suite, task),) = select_tasks([suite_name], [task_name])
    data = None if suite_name == "sample" else DATA
    with HFBackend().open(open_checkpoint(model), precision) as session:
        lm = SessionLM(session)
        ours = evaluate_task(lm, build_task(suite, task, TaskSettings(data)), limit).examples
    theirs = _reference(model, precision, build_task(suite, task, TaskSettings(data)).lm_task, limit)
    assert len(ours) == len(theirs) > 0
    for example, sample in zip(ours, theirs, strict=True):
        assert example.prompt == sample["arguments"][0][0]
        if example.choices:
            reference = [ll for ll, _ in sample["filtered_resps"]]
            assert example.loglikelihoods == pytest.approx(reference, abs=1e-4)
            assert example.output_choice == reference.index(max(reference))
            assert float(example.output_choice == example.target_choice) == sample["acc"]
        else:
            assert example.output == sample["filtered_resps"][0].strip()


@needs_data
@pytest.mark.parametrize("task", KOBEST)
@pytest.mark.parametrize(
    ("model", "precision"), [("demo", "ternary"), pytest.param("demo-fp16", "fp32", marks=pytest.mark.slow)]
)
def test_kobest_predictions_equal_lm_evals(model: str, precision: str, task: str) -> None:
    """On twelve rows of each KoBEST task, log-probabilities agree to 1e-4 and every prediction is the same."""
    _compare(model, precision, "kobest", task, 12)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("task", KOBEST)
def test_kobest_predictions_equal_lm_evals_on_all_rows(task: str) -> None:
    """The same over the whole test half."""
    _compare("demo", "ternary", "kobest", task, None)


@pytest.mark.parametrize("task", ["wic", "hellaswag"])
def test_sample_predictions_equal_lm_evals(task: str) -> None:
    """The same on embedded rows, where no data is at hand."""
    _compare("demo", "ternary", "sample", task, 8)


@pytest.mark.parametrize("task", ["qa", "translation"])
def test_generated_text_equals_lm_evals(task: str) -> None:
    """Greedy continuations and their stops are the same, token for token."""
    _compare("demo", "ternary", "sample", task, 6)


def test_scores_do_not_depend_on_the_batch() -> None:
    """A request alone and among others gets the same log-probability, to the last bits of the head's sums."""
    checkpoint = open_checkpoint("demo")
    with HFBackend().open(checkpoint, "ternary") as session:
        encode = session.tokenizer.encode
        requests = [(encode(f"문장 {i}: 오늘은 날씨가"), encode(" 좋다", add_special_tokens=False)) for i in range(30)]
        together = sort_answers(session.loglikelihood(requests))
        alone = [sort_answers(session.loglikelihood([request]))[0] for request in requests]
    assert [ll for ll, _ in together] == pytest.approx([ll for ll, _ in alone], abs=1e-5)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]


def test_a_prompt_longer_than_the_context_loses_its_left_end_and_is_counted(tmp_path: Path) -> None:
    """The end of the prompt and the choice stay; the record says how many requests were cut."""
    folder = tmp_path / "kobest/sentineg"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(
        '{"sentence": "' + "아주 길다 " * 600 + '", "label": 0}\n{"sentence": "짧다", "label": 1}\n', encoding="utf-8"
    )
    ((suite, task),) = select_tasks(["kobest"], ["sentineg"])
    with HFBackend().open(open_checkpoint("demo"), "ternary") as session:
        lm = SessionLM(session)
        evaluate_task(lm, build_task(suite, task, TaskSettings(tmp_path)))
    assert lm.counts == {"requests": 4, "truncated": 2, "cached": 0}


CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def test_a_chat_template_asks_with_one_beginning_of_text() -> None:
    """The prompt is a user's turn with the assistant's begun, and BOS, which the template brings, stands once."""
    ((suite, task),) = select_tasks(["sample"], ["copa"])
    with HFBackend().open(open_checkpoint("demo"), "ternary") as session:
        session.tokenizer.chat_template = CHAT
        lm = SessionLM(session)
        plain, asked = (
            evaluate_task(lm, build_task(suite, task, TaskSettings(None, chat_template=chat)), 3, chat).examples
            for chat in (False, True)
        )
        bos = session.tokenizer.bos_token
        assert lm.tok_encode(asked[0].prompt).count(session.tokenizer.bos_token_id) == 1
    for before, after in zip(plain, asked, strict=True):
        assert after.prompt == f"{bos}<|user|>{before.prompt}\n<|assistant|>"
        assert after.loglikelihoods != before.loglikelihoods


def test_a_checkpoint_without_a_chat_template_says_so(tmp_path: Path) -> None:
    """The demo has none: the command ends with what to do, and nothing is written."""
    with pytest.raises(BenchError, match="no chat template"):
        evaluate("demo", select_tasks(["sample"], ["copa"]), tmp_path / "run", EvaluateJob(chat_template=True))
    assert not (tmp_path / "run").exists()


class Small:
    """A session of eight tokens that keeps what it is asked."""

    max_length = 8
    precision = "fp32"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: list[tuple[list[list[int]], int]] = []

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any, part: Any) -> Any:
        """Answer each prompt with nothing."""
        self.asked.append(([list(p) for p in prompts], max_new_tokens))
        yield [(i, Completion("")) for i in range(len(prompts))]


def test_a_long_answer_leaves_half_the_context_to_the_prompt() -> None:
    """A task that allows 512 new tokens can be asked of a model of 8: the prompt keeps the last 4. Both are counted."""
    from lm_eval.api.instance import Instance

    small = Small(load_tokenizer(open_checkpoint("demo")))
    lm = SessionLM(small)
    text = "오늘 날씨가 맑아서 친구와 함께 공원에 갔다."
    options = {"until": ["\n"], "max_gen_toks": 512, "do_sample": False}
    lm.generate_until([Instance("generate_until", {}, (text, options), 0)])
    ((prompts, new),) = small.asked
    assert (prompts, new) == ([lm.tok_encode(text)[-4:]], 4)
    assert lm.counts == {"requests": 1, "truncated": 1, "cached": 0, "shortened": 1}
