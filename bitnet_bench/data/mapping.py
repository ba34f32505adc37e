"""Tokenize many rows once: `datasets` maps them and caches their tokens on disk for the next run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import hash_template
from bitnet_bench.data.tokenizing import LearnedTokens, TrainingExample, tokenize

MIN_CACHED_ROWS = 5_000
"""Minimum number of rows to cache; fewer are tokenized in about a second (docs/log.md, 2026-11-25)."""
CACHE_VERSION = 2
"""Version of what this module writes and of `tokenize`; raised when the same rows give other tokens."""
_log = logging.getLogger(__name__)


def tokenize_cached(
    rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens
) -> list[list[TrainingExample]]:
    """Return the result of `tokenize`; for many rows it is read from the disk cache of `datasets` if it is there."""
    if len(rows) < MIN_CACHED_ROWS or getattr(tokenizer, "backend_tokenizer", None) is None:
        return tokenize(rows, tokenizer, template, learned)
    from pyarrow import ArrowInvalid

    try:
        try:
            return _map_rows(rows, tokenizer, template, learned)
        except ArrowInvalid:  # a damaged file
            return _map_rows(rows, tokenizer, template, learned, anew=True)
    except OSError as error:  # a full disk, or a folder without write permission: caching is optional
        _log.warning("Tokens of %s rows are not kept: %s", len(rows), error)
        return tokenize(rows, tokenizer, template, learned)


def _map_rows(
    rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens, anew: bool = False
) -> list[list[TrainingExample]]:
    import datasets

    def tokens(batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        of_rows = tokenize([rows[i] for i in batch["row"]], tokenizer, template, learned)
        numbered = [(i, example) for i, examples in zip(batch["row"], of_rows, strict=True) for example in examples]
        return {
            "sequence_of": [i for i, _ in numbered],
            "input_ids": [example.input_ids for _, example in numbered],
            "labels": [example.labels for _, example in numbered],
        }

    name = compute_fingerprint(rows, tokenizer, template, learned)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "bitnet_bench"
    folder.mkdir(parents=True, exist_ok=True)
    integers = datasets.Sequence(datasets.Value("int32"))
    mapped = datasets.Dataset.from_dict({"row": range(len(rows))}).map(
        tokens,
        batched=True,
        remove_columns=["row"],
        features=datasets.Features({"sequence_of": datasets.Value("int64"), "input_ids": integers, "labels": integers}),
        new_fingerprint=name,
        cache_file_name=str(folder / f"{name}.arrow"),
        load_from_cache_file=not anew,
        desc="tokenize",
    )
    columns = mapped.data.table
    found: list[list[TrainingExample]] = [[] for _ in rows]
    names = ("sequence_of", "input_ids", "labels")
    for row, ids, labels in zip(*(columns[name].to_pylist() for name in names), strict=True):
        found[row].append(TrainingExample(ids, labels))
    return found


def compute_fingerprint(rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens) -> str:
    """Return a digest of all that decides the tokens of *rows*, except the maximum length, which is applied later."""
    found = hashlib.sha256()
    about = (CACHE_VERSION, version("tokenizers"), version("transformers"), learned, template, hash_template(template))
    own = (tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map)
    for part in (*about, *own, *rows):
        found.update(repr(part).encode() + b"\0")
    return found.hexdigest()
