"""Training and evaluation read a text as the same tokens: one rule for BOS, and one template in the checkpoint."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.templates import find_chat_template, find_turn_end, render_row
from bitnet_bench.data.tokenizing import LearnedTokens, tokenize, tokenize_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "<|assistant|>\n<think>\n\n</think>\n\n{{ m.content }}{% else %}<|{{ m.role }}|>\n{{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROW = Row((Turn("user", "질문"), Turn("model", "답")))
DIALOGUE = Row((*ROW.turns, Turn("user", "또?"), Turn("model", "네")))
NAMED = ["plain", "dialogue", "instruction", "inst"]


class Silent:
    """A session that is only asked for its tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


@pytest.fixture
def own_tokenizer(make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer that a test may change."""
    return make_tokenizer(False)


@pytest.mark.parametrize("learned", ["everything", "responses"])
@pytest.mark.parametrize("begins", ["", "{{ bos_token }}"])
def test_a_chat_template_trains_on_one_bos_as_evaluation_asks_with_one(
    begins: str, learned: LearnedTokens, own_tokenizer: Any
) -> None:
    """Whether the template writes BOS or leaves it to the tokenizer: the prompt's tokens are those of evaluation."""
    own_tokenizer.chat_template = begins + TURNS
    ((example,),) = tokenize([ROW], own_tokenizer, "chat", learned)
    lm = SessionLM(Silent(own_tokenizer))  # type: ignore[arg-type]
    asked = lm.tok_encode(lm.apply_chat_template([{"role": "user", "content": "질문"}]))
    assert example.input_ids[: len(asked)] == asked
    assert example.input_ids.count(own_tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("learned", ["everything", "responses"])
def test_a_row_that_brings_its_bos_and_eos_has_one_of_each(learned: LearnedTokens, own_tokenizer: Any) -> None:
    """In running text and in an answer."""
    texts = [Row((Turn("text", text),)) for text in ("수도는 서울", "<s>수도는 서울</s>")]
    (bare,), (whole,) = tokenize(texts, own_tokenizer, "plain", learned)
    assert (bare.input_ids, bare.labels[1:]) == (whole.input_ids, whole.labels[1:])  # nothing predicts the first one
    answers = [Row((Turn("user", "수도?"), Turn("model", text))) for text in ("서울", "서울</s>")]
    first, second = tokenize(answers, own_tokenizer, "dialogue", learned)
    assert first == second


def test_a_tokenizer_whose_bos_is_its_eos_keeps_every_token_of_a_row(own_tokenizer: Any) -> None:
    """The BOS of an empty text was taken for an EOS at its end, and each row lost its last token."""
    own_tokenizer.eos_token = "<s>"
    ((example,),) = tokenize([ROW], own_tokenizer, "plain", "responses")
    assert example.input_ids == [0, *own_tokenizer.encode("질문답", add_special_tokens=False), 0]


TEXT = st.text(st.sampled_from("가나 다'\"\\{}%\nab"), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMED),
    system=st.none() | TEXT,
    said=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3),
)
def test_a_named_template_is_carried_as_the_jinja_that_writes_the_same(
    name: str, system: str | None, said: list[tuple[str, str]], tokenizer: Any
) -> None:
    """Whole dialogues, and prompts up to where the answer begins."""
    turns = [Turn(role, text) for pair in said for role, text in zip(("user", "model"), pair, strict=True)]  # type: ignore[arg-type]
    row = Row((*([Turn("system", system)] if system is not None else []), *turns))
    carried = find_chat_template(name, [row], tokenizer)
    rendered = render_row(row, name, tokenizer)
    assert tokenizer.apply_chat_template(row.to_messages(), chat_template=carried, tokenize=False) == rendered.text
    prompt = tokenizer.apply_chat_template(
        row.to_messages()[:-1], chat_template=carried, tokenize=False, add_generation_prompt=True
    )
    assert rendered.text[: rendered.responses[-1][0]] == prompt


def test_the_template_that_is_carried_is_the_one_that_rows_went_through(own_tokenizer: Any, tmp_path: Path) -> None:
    """The checkpoint's own for `auto` and for rows that go through none; a file's; `dialogue` where there was none."""
    file = tmp_path / "own.jinja"
    file.write_text(TURNS, encoding="utf-8")
    text, verbatim = Row((Turn("text", "글"),)), Row(ROW.turns, verbatim=True)
    assert find_chat_template("auto", [text, verbatim], own_tokenizer) is None
    assert find_chat_template("auto", [ROW], own_tokenizer) == find_chat_template("dialogue", [ROW], own_tokenizer)
    own_tokenizer.chat_template = THINKING
    assert find_chat_template("auto", [ROW, verbatim], own_tokenizer) == THINKING
    assert find_chat_template(str(file), [verbatim, text], own_tokenizer) == THINKING
    assert find_chat_template(str(file), [verbatim, ROW], own_tokenizer) == TURNS


