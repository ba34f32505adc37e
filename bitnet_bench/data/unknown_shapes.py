"""Explain a file whose rows have no known shape: the fields that are there, counted, and the shapes nearest to them."""

from __future__ import annotations

import difflib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

from bitnet_bench.data.jsonl import BadRowError, parse_nfc_json, shorten_name
from bitnet_bench.data.shapes import SHAPES, Shape, find_widest, list_known_fields

MAX_COUNTED_ROWS = 10_000
FIELDS_SHOWN = 12
NEAREST_SHOWN = 3
MIN_SIMILARITY = 0.75
"""Least similarity, by difflib, of a field's name to the known one that it may be a misspelling of."""
OTHER_NAMES = {
    "prompt": "질문 문의 문제 지시 지시문 지시사항 명령 입력 프롬프트 user human inputs source src question_text",
    "response": "답변 응답 대답 답 정답 출력 결과 assistant reply target targets outputs gpt bot answer_text",
    "system": "시스템 시스템프롬프트 system_message sys",
    "messages": "대화 chat dialog utterances messages_list",
    "text": "본문 내용 글 문서 content body_text passage",
    "chosen": "선호 선택 preferred accepted winner response_chosen",
    "rejected": "비선호 거절 dispreferred loser response_rejected",
}
"""What data sets call a known field otherwise, which is not guessed, but suggested."""
_MEANT = {other: known for known, others in OTHER_NAMES.items() for other in others.split()}


def count_fields(lines: Iterable[str]) -> tuple[int, Counter[str]]:
    """Return (number of rows, how many of them have a field that is not null, by its name), of the first rows."""
    rows, fields = 0, Counter[str]()
    for line in islice(lines, MAX_COUNTED_ROWS):
        try:
            value = parse_nfc_json(line)
        except BadRowError:
            continue
        rows += 1
        if isinstance(value, Mapping):
            fields.update(name for name, one in value.items() if one is not None)
    return rows, fields


def describe_fields(rows: int, fields: Mapping[str, int]) -> str:
    """Return the fields of *rows* rows with the number of rows that have each, as the end of a sentence."""
    counted = [f'"{shorten_name(name)}" ({count:,})' for name, count in Counter(fields).most_common(FIELDS_SHOWN)]
    more = f" and {len(fields) - FIELDS_SHOWN} more" if len(fields) > FIELDS_SHOWN else ""
    return f"{rows:,} {'row has' if rows == 1 else 'rows have'} {', '.join(counted) or 'no fields'}{more}"


def suggest_shape(file: str, fields: Mapping[str, int], encoding: str | None = None) -> str:
    """Return a hint for rows with *fields*: the command that makes them a known shape, or what the nearest lack."""
    convert = f"bitnet-bench data convert {shlex.quote(file)} OUT" + (f" --encoding {encoding}" if encoding else "")
    renamed = find_renames(fields)
    named = frozenset(renamed.get(name, name) for name in fields)
    fitting = find_widest(named)
    if renamed and fitting:
        needed = {field for shape in fitting[:1] for field in shape.claims(named)}
        options = " ".join(f"--rename {shlex.quote(f'{old}={new}')}" for old, new in renamed.items() if new in needed)
        return f"Did you mean {_name_shape(fitting[0])}? `{convert} {options}` writes that."
    nearest = sorted(SHAPES, key=lambda shape: -len(named.intersection(shape.needs)))[:NEAREST_SHOWN]
    lacking = [
        f"{_name_shape(shape)} without {', '.join(_quote(shape.needs, but=named))}"
        for shape in nearest
        if named.intersection(shape.needs)
    ]
    if lacking:
        return f"The nearest known shapes are {'; '.join(lacking)}. docs/data.md lists all."
    return (
        f'`{convert} --rename OLD=NEW` renames fields, such as to "prompt" and "response"; '
        "docs/data.md lists the known shapes."
    )


def find_renames(fields: Iterable[str]) -> dict[str, str]:
    """Return the known field that each of *fields* may mean, without those that are known; no field twice."""
    known, there = list_known_fields(), set(fields)
    found: dict[str, str] = {}
    for name in fields:
        if name in known:
            continue
        plain = name.strip().casefold().replace(" ", "")
        close = difflib.get_close_matches(plain, known, n=1, cutoff=MIN_SIMILARITY)
        meant = plain if plain in known else _MEANT.get(plain) or (close[0] if close else None)
        if meant is not None and meant not in there and meant not in found.values():
            found[name] = meant
    return found


def _name_shape(shape: Shape) -> str:
    return f"{{{', '.join(_quote(shape.needs))}}}"


def _quote(names: Iterable[str], but: Iterable[str] = ()) -> list[str]:
    return [f'"{name}"' for name in names if name not in but]
