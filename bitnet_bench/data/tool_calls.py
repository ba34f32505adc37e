"""Write calls of tools, their results and their descriptions as text, in the form of Hermes and Qwen.

A row is then a dialogue of texts like any other, whatever chat template it is rendered with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from bitnet_bench.data.jsonl import BadRowError, shorten_name
from bitnet_bench.data.turns import Turn

TOOL_NAMES = {"tool", "function", "observation", "tool_response", "ipython"}
"""Names of what gives the result of a call."""
CALL_NAMES = {"function_call", "tool_call"}
"""Names of a model's turn that is a call and nothing else."""
TOOLS = ("tools", "functions")
"""Fields of a row that describe the tools; `functions` is what OpenAI had before."""
CALLS = ("tool_calls", "function_call")
"""Fields of a model's turn that hold its calls; `function_call` is what OpenAI had before."""
_BEFORE_RESULT = "<tool_response>\n"
_DESCRIPTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""What Qwen2.5's and Qwen3's chat templates write for a model that may call tools."""


def write_tools(tools: Any) -> str:
    """Return the text of a system turn that describes *tools*, a list of objects or its JSON; "" if there are none."""
    given = _parse(tools, "tools") if isinstance(tools, str) and tools else tools or None
    if given is None or given == []:
        return ""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise BadRowError('has "tools" that are no list of objects')
    wrapped = [one if "function" in one else {"type": "function", "function": one} for one in given]
    return _DESCRIPTION.format(tools="\n".join(json.dumps(one, ensure_ascii=False) for one in wrapped))


def write_calls(text: str, calls: Any) -> str:
    """Return an answer that says *text*, if any, and then calls: OpenAI's objects, one or a list, or their JSON."""
    calls = _parse(calls, "tool_calls") if isinstance(calls, str) else calls
    listed = calls if isinstance(calls, list) else [calls]
    return "\n".join([*([text] if text.strip() else []), *map(_write_call, listed)])


def write_result(text: str) -> Turn:
    """Return the turn that gives a model the result of its call."""
    return Turn("user", f"{_BEFORE_RESULT}{text}\n</tool_response>")


def join_results(turns: Iterable[Turn]) -> list[Turn]:
    """Return *turns* with the results of several calls in one turn, so that the sides take turns."""
    found: list[Turn] = []
    for turn in turns:
        if found and all(one.role == "user" and one.text.startswith(_BEFORE_RESULT) for one in (found[-1], turn)):
            found[-1] = Turn("user", f"{found[-1].text}\n{turn.text}")
        else:
            found.append(turn)
    return found


def add_tools(turns: Sequence[Turn], description: str) -> list[Turn]:
    """Return *turns* with the description of tools at the end of the first system text, or as one."""
    if not description:
        return list(turns)
    if turns and turns[0].role == "system":
        return [Turn("system", f"{turns[0].text}\n\n{description}"), *turns[1:]]
    return [Turn("system", description), *turns]


def _write_call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError('has a call of a tool without a "name"')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parse(arguments, f"arguments of {shorten_name(function['name'])}") if arguments.strip() else {}
    named = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    return f"<tool_call>\n{json.dumps(named, ensure_ascii=False)}\n</tool_call>"


def _parse(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"has {what} that are no JSON") from error
