"""Convert rows to token ids with the loss on response tokens only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import RenderedRow, choose_template, render_sequences
from bitnet_bench.errors import BenchError

IGNORED_LABEL = -100
"""Label of a token that carries no loss (the default of torch.nn.functional.cross_entropy)."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """Token ids and labels of one sequence, both of its length; labels are not shifted."""

    input_ids: list[int]
    labels: list[int]
    parts: tuple[int, ...] = ()
    """Lengths of the documents in it, which do not attend to each other; () for a single document."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Training sequences, and which rows were dropped or truncated."""

    examples: list[TrainingExample]
    """Training sequences; for preference pairs, the chosen and the rejected sequence of each, one after the other."""
    rows: int
    lost: tuple[int, ...]
    """Indices of the rows whose response was cut off entirely by max_length."""
    truncated: int
    """Number of rows that lost some tokens and were kept."""

    @property
    def dropped(self) -> int:
        """Return how many rows are not among the examples."""
        return len(self.lost)

    @property
    def sha256(self) -> str:
        """Sha256 over ids and labels in order: two runs with the same digest used the same data."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.input_ids, example.labels)).encode())
        return digest.hexdigest()


LearnedTokens = Literal["everything", "responses", "last response"]
"""Tokens of a row that carry the loss."""


class TokenizeFunction(Protocol):
    """Function that tokenizes rows without a length limit."""

    def __call__(
        self, rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens
    ) -> list[list[TrainingExample]]:
        """Return the sequences of each of *rows*."""


def tokenize(rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens) -> list[list[TrainingExample]]:
    """Return the sequences of each of *rows*, of any length.

    A row is one sequence, unless its template rewrites earlier turns and several responses carry the loss.
    """
    chat = bool(tokenizer.chat_template)
    if learned != "responses":  # earlier responses then need not be separated from their prompts
        rows = [row.learning_only(row.responses[-1]) if row.responses else row for row in rows]
    rendered = [render_sequences(row, choose_template(template, row, chat), tokenizer) for row in rows]
    flat = [one for of_row in rendered for one in of_row]
    if learned == "everything":
        ids = _encode_texts([r.text for r in flat], [begins_with_bos(r.text, tokenizer) for r in flat], tokenizer)
        examples = iter([TrainingExample(each, each) for each in ids])
    else:
        examples = _mask_prompts(flat, tokenizer)
    return [list(islice(examples, len(of_row))) for of_row in rendered]


def tokenize_rows(
    rows: Sequence[Row],
    tokenizer: Any,
    template: str,
    max_length: int,
    pretrain: bool,
    tokenize: TokenizeFunction = tokenize,
) -> EncodedRows:
    """Tokenize *rows*: sequences of each row for SFT; for pretraining, documents joined and cut into max_length pieces.

    BenchError if no row has a response, or if a row for pretraining has a response that must not be learned.
    """
    if not pretrain and all(turn.role == "text" for row in rows for turn in row.turns):
        raise BenchError("These rows are running text, with no prompt and response.", "Use `method=pretrain` for them.")
    whole = tokenize(rows, tokenizer, template, "everything" if pretrain else "responses")
    if pretrain:
        _check_all_learned(rows)
        return EncodedRows(
            list(_cut_pieces([e.input_ids for each in whole for e in each], max_length)), len(rows), (), 0
        )
    kept, lost, truncated = [], [], 0
    for i, sequences in enumerate(whole):
        short = [TrainingExample(e.input_ids[:max_length], e.labels[:max_length]) for e in sequences]
        learned = [e for e in short if any(label != IGNORED_LABEL for label in e.labels[1:])]
        if not learned:
            lost.append(i)
            continue
        truncated += len(learned) < len(short) or any(len(e.input_ids) > max_length for e in sequences)
        kept += learned
    if not kept:
        raise BenchError(
            f"None of the {len(rows)} rows has a response token within {max_length} tokens.",
            "Raise `max_length`, or shorten the prompts.",
        )
    return EncodedRows(kept, len(rows), tuple(lost), truncated)


def _check_all_learned(rows: Sequence[Row]) -> None:
    """Raise BenchError for a row with a response that must not be learned: pretraining learns every token of a row."""
    marked = next((i for i, row in enumerate(rows, 1) if not all(turn.learned for turn in row.turns)), None)
    if marked is not None:
        raise BenchError(
            f"Row {marked} has a response of the weight 0, and pretraining learns every token of a row.",
            "Remove the response, or use `method=sft`.",
        )


def tokenize_pairs(
    rows: Sequence[Row], tokenizer: Any, template: str, max_length: int, tokenize: TokenizeFunction = tokenize
) -> EncodedRows:
    """Tokenize preference pairs (DPO): two sequences per row, the loss on their last response only.

    A pair is dropped when *max_length* leaves no token of one of its answers, or none in which they differ.
    """
    lacking = next((i for i, row in enumerate(rows, 1) if row.rejected is None), None)
    if lacking is not None:
        raise BenchError(
            f"Row {lacking} has no rejected answer, and `method=dpo` learns from pairs.",
            'Rows look like {"prompt", "chosen", "rejected"}.',
        )
    sides = [side for row in rows for side in (row, row.with_rejected())]
    whole = [example for (example,) in tokenize(sides, tokenizer, template, "last response")]
    short = [TrainingExample(e.input_ids[:max_length], e.labels[:max_length]) for e in whole]
    kept, lost, truncated = [], [], 0
    for i in range(0, len(short), 2):
        pair = short[i : i + 2]
        if pair[0] == pair[1] or any(all(label == IGNORED_LABEL for label in side.labels[1:]) for side in pair):
            lost.append(i // 2)
            continue
        truncated += any(len(side.input_ids) > max_length for side in whole[i : i + 2])
        kept += pair
    if not kept:
        raise BenchError(
            f"None of the {len(rows)} pairs differs within {max_length} tokens.",
            "Raise `max_length`, or shorten the prompts.",
        )
    return EncodedRows(kept, len(rows), tuple(lost), truncated)


def _mask_prompts(rendered: Sequence[RenderedRow], tokenizer: Any) -> Iterator[TrainingExample]:
    """Yield ids and labels of each row.

    The boundaries of a response are found as lm-eval finds them, by tokenizing the text before it: tokens that are not
    part of that are learned, including one that holds the end of a prompt and the start of a response.
    """
    texts: list[str] = []
    begins: list[bool] = []
    for r in rendered:
        parts = [r.text, *(r.text[:cut] for span in r.responses for cut in span)]
        texts += parts
        begins += [begins_with_bos(r.text, tokenizer)] * len(parts)
    encoded = iter(_encode_texts(texts, begins, tokenizer))
    for r in rendered:
        ids = next(encoded)
        labels = [IGNORED_LABEL] * len(ids)
        for _ in r.responses:
            start, end = _count_shared_tokens(next(encoded), ids), _count_shared_tokens(next(encoded), ids)
            labels[start:end] = ids[start:end]
        yield TrainingExample(ids, labels)


def _count_shared_tokens(prefix: list[int], ids: list[int]) -> int:
    """Return how many leading tokens two sequences have in common."""
    pairs = zip(prefix, ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(ids)))


def begins_with_bos(text: str, tokenizer: Any) -> bool:
    """Return whether *text* has its own BOS, so that the tokenizer adds none: the rule of training and evaluation."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def _encode_texts(texts: Sequence[str], begins: Sequence[bool], tokenizer: Any) -> list[list[int]]:
    """Return ids of each text, with BOS as the tokenizer adds it if the text does not begin with one.

    An EOS that the tokenizer adds is dropped: rows have theirs in the text, so that each response ends with one.
    """
    if not texts:
        return []
    encoded: list[list[int]] = [[] for _ in texts]
    ends = len(bare := tokenizer("가").input_ids) > 1 and bare[-1] == tokenizer.eos_token_id
    for present in (False, True):
        members = [i for i, has in enumerate(begins) if has is present]
        if members:
            batch = tokenizer([texts[i] for i in members], add_special_tokens=not present, verbose=False).input_ids
            for i, ids in zip(members, batch, strict=True):
                encoded[i] = ids[:-1] if ends and not present else ids
    return encoded


def _cut_pieces(documents: Iterable[list[int]], length: int) -> Iterator[TrainingExample]:
    """Join documents end to end and cut; a last piece of one token has nothing to predict and is dropped."""
    stream = [token for document in documents for token in document]
    for start in range(0, len(stream), length):
        piece = stream[start : start + length]
        if len(piece) > 1:
            yield TrainingExample(piece, piece)
