"""Tokenize many rows once: `datasets` maps them, and keeps their tokens on disk for the next run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import digest
from bitnet_bench.data.tokenizing import Example, Learned, tokenize

LEAST_ROWS = 5_000
"""Fewer are tokenized in about a second, and leave no file behind (docs/log.md, 2026-11-25)."""
VERSION = 2
"""Of what this module writes, and of `tokenize`: raised when the same rows come to other tokens."""
_log = logging.getLogger(__name__)


def tokenize_once(rows: Sequence[Row], tokenizer: Any, template: str, learned: Learned) -> list[Example]:
    """Return what `tokenize` does; many rows that were there before come from the cache of `datasets`, on disk."""
    if len(rows) < LEAST_ROWS or getattr(tokenizer, "backend_tokenizer", None) is None:
        return tokenize(rows, tokenizer, template, learned)
    from pyarrow import ArrowInvalid

    try:
        try:
            return _mapped(rows, tokenizer, template, learned)
        except ArrowInvalid:  # a damaged file
            return _mapped(rows, tokenizer, template, learned, anew=True)
    except OSError as error:  # a full disk, a folder that is not ours: tokens need not be kept
        _log.warning("Tokens of %s rows are not kept: %s", len(rows), error)
        return tokenize(rows, tokenizer, template, learned)


def _mapped(rows: Sequence[Row], tokenizer: Any, template: str, learned: Learned, anew: bool = False) -> list[Example]:
    import datasets

    def tokens(batch: Mapping[str, list[int]]) -> dict[str, list[list[int]]]:
        examples = tokenize([rows[i] for i in batch["row"]], tokenizer, template, learned)
        return {"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]}

    name = fingerprint(rows, tokenizer, template, learned)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "bitnet_bench"
    folder.mkdir(parents=True, exist_ok=True)
    integers = datasets.Sequence(datasets.Value("int32"))
    mapped = datasets.Dataset.from_dict({"row": range(len(rows))}).map(
        tokens,
        batched=True,
        remove_columns=["row"],
        features=datasets.Features({"input_ids": integers, "labels": integers}),
        new_fingerprint=name,
        cache_file_name=str(folder / f"{name}.arrow"),
        load_from_cache_file=not anew,
        desc="tokenize",
    )
    columns = mapped.data.table
    pairs = zip(columns["input_ids"].to_pylist(), columns["labels"].to_pylist(), strict=True)
    return [Example(ids, labels) for ids, labels in pairs]


def fingerprint(rows: Sequence[Row], tokenizer: Any, template: str, learned: Learned) -> str:
    """Return a digest of all that decides the tokens of *rows*; how long they may be is decided later."""
    found = hashlib.sha256()
    about = (VERSION, version("tokenizers"), version("transformers"), learned, template, digest(template))
    own = (tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map)
    for part in (*about, *own, *rows):
        found.update(repr(part).encode() + b"\0")
    return found.hexdigest()
