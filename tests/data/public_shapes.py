"""Fifty rows in each shape that public data sets have, as the bytes of a file; a test reads or trains on each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ROWS = 50
TOOL = {"type": "function", "function": {"name": "weather", "description": "날씨", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class PublicFile:
    """A file of rows, and what it needs before or while it is trained on."""

    name: str
    data: bytes
    method: str = "sft"
    encoding: str | None = None
    """None is UTF-8; else the file is converted first."""


def make_files() -> dict[str, PublicFile]:
    """Return a file of every shape by the name of the shape."""
    lines = {name: PublicFile(f"{name}.jsonl", _write_lines(row), _find_method(name)) for name, row in _SHAPES.items()}
    pairs = [_pair(i) for i in range(ROWS)]
    written = {
        "array_json": PublicFile("array.json", json.dumps(pairs, ensure_ascii=False, indent=1).encode()),
        "array_jsonl": PublicFile("array.jsonl", json.dumps(pairs, ensure_ascii=False, indent=1).encode()),
        "csv": PublicFile("table.csv", _write_table(pairs, ",").encode()),
        "csv_of_excel": PublicFile("excel.csv", b"\xef\xbb\xbf" + _write_table(pairs, ",", "\r\n").encode()),
        "tsv": PublicFile("table.tsv", _write_table(pairs, "\t").encode()),
        "csv_cp949": PublicFile("korean.csv", _write_table(pairs, ",").encode("cp949"), encoding="cp949"),
        "jsonl_cp949": PublicFile("korean.jsonl", _write_lines(_pair).decode().encode("cp949"), encoding="cp949"),
        "trailing_comma": PublicFile("comma.jsonl", _write_lines(_pair).replace(b"}\n", b"},\n")),
        "parquet": PublicFile("rows.parquet", write_parquet(pairs)),
        "parquet_sharegpt": PublicFile("chat.parquet", write_parquet([_SHAPES["sharegpt"](i) for i in range(ROWS)])),
    }
    return lines | written


def write_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return *rows* as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), written)
    return written.getvalue()


def _ask(i: int) -> str:
    return f"{i}에 하나를 더하면 얼마인가요?"


def _answer(i: int) -> str:
    return f"{i + 1}입니다."


def _pair(i: int) -> dict[str, Any]:
    return {"prompt": _ask(i), "response": _answer(i)}


def _dialogue(i: int, **of_answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": _ask(i)}, {"role": "assistant", "content": _answer(i), **of_answer}]


def _call(i: int) -> dict[str, Any]:
    return {"id": f"c{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"day": {i}}}'}}


def _with_tools(i: int) -> dict[str, Any]:
    asked = [{"role": "user", "content": f"{i}일의 날씨는?"}, {"role": "assistant", "content": None}]
    asked[1]["tool_calls"] = [_call(i)]  # type: ignore[assignment]
    result = {"role": "tool", "tool_call_id": f"c{i}", "content": "맑음"}
    return {"messages": [*asked, result, {"role": "assistant", "content": "맑습니다."}], "tools": [TOOL]}


def _said(i: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": _ask(i)}, {"from": "gpt", "value": _answer(i)}]


_SYSTEM = "짧게 답하세요."
_SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "alpaca": lambda i: {"instruction": _ask(i), "input": "", "output": _answer(i)},
    "alpaca_history": lambda i: {
        "instruction": _ask(i), "input": "", "output": _answer(i), "history": [[_ask(i + 1), _answer(i + 1)]],
    },
    "alpaca_system": lambda i: {"system": _SYSTEM, "instruction": _ask(i), "input": "", "output": _answer(i)},
    "context": lambda i: {"context": f"답은 {i}이다.", "question": f"{i}번 답은?", "answer": f"{i}"},
    "developer_role": lambda i: {"messages": [{"role": "developer", "content": _SYSTEM}, *_dialogue(i)]},
    "dolly": lambda i: {"instruction": _ask(i), "context": "수의 이야기.", "response": _answer(i), "category": "qa"},
    "input_output": lambda i: {"input": _ask(i), "output": _answer(i)},
    "kullm": lambda i: {"instruction": _ask(i), "input": None, "output": _answer(i), "id": f"{i}"},
    "null_fields": lambda i: {"messages": None, **_pair(i)},
    "openai": lambda i: {"messages": _dialogue(i)},
    "openai_parts": lambda i: {
        "messages": [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in _dialogue(i)],
    },
    "openai_tools": _with_tools,
    "openai_weight": lambda i: {"messages": [*_dialogue(i, weight=0), *_dialogue(i + 1, weight=1)]},
    "orca": lambda i: {"id": f"{i}", "system_prompt": _SYSTEM, "question": _ask(i), "response": _answer(i)},
    "prompt_completion": lambda i: {"prompt": _ask(i), "completion": _answer(i)},
    "prompt_system": lambda i: {"system": _SYSTEM, **_pair(i)},
    "question_answer": lambda i: {"question": _ask(i), "answer": _answer(i)},
    "sharegpt": lambda i: {"conversations": _said(i)},
    "sharegpt_messages": lambda i: {"messages": _said(i)},
    "sharegpt_tools": lambda i: {
        "conversations": [
            {"from": "human", "value": f"{i}일의 날씨는?"},
            {"from": "function_call", "value": f'{{"name": "weather", "arguments": {{"day": {i}}}}}'},
            {"from": "observation", "value": "맑음"},
            {"from": "gpt", "value": "맑습니다."},
        ],
        "system": _SYSTEM,
        "tools": json.dumps([TOOL], ensure_ascii=False),
    },
    "preference": lambda i: {"prompt": _ask(i), "chosen": _answer(i), "rejected": "모릅니다."},
    "preference_instruction": lambda i: {
        "instruction": _ask(i), "input": "", "chosen": _answer(i), "rejected": "모릅니다.",
    },
    "preference_messages": lambda i: {
        "prompt": _ask(i),
        "chosen": _dialogue(i),
        "rejected": [_dialogue(i)[0], {"role": "assistant", "content": "모릅니다."}],
    },
    "preference_system": lambda i: {
        "system": _SYSTEM, "prompt": _ask(i), "chosen": _answer(i), "rejected": "모릅니다.",
    },
    "text": lambda i: {"text": f"{_ask(i)} {_answer(i)}"},
}  # fmt: skip


def _find_method(shape: str) -> str:
    return {"preference": "dpo", "text": "pretrain"}.get(shape.partition("_")[0], "sft")


def _write_lines(row: Callable[[int], dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row(i), ensure_ascii=False) + "\n" for i in range(ROWS)).encode()


def _write_table(rows: Sequence[dict[str, Any]], delimiter: str, end: str = "\n") -> str:
    written = io.StringIO(newline="")
    table = csv.DictWriter(written, list(rows[0]), delimiter=delimiter, lineterminator=end)
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()
