"""What `knowledge` and `math` ask is what lm-eval asks, to the byte, on the same rows; where it differs, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from bitnet_bench.errors import UsageError
from bitnet_bench.evaluation.harness_tasks import find_harness_folder, find_harness_yaml
from bitnet_bench.evaluation.local_rows import CONFIG_FIELD
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.runs.choices import Answer

ROWS = Path(__file__).parent / "rows"
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
CULTURE = ("economy", "geography", "history", "kpop", "law", "politics", "society", "tradition")
LANGUAGE = ("function", "grammar", "text")
Make = Callable[[BuiltTask], Any]


def build_ours(task: str, answer: Answer | None = None, data: Path = ROWS) -> BuiltTask:
    """Return a task of ours, SUITE:TASK, on rows written for these tests."""
    suite_name, _, name = task.partition(":")
    ((suite, one),) = select_tasks([suite_name], [name])
    return build_task(suite, one, TaskSettings(data, answer=answer))


def build_theirs(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return lm-eval's own task, unchanged but for its rows, which would come from the hub."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(find_harness_yaml(name), resolve_func=True)
    splits = {config[key] for key in ("test_split", "fewshot_split") if key in config}
    table = DatasetDict({split: Dataset.from_list([dict(row) for row in rows]) for split in splits})
    config["custom_dataset"] = lambda **_: table
    return ConfigurableTask(config=config)


def list_asked(task: Any) -> list[tuple[str, list[str] | None, Any]]:
    """Return (prompt, choices, gold answer as text) of every row."""
    asked = []
    for doc in task.test_docs():
        choices = [str(one) for one in task.doc_to_choice(doc)] if task.config.doc_to_choice is not None else None
        gold = task.doc_to_target(doc)
        asked.append((task.doc_to_text(doc), choices, choices[gold] if choices and isinstance(gold, int) else gold))
    return asked


def list_rows(built: BuiltTask, config: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a task of ours without the field that says their configuration; only those of *config*."""
    rows = [dict(doc) for doc in built.lm_task.test_docs()]
    kept = [row for row in rows if config is None or row[CONFIG_FIELD] == config]
    return [{name: value for name, value in row.items() if name != CONFIG_FIELD} for row in kept]


@pytest.mark.parametrize("subject", ["Accounting", "Math", "Korean-History"])
@pytest.mark.parametrize(("answer", "prefix"), [("likelihood", "kmmlu"), ("generate", "kmmlu_direct")])
def test_kmmlu_is_asked_as_by_lm_eval(subject: str, answer: Answer, prefix: str) -> None:
    """By likelihood as in its `kmmlu`, by generation as in its `kmmlu_direct`, stops included."""
    ours = build_ours("knowledge:kmmlu", answer)
    theirs = build_theirs(f"{prefix}_{subject.lower().replace('-', '_')}", list_rows(ours, subject))
    subjects = [row[CONFIG_FIELD] for row in ours.lm_task.test_docs()]
    asked = [one for one, name in zip(list_asked(ours.lm_task), subjects, strict=True) if name == subject]
    assert [(prompt, gold) for prompt, _, gold in asked] == [(p, gold) for p, _, gold in list_asked(theirs)]
    assert theirs.OUTPUT_TYPE == ours.lm_task.OUTPUT_TYPE
    check_same_generation(ours.lm_task, theirs)


def check_same_generation(ours: Any, theirs: Any) -> None:
    """Assert that generation stops at the same texts, and after as many tokens where lm-eval says it."""
    if theirs.OUTPUT_TYPE != "generate_until":
        assert ours.config.target_delimiter == theirs.config.target_delimiter
        return
    mine, other = ours.config.generation_kwargs, theirs.config.generation_kwargs
    assert mine["until"] == other["until"]
    assert mine["max_gen_toks"] == other.get("max_gen_toks", 256)
    assert ours.config.target_delimiter == theirs.config.target_delimiter


