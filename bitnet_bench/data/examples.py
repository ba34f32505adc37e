"""Tokenize rows to training examples, with the loss on response tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import RenderedRow, choose_template, render_rows
from bitnet_bench.data.text_encoding import TextEncoder, begins_with_bos

IGNORED_LABEL = -100
"""Label of a token that carries no loss (the default of torch.nn.functional.cross_entropy)."""
LearnedTokens = Literal["everything", "responses", "last response"]
"""Tokens of a row that carry the loss."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """Token ids and labels of one sequence, both of its length; labels are not shifted."""

    input_ids: list[int]
    labels: list[int]
    parts: tuple[int, ...] = ()
    """Lengths of the documents in it, which do not attend to each other; () for a single document."""


class LearnedSequence(NamedTuple):
    """Token ids of a sequence, and the [start, end) of its tokens that carry the loss, one after another."""

    ids: np.ndarray
    spans: list[int]

    def to_example(self) -> TrainingExample:
        """Return ids and labels."""
        ids = self.ids.tolist()
        return TrainingExample(ids, label_spans(ids, self.spans))


def label_spans(ids: list[int], spans: Sequence[int]) -> list[int]:
    """Return the labels of *ids*: those of *spans* are learned."""
    labels = [IGNORED_LABEL] * len(ids)
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        labels[start:end] = ids[start:end]
    return labels


def tokenize(rows: Sequence[Row], tokenizer: Any, template: str, learned: LearnedTokens) -> list[list[TrainingExample]]:
    """Return the sequences of each of *rows*, of any length.

    A row is one sequence, unless its template rewrites earlier turns and several responses carry the loss.
    """
    found = tokenize_sequences(rows, TextEncoder(tokenizer), template, learned)
    return [[sequence.to_example() for sequence in of_row] for of_row in found]


def tokenize_sequences(
    rows: Sequence[Row], encoder: TextEncoder, template: str, learned: LearnedTokens
) -> list[list[LearnedSequence]]:
    """Return what `tokenize` does, in the form in which many are kept."""
    tokenizer = encoder.tokenizer
    chat = bool(tokenizer.chat_template)
    if learned != "responses":  # earlier responses then need not be separated from their prompts
        rows = [row.learning_only(row.responses[-1]) if row.responses else row for row in rows]
    rendered = render_rows(rows, [choose_template(template, row, chat) for row in rows], tokenizer)
    flat = [one for of_row in rendered for one in of_row]
    if learned == "everything":
        ids = encoder.encode([r.text for r in flat], [begins_with_bos(r.text, tokenizer) for r in flat])
        sequences: Iterator[LearnedSequence] = (LearnedSequence(each, [0, len(each)]) for each in ids)
    else:
        sequences = _mask_prompts(flat, encoder)
    return [list(islice(sequences, len(of_row))) for of_row in rendered]


def _mask_prompts(rendered: Sequence[RenderedRow], encoder: TextEncoder) -> Iterator[LearnedSequence]:
    """Return ids of each row, and where its responses are.

    The boundaries of a response are found as lm-eval finds them, by tokenizing the text before it: tokens that are not
    part of that are learned, including one that holds the end of a prompt and the start of a response.
    """
    texts = [one.text for one in rendered]
    begins = [begins_with_bos(text, encoder.tokenizer) for text in texts]
    cuts = [[cut for span in one.responses for cut in span] for one in rendered]
    return (LearnedSequence(*encoded) for encoded in encoder.encode_with_cuts(texts, begins, cuts))
