"""Digest many training examples: the text of their numbers, made by columns and by all cores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bitnet_bench.data.examples import IGNORED_LABEL, TrainingExample
from bitnet_bench.data.many_processes import map_in_processes
from bitnet_bench.data.token_table import CutExamples, JoinedExamples

EXAMPLES_AT_ONCE = 2048


def digest_examples(examples: Sequence[TrainingExample]) -> str:
    """Return the sha256 of the `repr` of (input_ids, labels) of each of *examples*, in order."""
    digest = hashlib.sha256()

    def text(start: int) -> bytes:
        if isinstance(examples, (CutExamples, JoinedExamples)):
            return _join_texts(*examples.gather(start, start + EXAMPLES_AT_ONCE))
        some = examples[start : start + EXAMPLES_AT_ONCE]
        return b"".join(repr((example.input_ids, example.labels)).encode() for example in some)

    for some in map_in_processes(text, range(0, len(examples), EXAMPLES_AT_ONCE)):
        digest.update(some)
    return digest.hexdigest()


def _join_texts(ids: np.ndarray, is_learned: np.ndarray, lengths: np.ndarray) -> bytes:
    """Return the text of examples whose *ids* follow each other."""
    offsets = pa.array(np.cumsum([0, *lengths], dtype=np.int32))
    numbers = pa.array(ids).cast(pa.string())
    labels = pc.if_else(pa.array(is_learned), numbers, str(IGNORED_LABEL))
    texts = [pc.binary_join(pa.ListArray.from_arrays(offsets, column), ", ") for column in (numbers, labels)]
    whole = pc.binary_join_element_wise("([", texts[0], "], [", texts[1], "])", "")
    return b"".join(value.as_buffer() for value in whole)
