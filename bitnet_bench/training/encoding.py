"""Turn the rows of a job into tokens, and these into the items of a trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.data.collating import Collator
from bitnet_bench.data.row_packing import keeps_documents_apart
from bitnet_bench.data.rows import Row
from bitnet_bench.data.token_table import Examples, as_examples
from bitnet_bench.data.tokenizing import EncodedRows, tokenize_pairs, tokenize_rows
from bitnet_bench.protocols import Progress, TrainingInputs, no_progress
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.items import Items
from bitnet_bench.training.loss import response_logprobs

_log = logging.getLogger(__name__)
ROW_NAME_CHARACTERS = 40
"""Characters of a row's beginning that name it in a warning."""
TEXTS_LOOKED_AT = 200
LEAST_KOREAN_SHARE = 0.1
"""Share of Hangul syllables among letters below which running text is hardly Korean; technical pages have a third."""
MAX_ROWS_NAMED = 5
"""Most dropped rows that a warning names."""


def encode_rows(
    job: FinetuneJob, given: TrainingInputs, tokenizer: Any, progress: Progress = no_progress
) -> tuple[EncodedRows, EncodedRows]:
    """Return the training and the validation rows as tokens; there may be no validation rows."""
    length = min(job.max_length, int(read_config(Path(given.base.path)).get("max_position_embeddings", 2**31)))

    def encoded(rows: Sequence[Any]) -> EncodedRows:
        if job.method == "dpo":
            return tokenize_pairs(rows, tokenizer, job.template, length, progress)
        return tokenize_rows(rows, tokenizer, job.template, length, job.method == "pretrain", progress)

    return encoded(given.rows), encoded(given.validation) if given.validation else EncodedRows([], 0, (), 0)


def warn_dropped_rows(encoded: EncodedRows, rows: Sequence[Row], max_length: int) -> tuple[str, ...]:
    """Return and log a warning that names the rows that are not trained on; () if there are none."""
    if not encoded.lost:
        return ()
    beginnings = ", ".join(f"“{rows[i].turns[0].text[:ROW_NAME_CHARACTERS]}”" for i in encoded.lost[:MAX_ROWS_NAMED])
    warning = (
        f"{encoded.dropped} of {encoded.rows} rows are left out, because {max_length} tokens leave nothing of their "
        f"response: those that begin {beginnings}{', …' if encoded.dropped > MAX_ROWS_NAMED else ''}. "
        "Raise `max_length`; `bitnet-bench data check` gives their lines."
    )
    _log.warning(warning)
    return (warning,)


def joins_step_rows(job: FinetuneJob, architecture: str) -> bool:
    """Return whether rows of a step share sequences by default: its rows, loss and number of steps stay the same.

    They do not where the two sides of a pair are compared, where texts fill their sequences already, where noise
    depends on the length of a sequence, and in families that are not known to keep rows apart.
    """
    wanted = job.packing is None and job.method in {"sft", "distill"} and not job.neftune_alpha
    return wanted and keeps_documents_apart(architecture)


def warn_foreign_text(job: FinetuneJob, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return and log a warning if running text is hardly Korean: a mistaken file trains without any other sign."""
    if job.method != "pretrain":
        return ()
    looked = [rows[i] for i in range(min(len(rows), TEXTS_LOOKED_AT))]
    letters = [letter for row in looked for turn in row.turns for letter in turn.text if letter.isalpha()]
    share = sum("가" <= letter <= "힣" for letter in letters) / max(1, len(letters))
    if not letters or share >= LEAST_KOREAN_SHARE:
        return ()
    warning = (
        f"Only {100 * share:.0f} % of the letters in the first {len(looked)} texts of `data` (of a preset: `text`) are "
        "Korean. "
        "If that is not meant, look at the file's language and encoding."
    )
    _log.warning(warning)
    return (warning,)


def make_items(job: FinetuneJob, model: PreTrainedModel, encoded: EncodedRows, collator: Collator) -> Items:
    """Return the trainer's items: one example each, or for `dpo` a pair each with its reference."""
    examples = as_examples(encoded.examples)
    return _make_preference_pairs(job, model, examples, collator) if job.method == "dpo" else Items(examples)


def _make_preference_pairs(job: FinetuneJob, model: PreTrainedModel, examples: Examples, collator: Collator) -> Items:
    """Return pairs with their reference: their log-probabilities in this model, with quantizers, before the first step.

    Dropout is turned off, in training as well: with it, a policy would differ from its own reference.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    by_length = np.argsort(-examples.lengths, kind="stable").tolist()
    reference = np.zeros(len(examples))
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=job.compute == "bf16"):
        for start in range(0, len(by_length), 2 * job.sequences):
            some = by_length[start : start + 2 * job.sequences]
            batch = {name: t.to(model.device) for name, t in collator.pad_examples([examples[i] for i in some]).items()}
            reference[some] = response_logprobs(model, batch).double().cpu().numpy()
    return Items(examples, 2, reference)
