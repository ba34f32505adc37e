"""Rows that `datasets` maps against rows that are tokenized at once, and its cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from bitnet_bench.data import mapping
from bitnet_bench.data.mapping import compute_fingerprint, tokenize_cached
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.tokenizing import LearnedTokens, tokenize, tokenize_pairs, tokenize_rows

ROWS = [
    Row((Turn("user", f"{i}번 안녕"), Turn("model", "네"), Turn("user", "서울?"), Turn("model", "네 " * (i % 4 + 1))))
    for i in range(30)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tokens of however few rows, in a folder of the test."""
    monkeypatch.setattr(mapping, "MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@pytest.mark.parametrize("learned", ["everything", "responses", "last response"])
def test_mapped_rows_are_tokenized_once_and_to_the_same_tokens(
    tokenizer: Any, learned: LearnedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time no row is tokenized."""
    expected = tokenize(ROWS, tokenizer, "dialogue", learned)
    assert tokenize_cached(ROWS, tokenizer, "dialogue", learned) == expected
    monkeypatch.setattr(mapping, "tokenize", None)
    assert tokenize_cached(ROWS, tokenizer, "dialogue", learned) == expected


def test_the_digest_of_the_data_is_that_of_tokens_without_a_cache(tokenizer: Any) -> None:
    """Whatever is cut off later: records of earlier runs keep their meaning."""
    pairs = [Row(row.turns, rejected="아니요") for row in ROWS]
    for length in (24, 96):
        for _ in range(2):
            kept = tokenize_rows(ROWS, tokenizer, "dialogue", length, False, tokenize_cached)
            assert kept == tokenize_rows(ROWS, tokenizer, "dialogue", length, False)
            assert kept.sha256 == tokenize_rows(ROWS, tokenizer, "dialogue", length, False).sha256
    assert tokenize_pairs(pairs, tokenizer, "dialogue", 96, tokenize_cached) == tokenize_pairs(
        pairs, tokenizer, "dialogue", 96
    )


def test_whatever_decides_the_tokens_is_in_their_fingerprint(
    tokenizer: Any, make_tokenizer: Callable[[bool], Any], tmp_path: Path
) -> None:
    """Rows, their order, tokenizer, chat template, template and its file, and what is learned."""
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages }}", encoding="utf-8")
    chat = make_tokenizer(False)
    chat.chat_template = "{{ messages }}"
    found = [
        compute_fingerprint(ROWS, tokenizer, "dialogue", "responses"),
        compute_fingerprint(ROWS[::-1], tokenizer, "dialogue", "responses"),
        compute_fingerprint(ROWS[:-1], tokenizer, "dialogue", "responses"),
        compute_fingerprint([Row(row.turns, verbatim=True) for row in ROWS], tokenizer, "dialogue", "responses"),
        compute_fingerprint(ROWS, make_tokenizer(True), "dialogue", "responses"),
        compute_fingerprint(ROWS, chat, "dialogue", "responses"),
        compute_fingerprint(ROWS, tokenizer, "plain", "responses"),
        compute_fingerprint(ROWS, tokenizer, str(file), "responses"),
        compute_fingerprint(ROWS, tokenizer, "dialogue", "everything"),
    ]
    file.write_text("{{ messages }} ", encoding="utf-8")
    found.append(compute_fingerprint(ROWS, tokenizer, str(file), "responses"))
    assert len(set(found)) == len(found)
    assert compute_fingerprint(list(ROWS), make_tokenizer(False), "dialogue", "responses") == found[0]


def test_a_cache_that_cannot_be_written_is_no_error(
    tokenizer: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are tokenized, and the log says why their tokens are not kept."""
    cache.write_text("a file where the folder should be", encoding="utf-8")
    assert tokenize_cached(ROWS, tokenizer, "plain", "responses") == tokenize(ROWS, tokenizer, "plain", "responses")
    assert "Tokens of 30 rows are not kept" in caplog.text


def test_a_damaged_cache_file_is_written_anew(tokenizer: Any, cache: Path) -> None:
    expected = tokenize_cached(ROWS, tokenizer, "plain", "responses")
    (file,) = cache.rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert tokenize_cached(ROWS, tokenizer, "plain", "responses") == expected
