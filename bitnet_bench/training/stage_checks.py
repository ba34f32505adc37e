"""Refuse what a later stage of a preset would refuse, before the first one trains for hours."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.locate import is_here, open_checkpoint
from bitnet_bench.checkpoints.shape import compute_shape
from bitnet_bench.data.rows import iterate_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.files import exists
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.training.inputs import list_row_files

ROWS_LOOKED_AT = 20
"""Rows at the beginning of a text that are read: a wrong file or encoding shows in them."""


def check_stages(job: FinetuneJob, arms: Arms) -> None:
    """Raise BenchError, which names the field, for a model, a teacher or a text that a stage of *job* cannot use.

    What is not here yet is left to the stage that downloads it, or to the step that writes it.
    """
    if is_here(job.model):
        config = read_config(Path(open_checkpoint(job.model, job.tokenizer).path))
        _check_place_for_norms(config, arms)
        _check_relations(job, "model", config)
        if job.teacher is not None and is_here(job.teacher):
            _check_teacher(job, job.teacher)
    for file in filter(exists, list_row_files(arms.text)):
        _check_text(file)


def _check_place_for_norms(config: dict[str, Any], arms: Arms) -> None:
    from transformers import AutoConfig

    from bitnet_bench.ternary.subln import check_takes_sub_norms

    if config["model_type"] == "bitnet":  # has the norms
        return
    try:
        check_takes_sub_norms(AutoConfig.for_model(**config))
    except BenchError as error:
        raise BenchError(
            f"`preset={arms.preset}` cannot make this `model` ternary. {error.problem}",
            "Give another `model`, or leave out `preset`: the fine-tuning alone makes it ternary.",
        ) from error


def _check_teacher(job: FinetuneJob, teacher: str) -> None:
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.training.objectives import check_same_vocabulary

    opened = open_checkpoint(teacher)
    check_same_vocabulary(load_tokenizer(open_checkpoint(job.model, job.tokenizer)), load_tokenizer(opened))
    _check_relations(job, "teacher", read_config(Path(opened.path)))


def _check_relations(job: FinetuneJob, name: str, config: dict[str, Any]) -> None:
    """Raise BenchError if the relations of *job* need a layer or heads that the model in its field *name* lacks."""
    if not job.relation_weight:
        return
    from bitnet_bench.training.distillation import check_attention_layer, check_relation_width

    shape = compute_shape(config)
    check_attention_layer(name, shape.layers, job.relation_layer)
    for width in (shape.query_width, shape.kv_width):
        check_relation_width(width, job.relation_heads)


def check_text_exists(arms: Arms) -> None:
    """Raise BenchError if a file of running text is not there: nothing before the second stage would write it."""
    for file in list_row_files(arms.text):
        if not exists(file):
            raise BenchError(f"`text`: There is no file {file}.", 'Give files with {"text": ...} a line.')


def _check_text(file: Path) -> None:
    try:
        list(islice(iterate_rows(file), ROWS_LOOKED_AT))
    except BenchError as error:
        raise BenchError(f"`text`: {error.problem}", error.hint) from error
