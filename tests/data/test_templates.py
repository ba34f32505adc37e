"""Templates: the text of a row, and which characters of it are responses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.templates import RenderedRow, check_template, choose_template, render_row
from bitnet_bench.errors import BenchError, UsageError

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SINGLE = Row((Turn("user", "질문"), Turn("model", "답")))
DIALOGUE = Row((*SINGLE.turns, Turn("user", "또?"), Turn("model", "네")))


def responses(rendered: RenderedRow) -> list[str]:
    return [rendered.text[start:end] for start, end in rendered.responses]


@pytest.fixture
def chat_tokenizer(make_tokenizer: Any) -> Any:
    """Give a tokenizer with a chat template."""
    made = make_tokenizer(False)
    made.chat_template = CHAT
    return made


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "질문답</s>"),
        ("dialogue", "사용자: 질문\n모델: 답</s>"),
        ("instruction", "### Instruction:\n질문\n\n### Response:\n답</s>"),
        ("inst", "[INST] 질문 [/INST] 답</s>"),
        ("chat", "<s><|user|>질문</s><|assistant|>답</s>"),
    ],
)
def test_a_template_has_one_text(template: str, text: str, chat_tokenizer: Any) -> None:
    """Each template gives exactly this text, whose response is the model's words and EOS."""
    rendered = render_row(SINGLE, template, chat_tokenizer)
    assert rendered.text == text
    assert responses(rendered) == [" 답</s>" if template in ("dialogue", "inst") else "답</s>"]


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst", "chat"])
def test_every_model_turn_is_a_response(template: str, chat_tokenizer: Any) -> None:
    """Each model turn of a dialogue is a response with its own EOS, and no user turn is.

    After `모델:` the space belongs to the response: a prompt that ended in it would be no token prefix.
    """
    lead = " " if template in ("dialogue", "inst") else ""
    assert responses(render_row(DIALOGUE, template, chat_tokenizer)) == [f"{lead}답</s>", f"{lead}네</s>"]


def test_running_text_is_all_response(tokenizer: Any) -> None:
    """A text without sides carries the loss from end to end."""
    rendered = render_row(Row((Turn("text", "글"),)), "plain", tokenizer)
    assert rendered.text == "글</s>"
    assert responses(rendered) == ["글</s>"]


def test_verbatim_turns_are_joined_as_they_are(tokenizer: Any) -> None:
    """An evaluation row's own delimiter belongs to its response, and nothing is put between its turns."""
    row = Row((Turn("user", "문장: 좋다\n감정:"), Turn("model", " 긍정")), verbatim=True)
    rendered = render_row(row, choose_template("chat", row, True), tokenizer)
    assert rendered.text == "문장: 좋다\n감정: 긍정</s>"
    assert responses(rendered) == [" 긍정</s>"]


@pytest.mark.parametrize(
    ("template", "row", "has_chat", "chosen"),
    [
        ("auto", SINGLE, True, "chat"),
        ("auto", SINGLE, False, "dialogue"),
        ("instruction", SINGLE, True, "instruction"),
        ("plain", SINGLE, False, "plain"),
        ("chat", Row((Turn("text", "글"),)), True, "plain"),
        ("auto", Row(SINGLE.turns, verbatim=True), True, "plain"),
    ],
)
def test_the_template_follows_the_row(template: str, row: Row, has_chat: bool, chosen: str) -> None:
    """Text and evaluation rows are plain whatever is asked; auto prefers the checkpoint's chat template."""
    assert choose_template(template, row, has_chat) == chosen


def test_chat_without_a_chat_template_is_refused(tokenizer: Any) -> None:
    """`--template chat` on a tokenizer without one says which templates there are."""
    with pytest.raises(BenchError, match="no chat template") as caught:
        render_row(SINGLE, "chat", tokenizer)
    assert "dialogue" in caught.value.hint


def test_a_chat_template_that_rewrites_earlier_turns_is_refused(chat_tokenizer: Any) -> None:
    """A template that drops earlier answers, as reasoning models' do, leaves no response to point at."""
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}<{{ m.role }}>{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert responses(render_row(SINGLE, "chat", chat_tokenizer)) == ["답"]
    with pytest.raises(BenchError, match="rewrites earlier turns"):
        render_row(DIALOGUE, "chat", chat_tokenizer)


def test_a_dialogue_that_the_model_opens_can_be_rendered_or_is_refused(chat_tokenizer: Any) -> None:
    """A greeting by the model before any user turn is rendered, or refused with a sentence: no traceback."""
    row = Row((Turn("model", "무엇을 도와드릴까요?"), *SINGLE.turns))
    try:
        rendered = render_row(row, "chat", chat_tokenizer)
    except BenchError:
        return
    assert responses(rendered) == ["무엇을 도와드릴까요?</s>", "답</s>"]


def test_the_eos_of_a_row_is_the_tokenizers() -> None:
    """A response ends with whatever EOS the tokenizer has."""
    other: Any = SimpleNamespace(eos_token="<끝>")
    assert render_row(SINGLE, "plain", other).text == "질문답<끝>"


def test_an_instruction_stands_within_the_first_inst(tokenizer: Any) -> None:
    """As Llama 2 was trained: <<SYS>> inside of [INST], and later turns without it; elsewhere it is plain text."""
    row = Row((Turn("system", "짧게 답하세요."), *DIALOGUE.turns))
    rendered = render_row(row, "inst", tokenizer)
    assert rendered.text == ("[INST] <<SYS>>\n짧게 답하세요.\n<</SYS>>\n\n질문 [/INST] 답</s>[INST] 또? [/INST] 네</s>")
    assert responses(rendered) == [" 답</s>", " 네</s>"]
    assert render_row(row, "dialogue", tokenizer).text.startswith("짧게 답하세요.\n사용자: 질문\n모델: 답</s>")


def test_a_template_from_a_file_is_used_in_place_of_the_checkpoints(chat_tokenizer: Any, tmp_path: Path) -> None:
    """On a tokenizer with a chat template of its own and on one without."""
    file = tmp_path / "own.jinja"
    file.write_text(CHAT.replace("<|", "[").replace("|>", "]"), encoding="utf-8")
    expected = "<s>[user]질문</s>[assistant]답</s>"
    assert render_row(SINGLE, str(file), chat_tokenizer).text == expected
    chat_tokenizer.chat_template = None
    rendered = render_row(SINGLE, choose_template(str(file), SINGLE, False), chat_tokenizer)
    assert (rendered.text, responses(rendered)) == (expected, ["답</s>"])


def test_a_broken_template_is_a_sentence(chat_tokenizer: Any, tmp_path: Path) -> None:
    """So is one that refuses a row by itself, and a name that is none."""
    for text, said in (("{% for %}", "does not take this row"), ("{{ raise_exception('no') }}", "row: no")):
        file = tmp_path / f"{len(text)}.jinja"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BenchError, match=said):
            render_row(SINGLE, str(file), chat_tokenizer)
    with pytest.raises(UsageError, match="no template 'alpaca'"):
        check_template("alpaca")
    check_template(str(file))


def test_a_template_cannot_reach_out_of_its_sandbox(chat_tokenizer: Any, tmp_path: Path) -> None:
    """A template may come with a model of a stranger."""
    file = tmp_path / "evil.jinja"
    file.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}", encoding="utf-8")
    with pytest.raises(BenchError, match="does not take this row"):
        render_row(SINGLE, str(file), chat_tokenizer)
