"""The shapes of public sets: every text of a row is learned from or named, and what is undecided is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_bench.data.checking import FileFindings, examine_rows
from bitnet_bench.data.rows import BadRowError, Row, Turn, convert_data, parse_row, read_rows, read_value, row_to_fields
from bitnet_bench.data.shapes import AROUND, SHAPES
from bitnet_bench.data.templates import choose_template, render_sequences
from bitnet_bench.errors import BenchError

ASK, ANSWER, WORSE, SYSTEM = "바다는 왜 짠가요?", "소금이 녹아 있어요.", "몰라요.", "짧게 답하세요."
PAIR = (("user", ASK), ("model", ANSWER))


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def spoken(name: str, value: str) -> dict[str, str]:
    return {"from": name, "value": value}


DIALOGUE = [message("user", ASK), message("assistant", ANSWER)]
READ: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "prompt and completion": ({"prompt": ASK, "completion": ANSWER}, PAIR),
    "question and answer": ({"question": ASK, "answer": ANSWER}, PAIR),
    "input and output": ({"input": ASK, "output": ANSWER}, PAIR),
    "instruction and response": ({"instruction": ASK, "response": ANSWER}, PAIR),
    "Alpaca with a system text": ({"system": SYSTEM, "instruction": ASK, "input": "", "output": ANSWER},
                                  (("system", SYSTEM), *PAIR)),
    "a prompt with a system text": ({"system": SYSTEM, "prompt": ASK, "response": ANSWER}, (("system", SYSTEM), *PAIR)),
    "Orca": ({"system_prompt": SYSTEM, "question": ASK, "response": ANSWER}, (("system", SYSTEM), *PAIR)),
    "a history of pairs": ({"instruction": "또?", "output": "네.", "history": [[ASK, ANSWER]]},
                           (*PAIR, ("user", "또?"), ("model", "네."))),
    "a history of messages": ({"prompt": "또?", "response": "네.", "history": DIALOGUE},
                              (*PAIR, ("user", "또?"), ("model", "네."))),
    "an empty history": ({"prompt": ASK, "response": ANSWER, "history": []}, PAIR),
    "Dolly": ({"instruction": "요약하세요.", "context": "본문", "response": ANSWER},
              (("user", "요약하세요.\n본문"), ("model", ANSWER))),
    "Alpaca with a context": ({"instruction": "요약하세요.", "input": "", "output": ANSWER, "context": "본문"},
                              (("user", "요약하세요.\n본문"), ("model", ANSWER))),
    "a question about a context": ({"context": "본문", "question": ASK, "answer": ANSWER},
                                   (("user", f"다음 글을 읽고 질문에 답하세요.\n\n본문\n\n질문: {ASK}"),
                                    ("model", ANSWER))),
    "SQuAD's answers": ({"context": "본문", "question": ASK, "answers": {"text": [ANSWER], "answer_start": [0]}},
                        (("user", f"다음 글을 읽고 질문에 답하세요.\n\n본문\n\n질문: {ASK}"), ("model", ANSWER))),
    "ShareGPT": ({"conversations": [spoken("human", ASK), spoken("gpt", ANSWER)]}, PAIR),
    "ShareGPT with a system text": ({"system": SYSTEM, "conversations": [spoken("human", ASK), spoken("gpt", ANSWER)]},
                                    (("system", SYSTEM), *PAIR)),
    "ShareGPT's turns as messages": ({"messages": [spoken("human", ASK), spoken("gpt", ANSWER)]}, PAIR),
    "an empty system message": ({"messages": [message("system", ""), *DIALOGUE]}, PAIR),
    "a developer": ({"messages": [message("developer", SYSTEM), *DIALOGUE]}, (("system", SYSTEM), *PAIR)),
    "content in parts": ({"messages": [message("user", [{"type": "text", "text": "바다는 "}, {"type": "text",
                          "text": "왜 짠가요?"}]), message("assistant", [{"type": "text", "text": ANSWER}])]}, PAIR),
    "conversational prompt and completion": ({"prompt": DIALOGUE[:1], "completion": DIALOGUE[1:]}, PAIR),
    "nulls beside a pair": ({"messages": None, "prompt": ASK, "response": ANSWER, "chosen": None, "text": None}, PAIR),
    "a count of turns beside a pair": ({"prompt": ASK, "response": ANSWER, "turns": 1}, PAIR),
    "the whole text beside its parts": ({"instruction": ASK, "input": "", "output": ANSWER, "text": ANSWER}, PAIR),
}  # fmt: skip
CHOSEN: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "an instruction": ({"instruction": ASK, "input": "", "chosen": ANSWER, "rejected": WORSE}, PAIR),
    "an instruction with input": ({"instruction": "요약하세요.", "input": "본문", "chosen": ANSWER, "rejected": WORSE},
                                  (("user", "요약하세요.\n본문"), ("model", ANSWER))),
    "a question": ({"question": ASK, "chosen": ANSWER, "rejected": WORSE}, PAIR),
    "a system text": ({"system": SYSTEM, "prompt": ASK, "chosen": ANSWER, "rejected": WORSE},
                      (("system", SYSTEM), *PAIR)),
    "messages for each": ({"prompt": DIALOGUE[:1], "chosen": DIALOGUE[1:], "rejected": [message("assistant", WORSE)]},
                          PAIR),
    "whole dialogues": ({"prompt": ASK, "chosen": DIALOGUE, "rejected": [DIALOGUE[0], message("assistant", WORSE)]},
                        PAIR),
    "whole dialogues without a prompt": ({"chosen": DIALOGUE, "rejected": [DIALOGUE[0], message("assistant", WORSE)]},
                                         PAIR),
    "whole dialogues with a system text": ({"system": SYSTEM, "prompt": ASK, "chosen": DIALOGUE,
                                            "rejected": [DIALOGUE[0], message("assistant", WORSE)]},
                                           (("system", SYSTEM), *PAIR)),
    "nulls beside a pair": ({"prompt": ASK, "chosen": ANSWER, "rejected": WORSE, "response": None}, PAIR),
    "the chosen dialogue as messages": ({"prompt": ASK, "messages": DIALOGUE, "chosen": DIALOGUE,
                                         "rejected": [DIALOGUE[0], message("assistant", WORSE)]}, PAIR),
}  # fmt: skip


def turns_of(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((turn.role, turn.text) for turn in row.turns)


@pytest.mark.parametrize("name", READ)
def test_a_public_shape_is_read_whole(name: str) -> None:
    """The turns are those that the set means, and no text of the row is left over."""
    fields, expected = READ[name]
    row, unread = read_value(fields)
    assert (turns_of(row), unread) == (expected, ())


@pytest.mark.parametrize("name", CHOSEN)
def test_a_public_shape_of_preference_pairs_is_read_whole(name: str) -> None:
    fields, expected = CHOSEN[name]
    row, unread = read_value(fields)
    assert (turns_of(row), row.rejected, unread) == (expected, WORSE, ())
    assert read_value(row_to_fields(row))[0] == row


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt": ASK, "response": ANSWER, "question": "왜?", "answer": "그냥."}, 'can be read as "prompt" and'),
        ({"prompt": ASK, "response": ANSWER, "completion": "또."}, 'or as "prompt" and "completion"'),
        ({"messages": DIALOGUE, "conversations": DIALOGUE}, 'a dialogue in "messages" or as a dialogue in "conv'),
        ({"prompt": ASK, "question": "왜?", "chosen": ANSWER, "rejected": WORSE}, '"prompt", "question"'),
        ({"prompt": ASK, "response": ANSWER, "history": "어제 한 말"}, '"history" that is no list'),
        ({"prompt": ASK, "response": ANSWER, "history": [["왜?"]]}, "not a question with its answer"),
        ({"prompt": ASK, "response": ANSWER, "history": [["왜?", None]]}, "not a question with its answer"),
        ({"system": SYSTEM, "messages": [message("system", "길게."), *DIALOGUE]}, "both beside its turns and among"),
        ({"system": 3, "prompt": ASK, "response": ANSWER}, 'a "system" that is no string (it is a number)'),
        ({"prompt": True, "response": ANSWER}, 'a "prompt" that is no string (it is true or false)'),
        ({"prompt": "왜?", "chosen": DIALOGUE, "rejected": [DIALOGUE[0], message("assistant", WORSE)]},
         "without its prompt"),
        ({"chosen": DIALOGUE, "rejected": [message("user", "왜?"), message("assistant", WORSE)]}, "differ before"),
        ({"chosen": DIALOGUE[1:], "rejected": [message("assistant", WORSE)]}, 'has no "prompt"'),
        ({"prompt": ASK, "chosen": DIALOGUE[:1], "rejected": DIALOGUE}, "does not end in an answer"),
        ({"prompt": ASK, "completion": ANSWER, "label": False}, '"label": false'),
        ({"prompt": ASK, "response": ANSWER, "weight": 0}, "because its answers have the weight 0"),
        ({"messages": [DIALOGUE[0], message("assistant", ANSWER, weight=0.5)]}, 'has the "weight" 0.5'),
        ({"messages": [DIALOGUE[0], message("assistant", [{"type": "image_url", "image_url": {}}])]}, "no text (im"),
        ({"messages": [message("judge", "3"), *DIALOGUE]}, "'judge', who is neither"),
        ({"messages": [message("assistant", None, tool_calls=[])]}, 'no string (it is null)'),
        ({f"이름{i:02}": "글" for i in range(30)}, "and 20 more"),
        ({"이름" * 100: "글"}, "…"),
    ],
)  # fmt: skip
def test_what_is_undecided_or_of_another_type_is_refused_by_name(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRowError) as caught:
        read_value(fields)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_field_that_is_not_read_is_named_with_its_path() -> None:
    """Reasoning, an id: whatever holds text and is in no turn."""
    fields = {
        "id": "a1",
        "score": 0.5,
        "prompt_copy": ASK,
        "tools": [],
        "messages": [DIALOGUE[0], message("assistant", ANSWER, tool_calls=None, reasoning_content="음…", name=None)],
    }
    assert read_value(fields)[1] == ("id", "messages[].reasoning_content")


def test_reading_a_file_warns_of_fields_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Training says once for each field in how many rows it is; a file that is read whole is read silently."""
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}?", "response": "네", "category": "가", "note": "나" if i else ""} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        read_rows(file)
    assert '"category" (3 rows), "note" (2 rows)' in caplog.text
    caplog.clear()
    file.write_text('{"prompt": "왜?", "response": "네", "label": 1}', encoding="utf-8")
    read_rows(file)
    assert not caplog.text


