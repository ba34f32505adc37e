"""List the parsers of answers: kept ones, texts that a model wrote, and what a judge said of them."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from fuzz import mutations
from fuzz.parser import Parser

TESTS = Path(__file__).parents[1]
ROWS = TESTS / "evaluation" / "rows"
RUN = TESTS / "runs" / "old" / "run"
SUITES = TESTS.parent / "tasks"
REPLY = """\
<think>1번이 맞나? (A)와 (C)를 비교한다.</think>
선택지를 보면 A는 아니다. 따라서 정답은 (B)입니다. 답: 2번, 두 번째.
$$\\boxed{\\frac{3}{4}}$$ #### 1,234.5만
평가: [[8]] 점수: 7/10, {"score": 8, "verdict": "A"} 10점 만점에 9점 [[A]] 판정은 B
* 하나
<<제목>> **굵게** 섹션 1 P.S. 끝.
"""
"""An answer in which every reader of answers finds something."""


@cache
def _shards() -> Path:
    """Return a folder, kept for this process, with a run of two shards that are answered and not merged."""
    import tempfile

    from bitnet_bench.evaluation.select import select_tasks
    from bitnet_bench.evaluation.shards import Shard, evaluate_shard
    from bitnet_bench.runs.jobs import EvaluateJob

    out = Path(tempfile.mkdtemp(prefix="bitnet-bench-fuzz-")) / "run"
    for number in (1, 2):
        job = EvaluateJob(limit=4)
        evaluate_shard("demo-fp16", select_tasks(["sample"], ["copa"]), out, Shard(number, 2), job)
    return out


def _copy_shards(folder: Path) -> None:
    shutil.copytree(_shards(), folder / "run", dirs_exist_ok=True)


def merge(folder: Path) -> None:
    """Score the answers of shards, of which none lacks: no model is loaded."""
    from bitnet_bench.evaluation.shards import merge_shards

    merge_shards(folder / "run")


def _write_answers(folder: Path) -> None:
    from bitnet_bench.evaluation.answer_log import AnswerLog

    with AnswerLog(folder / "cache" / (b"model" * 7).hex()[:32] / "one.answers", b"model" * 7, _ABOUT) as log:
        log.save([(f"request {at}".encode(), b"answer" * at) for at in range(4)])


_ABOUT = {"model": "demo", "precision": "ternary", "backend": "hf", "software": "1"}


def _write_database(folder: Path) -> None:
    from bitnet_bench.evaluation.answer_cache import SqliteStore

    store = SqliteStore(folder / "cache.sqlite", b"model" * 7, _ABOUT)
    store.save([(f"request {at}".encode(), b"answer" * at) for at in range(4)])
    store.close()


def read_answers(folder: Path) -> None:
    """Look up, add, list and forget answers; a wrong one is never returned."""
    from bitnet_bench.cli.cache import answers_table
    from bitnet_bench.evaluation.answer_cache import CACHE_FILE_VARIABLE
    from bitnet_bench.evaluation.answer_log import list_stored_answers, open_store, prune_answers

    place = folder / "cache"
    os.environ[CACHE_FILE_VARIABLE] = str(place if place.is_dir() else folder / "cache.sqlite")
    answers_table(list_stored_answers()[1])
    store = open_store(b"model" * 7, _ABOUT)
    found = store.lookup([f"request {at}".encode() for at in range(6)])
    assert all(answer == b"answer" * at for at, answer in found.items()), "a wrong answer"
    store.save([(b"request 9", b"answer")])
    store.close()
    answers_table(list_stored_answers()[1])
    prune_answers(0.0)


def _copy_samples(folder: Path) -> None:
    for task in ("qa", "copa"):
        shutil.copy(RUN / "samples" / f"sample-{task}.jsonl", folder)


def read_columns(folder: Path) -> None:
    """Read samples by column, which gives what reading them by line gives, or nothing."""
    from bitnet_bench.runs.example_parsing import parse_examples
    from bitnet_bench.runs.example_table import find_longest, list_values, sort_by_document
    from bitnet_bench.runs.records import Example

    for file in folder.glob("sample-*.jsonl"):
        content = file.read_bytes()
        table = parse_examples(content, str(file))
        if table is None:
            continue
        examples = [Example.model_validate_json(line) for line in content.split(b"\n") if line]
        assert list(table) == examples
        assert list(sort_by_document(table)) == list(sort_by_document(examples))
        assert find_longest(table, "choices") == find_longest(examples, "choices")
        for name in ("doc_id", "choices", "loglikelihoods", "output", "correct", "target_choice", "malformed"):
            assert list_values(table, name) == list_values(examples, name), name


def _copy_board(folder: Path) -> None:
    shutil.copytree(RUN, folder / "run", dirs_exist_ok=True)


def write_board(folder: Path) -> None:
    """Rank a run beside another one, as a page, as Markdown and as JSON."""
    from bitnet_bench.reports.write_board import dump_board, make_leaderboard, write_leaderboard
    from bitnet_bench.runs.jobs import BoardOptions

    view = make_leaderboard([folder, RUN], BoardOptions())
    dump_board(view)
    for name in ("board.html", "board.md"):
        write_leaderboard(view, folder / name)


def _make_requests() -> tuple[Any, Any, Any]:
    """Return the shipped prompt of a judge, two answered questions, and what it is asked of them."""
    from bitnet_bench.judging.asking import list_single_requests
    from bitnet_bench.judging.prompts import read_prompt
    from bitnet_bench.runs.records import AnsweredTurn, Example

    turns = tuple(AnsweredTurn(question=f"질문 {at}", answer="답", reference=None) for at in range(2))
    examples = [
        Example(task="open:sample", doc_id=at, prompt="질문", target="", output="답", correct=0.0, turns=turns)
        for at in range(2)
    ]
    prompt = read_prompt("single")
    return prompt, examples, list_single_requests(prompt, examples)


def _write_verdicts(folder: Path) -> None:
    from bitnet_bench.judging.asking import VerdictFile, make_verdict

    prompt, _, requests = _make_requests()
    VerdictFile(folder / "verdicts.jsonl", prompt, requests).add([make_verdict(r, prompt, "[[7]]") for r in requests])


def read_verdicts(folder: Path) -> None:
    """Ask for the verdicts that a file lacks, and add up all of them."""
    from bitnet_bench.judging.asking import VerdictFile, make_verdict
    from bitnet_bench.judging.scoring import count_verdicts, summarize_questions, value_single

    prompt, examples, requests = _make_requests()
    kept = VerdictFile(folder / "verdicts.jsonl", prompt, requests)
    for group in kept.groups_left:
        kept.add([make_verdict(request, prompt, "[[7]]") for request in group])
    verdicts, _ = kept.finish()
    count_verdicts(verdicts)
    summarize_questions(value_single(examples, verdicts), prompt.scale)


def _copy_prompt(folder: Path) -> None:
    from bitnet_bench.judging import prompts

    shutil.copy(Path(prompts.__file__).with_name("single.yaml"), folder / "judge.yaml")


def read_prompt(folder: Path) -> None:
    """Read the prompt of a judge and write it."""
    from bitnet_bench.judging.prompts import EXAMPLE_TURN, read_prompt

    prompt = read_prompt("single", folder / "judge.yaml")
    prompt.write_single([EXAMPLE_TURN], 0)


def _write_reply(folder: Path) -> None:
    (folder / "reply.txt").write_text(REPLY, encoding="utf-8")


def read_reply(folder: Path) -> None:
    """Read out of a text what any task or judge looks for."""
    from bitnet_bench.data.thoughts import Thoughts, split_thought
    from bitnet_bench.evaluation.extraction import find_choice
    from bitnet_bench.evaluation.instructions import CHECKS, list_loose_variants
    from bitnet_bench.evaluation.number_extraction import find_number
    from bitnet_bench.judging.verdicts import parse_preference, parse_score

    text = (folder / "reply.txt").read_bytes().decode("utf-8", "replace")
    found = find_choice(text, list("ABCD"), ["하나", "둘", "셋", "넷"])
    assert found is None or 0 <= found < 4
    found = find_choice(text, ["하나", "둘", "셋", "넷"])
    assert found is None or 0 <= found < 4
    score = parse_score(text, (1.0, 10.0)).value
    assert score is None or 1.0 <= score <= 10.0
    find_number(text), parse_preference(text)
    split_thought(text, Thoughts("<think>", "</think>"))
    for variant in list_loose_variants(text):
        for name in ("detectable_format:json_format", "detectable_format:title", "combination:two_responses",
                     "startend:quotation", "change_case:english_capital", "punctuation:no_comma"):  # fmt: skip
            CHECKS[name](variant)


def _copy_rows(*names: str) -> Any:
    def prepare(folder: Path) -> None:
        for name in names:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROWS / name, place)

    return prepare


def _read_exam(task: str) -> Any:
    """Return what builds a task on rows in the hub's own shape and tries them all."""

    def read(folder: Path) -> None:
        from bitnet_bench.evaluation.select import select_tasks
        from bitnet_bench.evaluation.task_run import check_rows
        from bitnet_bench.evaluation.tasks import TaskSettings, build_task

        ((suite, one),) = select_tasks([task.partition(":")[0]], [task.partition(":")[2]])
        check_rows(build_task(suite, one, TaskSettings(folder)), None)

    return read


