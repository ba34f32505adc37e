"""Calls of tools in a dialogue are learned as the text that Hermes and Qwen write for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bitnet_bench.data.jsonl import BadRowError
from bitnet_bench.data.rows import read_value

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "서울"}'}}
CALLED = '<tool_call>\n{"name": "weather", "arguments": {"city": "서울"}}\n</tool_call>'
ASKED = {"role": "user", "content": "서울 날씨는?"}
ENDING = {"role": "assistant", "content": "맑습니다."}


def answer(content: str | None = None, *calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(text: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": text}


def turns(fields: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in read_value(fields)[0].turns]


def test_a_call_its_result_and_the_answer_are_turns() -> None:
    """The call is learned, the result is not, and no field is left unread."""
    fields = {"messages": [ASKED, answer(None, CALL), result("맑음"), ENDING], "parallel_tool_calls": False}
    row, unread = read_value(fields)
    assert turns(fields) == [
        ("user", "서울 날씨는?"),
        ("model", CALLED),
        ("user", "<tool_response>\n맑음\n</tool_response>"),
        ("model", "맑습니다."),
    ]
    assert (row.responses, unread) == ((1, 3), ())


def test_several_calls_are_in_one_answer_and_their_results_in_one_turn() -> None:
    """What the answer says comes before its calls; so the sides take turns, as chat templates want."""
    said = turns({"messages": [ASKED, answer("확인할게요.", CALL, CALL), result("맑음"), result("흐림"), ENDING]})
    assert said[1] == ("model", f"확인할게요.\n{CALLED}\n{CALLED}")
    assert said[2] == ("user", "<tool_response>\n맑음\n</tool_response>\n<tool_response>\n흐림\n</tool_response>")
    assert len(said) == 4


@pytest.mark.parametrize("tools", [[WEATHER], [WEATHER["function"]], json.dumps([WEATHER])])
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "짧게."}]])
def test_tools_are_described_in_the_system_text(tools: Any, system: list[dict[str, str]]) -> None:
    """With their JSON, whether the row holds them as objects, without their wrapping, or as a text."""
    role, text = turns({"messages": [*system, ASKED, answer(None, CALL)], "tools": tools})[0]
    assert role == "system"
    assert text.startswith("짧게.\n\n# Tools\n" if system else "# Tools\n")
    assert f"<tools>\n{json.dumps(WEATHER)}\n</tools>" in text


@pytest.mark.parametrize("tools", [None, [], {}, False, "", "[]", "null"])
def test_no_tools_are_not_described(tools: Any) -> None:
    """As exporters write it."""
    assert [role for role, _ in turns({"messages": [ASKED, ENDING], "tools": tools})] == ["user", "model"]


def test_sharegpt_with_tools_is_the_same_dialogue() -> None:
    """The names that LLaMA-Factory gives the sides, and its list of tools as a text."""
    openai = {"messages": [ASKED, answer(None, CALL), result("맑음"), ENDING], "tools": [WEATHER]}
    said = [
        {"from": "human", "value": "서울 날씨는?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "서울"}}'},
        {"from": "observation", "value": "맑음"},
        {"from": "gpt", "value": "맑습니다."},
    ]
    assert turns({"conversations": said, "tools": json.dumps([WEATHER["function"]])}) == turns(openai)


def test_what_openai_had_before_is_read_too() -> None:
    """`functions`, `function_call` and the role `function`."""
    before = {
        "messages": [
            ASKED,
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "weather", "content": "맑음"},
            ENDING,
        ],
        "functions": [WEATHER["function"]],
    }
    now = {"messages": [ASKED, answer(None, CALL), result("맑음"), ENDING], "tools": [WEATHER]}
    assert turns(before) == turns(now)


def test_a_call_with_the_weight_0_is_not_learned() -> None:
    """As of any answer."""
    row, _ = read_value({"messages": [ASKED, answer(None, CALL) | {"weight": 0}, result("맑음"), ENDING]})
    assert row.responses == (3,)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"messages": [ASKED, answer(None, {"function": {"arguments": "{}"}})]}, 'a call of a tool without a "name"'),
        ({"messages": [ASKED, answer(None, {"function": {"name": "f", "arguments": "{"}})]}, "arguments of f that are"),
        ({"messages": [ASKED, ENDING], "tools": "weather"}, "has tools that are no JSON"),
        ({"messages": [ASKED, ENDING], "tools": " "}, "has tools that are no JSON"),
        ({"messages": [ASKED, ENDING], "tools": "0"}, '"tools" that are no list of objects'),
        ({"messages": [ASKED, ENDING], "tools": ["weather"]}, '"tools" that are no list of objects'),
    ],
)  # fmt: skip
def test_a_call_that_no_tool_could_take_is_refused(fields: dict[str, Any], why: str) -> None:
    """By what is wrong with it."""
    with pytest.raises(BadRowError, match=why):
        read_value(fields)