def test_a_weight_of_zero_is_kept_through_a_conversion(tmp_path: Path) -> None:
    turns = [DIALOGUE[0], message("assistant", "틀린 답", weight=0), message("user", "다시"),
             message("assistant", ANSWER, weight=1)]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    (row,) = read_rows(file)
    assert [turn.learned for turn in row.turns] == [True, False, True, True]
    convert_data(file, tmp_path / "out.jsonl")
    assert read_rows(tmp_path / "out.jsonl") == [row]


@pytest.mark.parametrize(
    "flag", [{"loss": False}, {"trainable": 0}, {"train": False}, {"training": False}, {"learn": 0}, {"weight": 0.0}]
)
def test_an_answer_that_is_not_to_be_learned_carries_no_loss(flag: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the flag is called, in a turn of any dialogue; and a conversion keeps it."""
    said = [DIALOGUE[0], message("assistant", "틀린 답", **flag), message("user", "다시", **flag), DIALOGUE[-1]]
    shared = [{"from": one["role"], "value": one["content"], **flag} for one in said[:2]]
    task = [{"role": "user", "text": ASK}, {"role": "system", "text": "틀린 답", **flag}]
    for fields in (
        {"messages": said},
        {"conversations": [*shared, *said[2:]]},
        {"turns": [*task, *task[:1], {"role": "system", "text": ANSWER}]},
        {"prompt": ASK, "response": ANSWER, "history": said[:2]},
    ):
        row, unread = read_value(fields)
        assert [turn.learned for turn in row.turns] == [True, False, True, True]
        assert unread == ()
        (tmp_path / "a.jsonl").write_text(json.dumps(fields), encoding="utf-8")
        convert_data(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
        assert read_rows(tmp_path / "b.jsonl") == [row]
        (tmp_path / "b.jsonl").unlink()


@pytest.mark.parametrize("flag", [{"weight": 0}, {"loss": False}, {"trainable": 0}, {"train": False}])
@pytest.mark.parametrize(
    "fields",
    [
        {"messages": DIALOGUE},
        {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}]},
        {"prompt": ASK, "response": ANSWER},
        {"prompt": ASK, "chosen": ANSWER, "rejected": WORSE},
        {"text": ANSWER},
    ],
)
def test_a_row_that_is_not_to_be_learned_is_named(fields: dict[str, Any], flag: dict[str, Any]) -> None:
    with pytest.raises(BadRowError, match="because its answers have the weight 0"):
        read_value(fields | flag)
    assert read_value(fields | {name: type(value)(1) for name, value in flag.items()})[1] == ()


def test_a_flag_of_another_name_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A number, true or false: at the row, in a turn of the model, and where a user's turn asks for the loss."""
    turns = [message("user", ASK, train=True), message("assistant", ANSWER, is_masked=True, tokens=7)]
    fields = {"messages": turns, "loss_mask": [0, 1], "loss": 1.73, "sample_weight": 0.5, "id": 3, "is_new": True}
    expected = ("loss_mask", "loss", "sample_weight", "messages[].train", "messages[].is_masked")
    assert read_value(fields)[1] == expected
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        read_rows(file)
    assert '"loss_mask" (1 rows)' in caplog.text


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=8).filter(str.strip)
MESSAGES = st.lists(TEXT, min_size=2, max_size=5).map(
    lambda texts: [message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "history": st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=2),
    "body": st.fixed_dictionaries(
        {
            "dialogue": st.lists(
                st.fixed_dictionaries({"participantID": TEXT, "utterance": TEXT, "turnID": TEXT}), min_size=1
            ),
            "summary": TEXT,
        }
    ),
    "article_original": st.lists(TEXT, min_size=1, max_size=3),
    "answers": st.lists(TEXT, min_size=1, max_size=2),
    "is_impossible": st.booleans(),
    **dict.fromkeys(("messages", "conversations", "conversation", "turns", "dialogue"), MESSAGES),
}
SURPLUS = st.dictionaries(
    st.sampled_from(["id", "category", "tool_calls", "비고"]),
    TEXT | st.lists(TEXT, max_size=2) | st.none() | st.integers(),
    max_size=3,
)