def _copy_open(folder: Path) -> None:
    shutil.copytree(SUITES / "open", folder, dirs_exist_ok=True)


def read_open(folder: Path) -> None:
    """Build an open task on its rows and try them."""
    from bitnet_bench.evaluation.suites import read_suite
    from bitnet_bench.evaluation.task_run import check_rows
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    suite = read_suite(folder / "suite.yaml")
    check_rows(build_task(suite, suite.task("sample"), TaskSettings()), None)


def _write_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"prompt": ["한국의 수도는?", "안녕"] * 20, "response": ["서울이에요.", "네"] * 20, "n": [1, 2] * 20}
    )
    pq.write_table(table, folder / "rows.parquet")


def read_parquet(folder: Path) -> None:
    """Read training rows out of a Parquet file."""
    from bitnet_bench.data.rows import read_rows

    read_rows(folder / "rows.parquet")


PARSERS = (
    Parser("shard", "run/shards/1-of-2/record.json", mutations.mutate_json, _copy_shards, merge, 1,
           ("shards", "There is no")),
    Parser("shard-answers", "run/shards/1-of-2/answers", mutations.mutate_answers, _copy_shards, merge, 1,
           ("shards", "There is no")),
    Parser("answer-file", f"cache/{(b'model' * 7).hex()[:32]}/one.answers", mutations.mutate_answers, _write_answers,
           read_answers, 2),
    Parser("answer-database", "cache.sqlite", mutations.mutate_binary, _write_database, read_answers, 2),
    Parser("columns", "sample-qa.jsonl", mutations.mutate_lines, _copy_samples, read_columns, 3),
    Parser("columns-choices", "sample-copa.jsonl", mutations.mutate_lines, _copy_samples, read_columns, 3),
    Parser("board", "run/record.json", mutations.mutate_json, _copy_board, write_board, 1),
    Parser("verdicts", "verdicts.jsonl", mutations.mutate_lines, _write_verdicts, read_verdicts, 2),
    Parser("judge-prompt", "judge.yaml", mutations.mutate_prompt, _copy_prompt, read_prompt, 2),
    Parser("reply", "reply.txt", mutations.mutate_reply, _write_reply, read_reply, 4),
    Parser("open-rows", "data/sample/test.jsonl", mutations.mutate_lines, _copy_open, read_open, 2, ("open:sample",)),
    Parser("open-task", "sample.yaml", mutations.mutate_yaml, _copy_open, read_open, 2, ("open:sample",)),
    Parser("click-rows", "click/test.jsonl", mutations.mutate_lines, _copy_rows("click/test.jsonl"),
           _read_exam("knowledge:click"), 2, ("knowledge:click",)),
    Parser("instruction-rows", "ifeval_ko/test.jsonl", mutations.mutate_lines, _copy_rows("ifeval_ko/test.jsonl"),
           _read_exam("instructions:ifeval_ko"), 2, ("instructions:ifeval_ko",)),
    Parser("parquet", "rows.parquet", mutations.mutate_binary, _write_parquet, read_parquet, 2),
)  # fmt: skip