def test_kmmlu_has_the_45_subjects_of_lm_eval() -> None:
    """Every subject that lm-eval has is one of ours, in the field in which it is there."""
    from lm_eval.tasks._yaml_loader import load_yaml

    ours = build_ours("knowledge:kmmlu")
    fields = {row[CONFIG_FIELD]: ours.hooks.groups(row)["field"] for row in ours.lm_task.test_docs()}
    names = {"humss": "humanities and social science", "stem": "STEM", "applied_science": "applied science"}
    theirs = {}
    for file in (find_harness_folder() / "kmmlu/default").glob("kmmlu_*.yaml"):
        config = load_yaml(file, resolve_func=False)
        tag = config["tag"].removeprefix("kmmlu_").removesuffix("_tasks")
        theirs[config["dataset_name"]] = names.get(tag, tag)
    assert fields == theirs
    assert len(fields) == 45


def list_click_tasks() -> dict[str, tuple[str, str]]:
    """Return lm-eval's tasks of CLIcK and the branch and category that they are here."""
    ours = {"kpop": "popular", "function": "functional", "text": "textual"}
    culture = {f"click_cul_{name}": ("culture", ours.get(name, name)) for name in CULTURE}
    return culture | {f"click_lang_{name}": ("language", ours.get(name, name)) for name in LANGUAGE}


@pytest.mark.parametrize("data", [ROWS, DATA], ids=["written", "local half"])
def test_click_is_asked_as_by_lm_eval(data: Path) -> None:
    """Its eleven tasks ask of every row what ours asks, and call its category by the same name."""
    if not (data / "click").is_dir():
        pytest.skip("no local rows: ../shared/data or BITNET_BENCH_DATA")
    ours = build_ours("knowledge:click", data=data)
    groups = [tuple(ours.hooks.groups(row).values()) for row in ours.lm_task.test_docs()]
    asked, rows = list_asked(ours.lm_task), list_rows(ours)
    seen = 0
    for name, category in list_click_tasks().items():
        mine = [one for one, group in zip(asked, groups, strict=True) if group == category]
        theirs = list_asked(build_theirs(name, rows)) if mine else []
        assert mine == theirs, name
        seen += len(mine)
    assert seen == len(rows)


def test_click_shows_all_choices_only_where_it_generates() -> None:
    """lm-eval's prompt names four of a CSAT question's five choices; a text that is to name E has to see it."""
    likely, written = (build_ours("knowledge:click", answer).lm_task for answer in ("likelihood", "generate"))
    for doc in likely.test_docs():
        prompts = likely.doc_to_text(doc), written.doc_to_text(doc)
        assert (prompts[0] == prompts[1]) == (len(doc["choices"]) == 4)
        assert all(f": {text}" in prompts[1] or f":{text}" in prompts[1] for text in doc["choices"])


def test_haerae_is_asked_as_by_lm_eval() -> None:
    """The five configurations are its five tasks."""
    names = {
        "general_knowledge": "general_knowledge",
        "history": "history",
        "loan_words": "loan_word",
        "rare_words": "rare_word",
        "standard_nomenclature": "standard_nomenclature",
    }
    ours = build_ours("knowledge:haerae")
    asked = dict(zip([row[CONFIG_FIELD] for row in ours.lm_task.test_docs()], list_asked(ours.lm_task), strict=True))
    for config, theirs in names.items():
        assert [asked[config]] == list_asked(build_theirs(f"haerae_{theirs}", list_rows(ours, config)))


@pytest.mark.parametrize("config", ["doctor", "nurse", "pharm", "dentist"])
def test_kormedmcqa_is_asked_as_by_lm_eval(config: str) -> None:
    """By generation, which is its default there and here."""
    ours = build_ours("knowledge:kormedmcqa")
    theirs = build_theirs(f"kormedmcqa_{config}", list_rows(ours, config))
    asked = {
        doc[CONFIG_FIELD]: one for doc, one in zip(ours.lm_task.test_docs(), list_asked(ours.lm_task), strict=True)
    }
    ((prompt, _, gold),) = list_asked(theirs)
    assert (asked[config][0], asked[config][2]) == (prompt, gold)
    check_same_generation(ours.lm_task, theirs)


