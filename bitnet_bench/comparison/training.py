"""Check whether both models of a pair learned the same rows in the same order, so that only precision differs."""

from __future__ import annotations

from collections.abc import Iterator

from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.records import ROWS_INPUT, FinetuneRecord
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.wording import Text, get_text, join_texts


def training_notices(a: LoadedRun, b: LoadedRun) -> tuple[Notice, ...]:
    """Return a notice if *a* and *b*, one ternary and one not, were fine-tuned on other rows or in another order."""
    if a.training is None or b.training is None:
        return ()
    if (a.record.precision in TERNARY_PRECISIONS) == (b.record.precision in TERNARY_PRECISIONS):
        return ()
    differing = [*_differences(a.training, b.training)]
    if not differing:
        return ()
    return (Notice(f"{a.record.name}, {b.record.name}", get_text("notice.learned", what=join_texts(differing, "; "))),)


def _differences(a: FinetuneRecord, b: FinetuneRecord) -> Iterator[Text]:
    ours, theirs = a.inputs.get(ROWS_INPUT), b.inputs.get(ROWS_INPUT)
    if ours and theirs:
        if ours != theirs:
            yield get_text("learned.rows", a=f"{a.rows:,}", b=f"{b.rows:,}")
    elif a.data_sha256 != b.data_sha256:  # a record of an older version has no other digest
        yield get_text("learned.tokens", a=f"{a.rows:,}", b=f"{b.rows:,}")
    numbers = {
        "seed": (a.job.seed, b.job.seed),
        "steps": (a.steps, b.steps),
        "batch": (_batch(a), _batch(b)),
    }
    for name, (one, other) in numbers.items():
        if one != other:
            yield get_text(f"learned.{name}", a=f"{one:,}", b=f"{other:,}")


def _batch(record: FinetuneRecord) -> int:
    """Return the number of sequences per step."""
    return record.job.sequences * record.job.gradient_accumulation
