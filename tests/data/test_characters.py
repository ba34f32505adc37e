"""Characters that nobody sees are found, and emoji and ordinary text are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.data.characters import find_characters
from bitnet_bench.data.checking import examine_rows


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        ("바\u200b다\u200b", "invisible", "2 × U+200B ZERO WIDTH SPACE"),
        ("\ufeff바다", "invisible", "1 × U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("바다\u00ad", "invisible", "1 × U+00AD SOFT HYPHEN"),
        ("\u202e다바", "invisible", "1 × U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("바\u3164다", "invisible", "1 × U+3164 HANGUL FILLER"),
        ("바\u200d다", "invisible", "1 × U+200D ZERO WIDTH JOINER"),
        ("바\ufffd", "damaged", "1 × U+FFFD REPLACEMENT CHARACTER"),
        ("\ue000", "damaged", "1 × U+E000"),
        ("\uffff", "damaged", "1 × U+FFFF"),
        ("바\x00다\x1b", "control", "1 × U+0000, 1 × U+001B"),
        ("바\x85", "control", "1 × U+0085"),
        ("바\u2028", "control", "1 × U+2028 LINE SEPARATOR"),
    ],
)
def test_a_character_that_nobody_sees_is_named(text: str, kind: str, named: str) -> None:
    assert list(find_characters(text)) == [(kind, named)]


@pytest.mark.parametrize(
    "text",
    ["바다\t는\r\n왜?", "👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥", "🏴\U000e0067\U000e0062\U000e007f", "①½漢字"],
)
def test_ordinary_text_and_emoji_are_no_finding(text: str) -> None:
    assert list(find_characters(text)) == []


def test_every_side_of_a_row_is_looked_at(tmp_path: Path, tokenizer: Any) -> None:
    """The prompt, the answer, and the answer that was not preferred, each with its line."""
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "바\u200b다", "response": "네"},
        {"prompt": "강", "response": "네\ufffd"},
        {"prompt": "산", "chosen": "네", "rejected": "아니\x07"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = examine_rows(file, tokenizer, "plain", 512, {}, str).findings
    assert [(f.line, f.kind) for f in found] == [(1, "invisible"), (2, "damaged"), (3, "control")]