@st.composite
def known_rows(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a row of any shape in the table, with some of what may stand beside it, and some of what may not."""
    shape = draw(st.sampled_from(SHAPES))
    beside = draw(st.lists(st.sampled_from((*shape.also, *AROUND)), max_size=3))
    names = dict.fromkeys((*shape.needs, *beside))
    return draw(SURPLUS) | {name: draw(VALUES.get(name, TEXT)) for name in names}


def strings(value: Any, field: str) -> list[tuple[str, str]]:
    """Return (top field, text) of every text that is a value; a role is read as one, and is no text."""
    if isinstance(value, str):
        return [(field, value)] if value.strip() else []
    if not isinstance(value, dict | list):
        return []
    inner = value.items() if isinstance(value, dict) else ((field, one) for one in value)
    return [found for key, one in inner if key != "role" for found in strings(one, field or key)]


def check_one(text: str, folder: Path, tokenizer: Any) -> FileFindings:
    file = folder / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    return examine_rows(file, tokenizer, "instruction", 4096, {}, str)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=known_rows())
def test_every_text_of_a_row_is_learned_from_or_named(fields: dict[str, Any], tmp_path: Path, tokenizer: Any) -> None:
    """Whatever the shape and what stands beside it: a text is in what training sees, or its field is in a finding."""
    line = json.dumps(fields, ensure_ascii=False)
    found = check_one(line, tmp_path, tokenizer).findings
    if any(finding.kind == "bad" for finding in found):
        return
    row = parse_row(line)
    sides = [row] if row.rejected is None else [row, row.with_rejected()]
    seen = "".join(
        one.text
        for side in sides
        for one in render_sequences(side, choose_template("instruction", side, False), tokenizer)
    )
    named = " ".join(finding.reason for finding in found)
    composed = json.loads(json.dumps(fields, ensure_ascii=False))
    for field, text in strings(composed, ""):
        (wanted,) = parse_row(json.dumps({"text": text}, ensure_ascii=False)).turns
        assert wanted.text.strip() in seen or f'"{field}' in named


NAMES = ["prompt", "response", "messages", "role", "content", "chosen", "rejected", "weight", "text", "history"]
NAMES += ["system", "body", "abstractive", "context", "question", "answers"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES)
            | st.text(max_size=3), inner, max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON_VALUES, min_size=2, max_size=4), escaped=st.booleans())
def test_any_json_is_a_row_or_a_finding_with_its_line(
    values: list[Any], escaped: bool, tmp_path: Path, tokenizer: Any
) -> None:
    """With half characters too, which only escapes can write."""
    lines = [json.dumps(value) if escaped else _storable(value) for value in values]
    found = check_one("\n".join(lines), tmp_path, tokenizer)
    bad = {finding.line for finding in found.findings if finding.kind == "bad"}
    assert found.lines == len(values)
    assert found.counts.get("bad", 0) + len(found.tokens) == len(values)
    assert bad <= set(range(1, len(values) + 1))
    json.dumps([vars(finding) for finding in found.findings], ensure_ascii=False).encode()


def _storable(value: Any) -> str:
    """Return JSON with its characters as they are, and escapes for those that no file can hold."""
    return "".join(c if not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in
                   json.dumps(value, ensure_ascii=False))  # fmt: skip


@pytest.mark.parametrize("depth", [400, 900, 5000, 100_000])
def test_json_that_is_nested_deeply_is_a_finding(depth: int, tmp_path: Path, tokenizer: Any) -> None:
    good = json.dumps({"prompt": ASK, "response": ANSWER})
    found = check_one(f'{good}\n{{"prompt": {"[" * depth}{"]" * depth}}}\n{good}', tmp_path, tokenizer)
    assert [(f.line, f.kind) for f in found.findings] == [(2, "bad"), (3, "duplicate")]


def test_a_dialogue_that_the_template_shortens_is_a_finding(tmp_path: Path, make_tokenizer: Any) -> None:
    """A template without a place for instructions drops them without a word."""
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"system": SYSTEM, "prompt": ASK, "response": ANSWER}), encoding="utf-8")
    (finding,) = examine_rows(file, tokenizer, "auto", 512, {}, str).findings
    assert (finding.kind, finding.reason) == ("unread", "1 row holds a system text that the template leaves out")


def test_pretraining_on_an_answer_of_the_weight_zero_is_refused(tokenizer: Any) -> None:
    from bitnet_bench.data.tokenizing import tokenize_rows

    row = Row((Turn("user", ASK), Turn("model", WORSE, learned=False), Turn("model", ANSWER)))
    with pytest.raises(BenchError, match="Row 1 has a response of the weight 0"):
        tokenize_rows([row], tokenizer, "dialogue", 64, pretrain=True)
