"""Make the model card of a checkpoint from its records, without anything of the publisher's machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from bitnet_bench import __version__
from bitnet_bench.checkpoints.locate import parse_hub_id
from bitnet_bench.errors import BenchError
from bitnet_bench.escaping import escape_markdown, make_code_span
from bitnet_bench.files import exists
from bitnet_bench.runs.folder import load_training_record
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, RunRecord
from bitnet_bench.shared_paths import shorten_paths
from bitnet_bench.wording.estimates import format_limits

LOCAL_SETTINGS = ("model", "data", "data_dir", "validation")
"""Settings that name files of the publisher's machine, which mean nothing elsewhere."""
NAMED_SETTINGS = ("teacher", "template")
"""Settings that may name such files; only the last part of the path is given."""
MAX_ANCESTORS = 16
"""Bases of bases that are followed to one of the hub."""

SEAL = re.compile(r"<!-- bitnet-bench made what is above, of the sha256 ([0-9a-f]{64}) -->\n?")
"""Last line of a card that nobody edited."""


def seal_card(text: str) -> str:
    """Return *text* with a last line by which an edit is noticed."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}<!-- bitnet-bench made what is above, of the sha256 {digest} -->\n"


def is_card_untouched(text: str) -> bool:
    """Return whether *text* is what `seal_card` returned, so that it may be made again."""
    *lines, last = text.replace("\r\n", "\n").splitlines(keepends=True) or [""]
    seal = SEAL.fullmatch(last)
    return seal is not None and hashlib.sha256("".join(lines).encode()).hexdigest() == seal[1]


def make_card(
    checkpoint: Checkpoint,
    record: FinetuneRecord | None,
    runs: Sequence[RunRecord] = (),
    *,
    keep_paths: bool = False,
) -> str:
    """Return the model card of *checkpoint*: its description, training and scores, from records alone."""
    base = find_hub_base(record) if record else None
    kind = "ternary (BitNet b1.58)" if checkpoint.is_ternary else "float"
    if checkpoint.group_size:
        kind = f"ternary (a scale for every {checkpoint.group_size} inputs of a row)"
    lines = [
        "---", "language: ko", "library_name: transformers", "pipeline_tag: text-generation",
        "tags:", "- bitnet-bench", *(["- bitnet"] if checkpoint.is_ternary and not checkpoint.group_size else []),
        *([f"base_model: {base}"] if base else []),
        "---", f"# {escape_markdown(Path(checkpoint.path).resolve().name)}", "",
        f"A {kind} causal language model, {make_code_span(checkpoint.architecture)}, {checkpoint.parameters:,} "
        f"parameters, {checkpoint.ternary_parameters:,} of them ternary; stored as `{checkpoint.format}`, the rest in "
        f"{checkpoint.dtype}, {sum(checkpoint.weight_bytes.values()):,} bytes. Weights have the sha256 "
        f"`{checkpoint.sha256}`.",
    ]  # fmt: skip
    if record:
        lines += ["", "## Training", *_list_training_facts(record, keep_paths)]
    if any(run.scores for run in runs):
        lines += ["", "## Scores", *_list_scores(runs)]
    lines += ["", f"Made by bitnet-bench {__version__} from its records; the licence is the publisher's to state.", ""]
    return "\n".join(lines)


def find_hub_base(record: FinetuneRecord) -> str | None:
    """Return the hub id that the training began from, directly or through local checkpoints whose records say so."""
    for _ in range(MAX_ANCESTORS):
        if record.base.revision is not None:
            place = parse_hub_id(record.base.source)
            return place.repo if place else record.base.source
        try:
            earlier = load_training_record(Path(record.base.path))
        except (BenchError, OSError):
            return None
        if earlier is None:
            return None
        record = earlier
    return None


def _list_training_facts(record: FinetuneRecord, keep_paths: bool) -> list[str]:
    settings, here = record.job.settings(), record.environment
    facts = {
        "begun from": f"{_name_base(record, keep_paths)} (sha256 `{record.base.sha256[:16]}`)",
        "rows": f"{record.rows:,}, digest `{record.data_sha256[:16]}`",
        "steps": f"{record.steps:,}, {record.train_seconds:,.0f} s on {here.gpu or here.cpu}",
        "loss at the end": f"{record.train_loss:.4f} nats",
    }
    if record.validation:
        facts["validation loss"] = f"{record.validation[0]['loss']:.4f} to {record.validation[-1]['loss']:.4f} nats"
    shown = {name: value for name, value in settings.items() if keep_paths or name not in LOCAL_SETTINGS}
    for name in NAMED_SETTINGS if not keep_paths else ():
        shown[name] = _name_only(shown.get(name))
    facts |= {
        f"`{name}`": escape_markdown(str(value) if keep_paths else shorten_paths(str(value)))
        for name, value in shown.items()
        if value not in (None, [], ())
    }
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())]


def _name_base(record: FinetuneRecord, keep_paths: bool) -> str:
    """Return the base as its hub id, its embedded name, or the last part of its folder."""
    if keep_paths or record.base.revision is not None:
        return make_code_span(record.base.source)
    return make_code_span(_last_part(record.base.source))


def _name_only(value: str | None) -> str | None:
    """Return the last part of a path that exists, or that is not a hub id; other text as it is."""
    if value is None or not ("/" in value or "\\" in value):
        return value
    is_local = value.count("/") != 1 or value.startswith((".", "~")) or "\\" in value or exists(Path(value))
    return _last_part(value) if is_local else value


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _list_scores(runs: Sequence[RunRecord]) -> list[str]:
    lines = ["| task | metric | value | 95 % interval | n |", "| --- | --- | --- | --- | --- |"]
    for score in (score for run in runs for score in run.scores):
        error = "—" if score.interval is None else format_limits(score.interval).en
        task, metric = escape_markdown(score.task), escape_markdown(score.metric)
        lines.append(f"| {task} | {metric} | {score.value:.1f} | {error} | {score.n:,} |")
    return lines
