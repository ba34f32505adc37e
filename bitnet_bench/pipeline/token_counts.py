"""Count the tokens that a step of a recipe reads and writes, from a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitnet_bench.pipeline.steps import EvaluateStep
from bitnet_bench.runs.jobs import EvaluateJob, FinetuneJob

SAMPLED_ROWS = 200
WITHOUT_CODE = "an estimate"
"""What runs no code of a suite."""


def count_sequences(job: FinetuneJob, rows: Sequence[Any], tokenizer: Any) -> tuple[int, float]:
    """Return how many sequences a job trains on and their mean length in tokens, from a sample of its rows."""
    from bitnet_bench.data.tokenizing import tokenize_pairs, tokenize_rows

    some = rows[:: max(1, len(rows) // SAMPLED_ROWS)]
    if job.method == "dpo":
        examples = tokenize_pairs(some, tokenizer, job.template, job.max_length).examples
    else:
        examples = tokenize_rows(
            some, tokenizer, job.template, job.max_length, pretrain=job.method == "pretrain"
        ).examples
    tokens = sum(len(example.input_ids) for example in examples) / max(1, len(examples))
    return len(rows) if job.method == "dpo" else round(len(rows) * len(examples) / len(some)), tokens


def count_task_tokens(step: EvaluateStep, tokenizer: Any) -> list[tuple[int, float, float]]:
    """Return (documents, tokens to read, tokens to write) of every task."""
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    job = step.job
    rows = {name: Path(file) for name, file in job.rows.items()}
    directory = Path(job.data_dir) if job.data_dir else None
    setting = TaskSettings(
        directory, rows, job.prompts, job.shots, job.seed, job.chat_template, job.answer, without_code=WITHOUT_CODE
    )
    return [
        _count_document_tokens(build_task(suite, task, setting).lm_task, tokenizer, job) for suite, task in step.tasks
    ]


def _count_document_tokens(task: Any, tokenizer: Any, job: EvaluateJob) -> tuple[int, float, float]:
    """Return (documents, tokens to read, tokens to write) of a task, from a sample of its documents."""
    documents = list(task.test_docs())[: job.limit]
    some = documents[:: max(1, len(documents) // SAMPLED_ROWS)]
    texts = [str(task.doc_to_text(doc)) for doc in some]
    if task.OUTPUT_TYPE == "multiple_choice":
        texts += [str(choice) for doc in some for choice in task.doc_to_choice(doc)]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        texts += [str(task.doc_to_target(doc)) for doc in some]
    share = len(documents) / max(1, len(some))
    read = share * sum(len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"])
    if task.OUTPUT_TYPE != "generate_until":
        return len(documents), read, 0.0
    longest = job.max_new_tokens or task.config.generation_kwargs.get("max_gen_toks", 0)
    return len(documents), job.repeats * read, float(job.repeats * longest * len(documents))
