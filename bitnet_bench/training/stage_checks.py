"""Refuse what a later stage of a preset would refuse, before the first one trains for hours."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.config import SUB_NORMS_KEY, read_config
from bitnet_bench.checkpoints.locate import is_here, open_checkpoint
from bitnet_bench.data.rows import iterate_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.files import exists, is_file
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.training.inputs import list_row_files

ROWS_LOOKED_AT = 20
"""Rows at the beginning of a text that are read: a wrong file or encoding shows in them."""
TEXT_HINT = 'Give files with {"text": ...} a line.'


def check_stages(job: FinetuneJob, arms: Arms, config: dict[str, Any] | None) -> None:
    """Raise BenchError, which names the field, for a model, a teacher or a text that a stage of *job* cannot use.

    *config* is the config.json of the model. What is not here yet (None) is left to the stage that downloads it, or to
    the step that writes it.
    """
    if config is not None:
        _check_place_for_norms(config, arms)
        _check_relations(job, "model", config)
        name, teacher = ("teacher", job.teacher) if job.teacher else ("twin_model", arms.twin_model)
        if teacher is not None and is_here(teacher):
            _check_teacher(job, name, teacher)
    for file in filter(exists, list_row_files(arms.text)):
        _check_text(file)


def has_sub_norms(config: dict[str, Any]) -> bool:
    """Return whether the model of a config.json has the norms of SubLN: a BitNet's own, or added ones."""
    return config["model_type"] == "bitnet" or bool(config.get(SUB_NORMS_KEY))


def _check_place_for_norms(config: dict[str, Any], arms: Arms) -> None:
    from transformers import AutoConfig

    from bitnet_bench.ternary.subln import check_takes_sub_norms

    if has_sub_norms(config):
        return
    try:
        check_takes_sub_norms(AutoConfig.for_model(**config))
    except BenchError as error:
        raise BenchError(
            f"`preset={arms.preset}` cannot make this `model` ternary. {error.problem}",
            "Give another `model`, or leave out `preset`: the fine-tuning alone makes it ternary.",
        ) from error


def _check_teacher(job: FinetuneJob, name: str, teacher: str) -> None:
    """Raise BenchError if *teacher*, in the field *name*, cannot teach the model of *job*."""
    from bitnet_bench.checkpoints.loading import check_loadable, load_tokenizer
    from bitnet_bench.training.objectives import check_same_vocabulary

    opened = open_checkpoint(teacher)
    try:
        check_loadable(opened, "run", "fp32")
    except BenchError as error:
        raise BenchError(f"`{name}`: {error.problem}", "Name a float checkpoint with the same tokenizer.") from error
    check_same_vocabulary(load_tokenizer(open_checkpoint(job.model, job.tokenizer)), load_tokenizer(opened), name)
    _check_relations(job, name, read_config(Path(opened.path)))


def _check_relations(job: FinetuneJob, name: str, config: dict[str, Any]) -> None:
    """Raise BenchError if the relations of *job* need a layer or heads that the model in its field *name* lacks."""
    if not job.relation_weight:
        return
    from bitnet_bench.checkpoints.building import build_outline
    from bitnet_bench.training.distillation import check_attention_layer, check_relation_width, list_projection_widths

    try:
        widths = list_projection_widths(build_outline(config))
    except BenchError as error:
        raise BenchError(f"`{name}`: {error.problem}", error.hint) from error
    check_attention_layer(name, len(widths), job.relation_layer)
    for width in widths[job.relation_layer]:
        check_relation_width(width, job.relation_heads)


def check_text_exists(arms: Arms) -> None:
    """Raise BenchError if a file of running text is not there: nothing before the second stage would write it."""
    for file in list_row_files(arms.text):
        if not is_file(file):
            raise BenchError(f"`text`: There is no file {file}.", TEXT_HINT)


def _check_text(file: Path) -> None:
    if not is_file(file):
        raise BenchError(f"`text`: {file} is not a file.", TEXT_HINT)
    try:
        list(islice(iterate_rows(file), ROWS_LOOKED_AT))
    except BenchError as error:
        raise BenchError(f"`text`: {error.problem}", error.hint) from error