def test_the_special_token_after_an_answer_ends_a_turn(own_tokenizer: Any) -> None:
    """It is found in the template; ordinary text after an answer is none."""
    own_tokenizer.chat_template = TURNS
    assert find_turn_end(own_tokenizer) == frozenset()
    own_tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    assert find_turn_end(own_tokenizer) == {own_tokenizer.convert_tokens_to_ids("<|end|>")}
    own_tokenizer.chat_template = None
    assert find_turn_end(own_tokenizer) == frozenset()


def test_choices_are_asked_behind_the_empty_thought_that_training_learns(own_tokenizer: Any) -> None:
    """A template writes a thought before the last answer: before a choice stands what stands there in training."""
    own_tokenizer.chat_template = THINKING
    lm = SessionLM(Silent(own_tokenizer))  # type: ignore[arg-type]
    question = [{"role": "user", "content": "질문"}]
    assert lm.apply_chat_template(question) == "<|user|>\n질문\n<|assistant|>\n"
    lm.asks_choices = True
    asked = lm.apply_chat_template(question)
    assert asked == "<|user|>\n질문\n<|assistant|>\n<think>\n\n</think>\n\n"
    assert render_row(ROW, "chat", own_tokenizer).text.startswith(f"{asked}답")


def test_a_trained_checkpoint_carries_its_template_and_the_end_of_its_turns(tmp_path: Path) -> None:
    """`--template FILE`: evaluation asks through that file's text, and generation stops at the end of turn."""
    base = tmp_path / "base"
    checkpoint = open_checkpoint("demo-fp16")
    shutil.copytree(checkpoint.path, base)
    settings_file = base / "generation_config.json"
    settings_file.write_text(json.dumps({"eos_token_id": [1, 5]}), encoding="utf-8")
    rows, template = tmp_path / "rows.jsonl", tmp_path / "own.jinja"
    rows.write_text('{"prompt": "수도는?", "response": "서울이에요."}\n' * 4, encoding="utf-8")
    template.write_text(TURNS, encoding="utf-8")
    job = FinetuneJob.model_validate(
        {"model": str(base), "data": (str(rows),), "out": str(tmp_path / "out"), "template": str(template)}
        | {"precision": "fp16", "max_steps": 1, "batch_size": 2, "learning_rate": 1e-3}
    )
    finetune(job)
    made = open_checkpoint(str(tmp_path / "out"))
    assert load_tokenizer(made).chat_template == TURNS
    saved = json.loads((tmp_path / "out/generation_config.json").read_text(encoding="utf-8"))
    assert {1, 5} <= set(saved["eos_token_id"])
    encoded = tokenize_rows([ROW], load_tokenizer(made), "auto", 512, pretrain=False)
    assert (
        encoded.examples
        == tokenize_rows([ROW], load_tokenizer(checkpoint), str(template), 512, pretrain=False).examples
    )


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLES = "{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOPS, "more than 0.2 s of computing"),
        ("{{ 9 ** (9 ** 9) }}", "more than 0.2 s of computing"),
        (DOUBLES, "memory|characters|computing"),
        ("{{ 'x' * 10 ** 12 }}", "too much memory"),
        ("{{ 'x' * 3000000 }}", "writes 3000000 characters"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content.no.more }}", "has no attribute"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_a_template_that_loops_multiplies_or_fails_is_a_sentence(
    template: str, said: str, own_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training and in evaluation, with neither time, nor memory, nor text without end; the limits are taken back."""
    monkeypatch.setattr("bitnet_bench.data.templates.TEMPLATE_SECONDS", 0.2)
    limits = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)
    own_tokenizer.chat_template = template
    lm = SessionLM(Silent(own_tokenizer))  # type: ignore[arg-type]
    for use in (
        lambda: render_row(ROW, "chat", own_tokenizer),
        lambda: lm.apply_chat_template([{"role": "user", "content": "질문"}]),
    ):
        with pytest.raises(BenchError, match=f"does not take this row: .*({said})"):
            use()
    assert find_turn_end(own_tokenizer) == frozenset()
    assert limits == (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF))
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