@pytest.mark.parametrize("name", ["gsm8k", "ksm", "math", "mmmlu", "omni_math"])
def test_hrm8k_is_asked_as_by_lm_eval(name: str) -> None:
    """Prompt, gold answer and stops of every subset."""
    ours = build_ours(f"math:{name}")
    theirs = build_theirs(f"hrm8k_{name}", list_rows(ours))
    assert list_asked(ours.lm_task) == list_asked(theirs)
    check_same_generation(ours.lm_task, theirs)


def test_published_prompts_of_sets_that_lm_eval_does_not_have() -> None:
    """KMMLU-Redux and KMMLU-Pro as LG AI Research asks, KoBALT as its evaluation protocol does."""
    pro = build_ours("knowledge:kmmlu_pro").lm_task
    first, second = pro.test_docs()
    assert pro.doc_to_text(first).startswith(
        '다음 문제에 대해 정답을 고르세요. 당신의 최종 정답은 ABCDE 중 하나이고, "정답:" 뒤에 와야 합니다. '
    )
    assert pro.doc_to_text(second).endswith("A) 수익\nB) 자본\nC) 비용\nD) 이익")
    assert "1)" not in pro.doc_to_text(first)
    assert "A) 청약과 승낙\nB) 등기" in pro.doc_to_text(first)
    kobalt = build_ours("knowledge:kobalt").lm_task
    assert kobalt.doc_to_text(next(iter(kobalt.test_docs()))).endswith(
        "[정답 보기]는 A, B, C, D, E, F, G, H, I, J 중 하나여야 합니다.\n"
        "정답: 문제를 풀기 위해, 한 번 천천히 생각해봅시다."
    )


@pytest.mark.parametrize(("task", "answer"), [("kobest:boolq", "generate"), ("math:gsm8k", "likelihood")])
def test_a_task_with_one_way_to_answer_refuses_the_other(task: str, answer: Answer) -> None:
    """The message names the task, the way that it has, and what to leave out."""
    with pytest.raises(UsageError, match=f"{task} is only answered by (likelihood|generate), and `answer` is {answer}"):
        build_ours(task, answer)


@pytest.mark.parametrize(("task", "answer"), [("kobest:boolq", "likelihood"), ("math:gsm8k", "generate")])
def test_a_task_with_one_way_to_answer_takes_that_one(task: str, answer: Answer) -> None:
    """So that suites of both kinds can be scored by one command."""
    assert build_ours(task, answer).name == task


def test_local_files_of_a_set_are_complete_or_refused(tmp_path: Path) -> None:
    """A set without one of its configurations would have another score: the missing file is named."""
    for config in ("doctor", "nurse", "pharm"):
        file = tmp_path / f"kormedmcqa/{config}/test.jsonl"
        file.parent.mkdir(parents=True)
        row = json.loads((ROWS / f"kormedmcqa/{config}/test.jsonl").read_text(encoding="utf-8"))
        file.write_text(json.dumps(row), encoding="utf-8")
    from bitnet_bench.errors import BenchError

    with pytest.raises(BenchError, match=r"There is no .*kormedmcqa/dentist/test.jsonl"):
        build_ours("knowledge:kormedmcqa", data=tmp_path)


def test_a_task_shows_its_ways_to_answer() -> None:
    """The default first, and the option for the other."""
    from bitnet_bench.cli.evaluating import describe_task
    from bitnet_bench.evaluation.showing import list_shown_tasks

    (shown,) = list_shown_tasks("knowledge:kobalt", ROWS)
    assert shown.answers == ("generate", "likelihood")
    assert "answers   generate; --answer likelihood" in describe_task(shown)
    (other,) = list_shown_tasks("math:gsm8k", ROWS)
    assert other.answers == ()
