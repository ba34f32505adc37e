"""Rows that several processes tokenize into a table against rows that are tokenized at once, and what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from bitnet_bench.data import arrow_files, mapping, stored_rows, tokenizing
from bitnet_bench.data.example_digest import digest_examples
from bitnet_bench.data.mapping import Encoding, compute_fingerprint, tokenize_stored
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.stored_rows import StoredRows, join_rows, store_rows
from bitnet_bench.data.token_table import CutExamples, JoinedExamples
from bitnet_bench.data.tokenizing import LearnedTokens, TrainingExample, tokenize, tokenize_pairs, tokenize_rows

ROWS = [
    Row((Turn("user", f"{i}번 안녕"), Turn("model", "네"), Turn("user", "서울?"), Turn("model", "네 " * (i % 4 + 1))))
    for i in range(30)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tokens of however few rows, in a folder of the test, of a few rows at once."""
    for module in (arrow_files, stored_rows, tokenizing):
        monkeypatch.setattr(module, "MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(stored_rows, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


def read_all(rows: StoredRows, encoding: Encoding) -> list[TrainingExample]:
    """Return all sequences of *rows*, whole."""
    tokens = tokenize_stored(rows, encoding)
    return list(CutExamples(tokens, tokens.numbers, 10_000))


def digest_plainly(examples: Any) -> str:
    """Return the digest that records have always had."""
    return hashlib.sha256("".join(repr((e.input_ids, e.labels)) for e in examples).encode()).hexdigest()


@pytest.mark.parametrize("learned", ["everything", "responses", "last response"])
def test_stored_rows_are_tokenized_once_and_to_the_same_tokens(
    tokenizer: Any, learned: LearnedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time no row is tokenized."""
    expected = [example for of_row in tokenize(ROWS, tokenizer, "dialogue", learned) for example in of_row]
    encoding = Encoding(tokenizer, "dialogue", learned)
    assert read_all(store_rows(ROWS), encoding) == expected
    monkeypatch.setattr(mapping, "tokenize_sequences", None)
    assert read_all(store_rows(ROWS), encoding) == expected


def test_selected_and_joined_rows_are_tokenized_like_rows_of_their_own(tokenizer: Any) -> None:
    """Rows of two tables, some of them left out."""
    rows = join_rows([store_rows(ROWS[:20]), store_rows(ROWS[20:])])
    which = np.array([25, 3, 19, 20, 4])
    chosen = rows.select(which)
    assert list(rows) == ROWS
    assert chosen == [ROWS[i] for i in which]
    assert chosen.digest == store_rows(list(chosen)).digest
    assert rows.digest == store_rows(ROWS).digest
    encoding = Encoding(tokenizer, "dialogue", "responses")
    assert read_all(chosen, encoding) == read_all(store_rows(list(chosen)), encoding)
    assert chosen.without(rows.select(np.array([3, 20]))) == [ROWS[i] for i in (25, 19, 4)]


@pytest.mark.parametrize("length", [2, 5, 24, 96])
def test_the_digest_of_the_data_is_that_of_its_ids_and_labels(length: int, tokenizer: Any) -> None:
    """However the text of the numbers is made: records of earlier runs keep their meaning."""
    pairs = [Row(row.turns, rejected="아니요") for row in ROWS]
    encoded = [tokenize_rows(ROWS, tokenizer, "dialogue", length, pretrain=True)]
    if length > 5:
        encoded.append(tokenize_rows(ROWS, tokenizer, "dialogue", length, pretrain=False))
    if length > 24:
        encoded.append(tokenize_pairs(pairs, tokenizer, "dialogue", length))
    for one in encoded:
        assert isinstance(one.examples, CutExamples | JoinedExamples)
        assert digest_examples(one.examples) == digest_plainly(one.examples) == digest_examples(list(one.examples))
        assert one.sha256 == digest_plainly(one.examples)
        assert one.lengths.tolist() == [len(example.input_ids) for example in one.examples]


def test_rows_for_pretraining_are_cut_from_one_stream(tokenizer: Any) -> None:
    """Every token once and in order; a last piece of one token is left out."""
    stream = [i for (one,) in tokenize(ROWS, tokenizer, "dialogue", "everything") for i in one.input_ids]
    for length in (2, 3, 7, len(stream) - 1, len(stream), len(stream) + 1):
        pieces = tokenize_rows(ROWS, tokenizer, "dialogue", length, pretrain=True).examples
        cut = [stream[i : i + length] for i in range(0, len(stream), length)]
        assert [piece.input_ids for piece in pieces] == [piece for piece in cut if len(piece) > 1]
        assert all(piece.labels == piece.input_ids for piece in pieces)


def test_whatever_decides_the_tokens_is_in_their_fingerprint(
    tokenizer: Any, make_tokenizer: Callable[[bool], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, their order, tokenizer, chat template, template and its file, what is learned, and the code."""

    def fingerprint(rows: list[Row], *about: Any, pairs: bool = False) -> str:
        return compute_fingerprint(store_rows(rows).tables[0], Encoding(*about, pairs=pairs))

    file = tmp_path / "own.jinja"
    file.write_text("{{ messages }}", encoding="utf-8")
    chat = make_tokenizer(False)
    chat.chat_template = "{{ messages }}"
    found = [
        fingerprint(ROWS, tokenizer, "dialogue", "responses"),
        fingerprint(ROWS[::-1], tokenizer, "dialogue", "responses"),
        fingerprint(ROWS[:-1], tokenizer, "dialogue", "responses"),
        fingerprint([Row(row.turns, verbatim=True) for row in ROWS], tokenizer, "dialogue", "responses"),
        fingerprint(ROWS, make_tokenizer(True), "dialogue", "responses"),
        fingerprint(ROWS, chat, "dialogue", "responses"),
        fingerprint(ROWS, tokenizer, "plain", "responses"),
        fingerprint(ROWS, tokenizer, str(file), "responses"),
        fingerprint(ROWS, tokenizer, "dialogue", "everything"),
        fingerprint(ROWS, tokenizer, "dialogue", "responses", pairs=True),
    ]
    file.write_text("{{ messages }} ", encoding="utf-8")
    found.append(fingerprint(ROWS, tokenizer, str(file), "responses"))
    assert fingerprint(list(ROWS), make_tokenizer(False), "dialogue", "responses") == found[0]
    monkeypatch.setattr(mapping, "digest_code", lambda: "changed")
    found.append(fingerprint(ROWS, tokenizer, "dialogue", "responses"))
    assert len(set(found)) == len(found)


def test_a_cache_that_cannot_be_written_is_no_error(
    tokenizer: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are tokenized, and the log says why their tokens are not kept."""
    cache.write_text("a file where the folder should be", encoding="utf-8")
    expected = [example for (example,) in tokenize(ROWS, tokenizer, "plain", "responses")]
    assert read_all(store_rows(ROWS), Encoding(tokenizer, "plain", "responses")) == expected
    assert "Tokens of 30 rows are not kept" in caplog.text


def test_a_disk_that_fills_up_is_no_error(
    tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it is full when the tokens are written or after them, they are held in memory."""
    expected = [example for (example,) in tokenize(ROWS, tokenizer, "plain", "responses")]

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for owner, name in ((arrow_files.TableWriter, "_open"), (arrow_files, "_write_notes")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            assert read_all(store_rows(ROWS), Encoding(tokenizer, "plain", "responses")) == expected
            encoded = tokenize_rows(ROWS, tokenizer, "plain", 96, pretrain=False)
            assert encoded.sha256 == digest_plainly(encoded.examples)
        assert "No space left on device" in caplog.text
        caplog.clear()


def test_a_damaged_cache_file_is_written_anew(tokenizer: Any, cache: Path) -> None:
    encoding = Encoding(tokenizer, "plain", "responses")
    expected = read_all(store_rows(ROWS), encoding)
    (file,) = cache.rglob("tokens-*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert read_all(store_rows(ROWS), encoding) == expected


def test_a_file_that_was_not_finished_is_not_left_behind(make_tokenizer: Callable[[bool], Any], cache: Path) -> None:
    """Nor is it read: its name comes last."""
    rows = [*ROWS, Row((Turn("model", "끝"), Turn("user", "네"), Turn("model", "네")))]
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(Exception, match="begins with the model's turn"):
        read_all(store_rows(rows), Encoding(tokenizer, "chat", "responses"))
    assert list(cache.rglob("*.*")) == []
