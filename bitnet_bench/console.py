"""What a person sees in a terminal: progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from bitnet_bench import protocols as ports
    from bitnet_bench.checkpoints.gguf.file_parity import FileParity
    from bitnet_bench.checkpoints.layers import Inspection
    from bitnet_bench.checkpoints.parity import Parity
    from bitnet_bench.comparison import Comparison
    from bitnet_bench.comparison.conditions import Judged
    from bitnet_bench.data.checking import Checked
    from bitnet_bench.evaluation.answer_cache import Kept
    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import Plan
    from bitnet_bench.pipeline.estimates import Estimate
    from bitnet_bench.runs.records import (
        Cost,
        Estimated,
        FinetuneRecord,
        HumanJudgement,
        Measurement,
        RunRecord,
        Score,
        SearchRecord,
        Unavailable,
    )

DASH = "—"
LOG_EVERY_S = 10.0


@contextmanager
def progress_bar(title: str) -> Iterator[ports.Progress]:
    """Show a bar with what is left; where standard error is no terminal, a line every ten seconds and at the end."""
    if not sys.stderr.isatty():
        yield _LineProgress(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


class _LineProgress:
    """Progress for a log file: how much is done, and how long the rest takes at the pace so far.

    The pace is that since the first call: what was done before this process, or is counted in seconds, is no measure.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock = title, clock
        self._last = self._began = clock()
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = self._clock()
        self._first = self._first or (now, done)
        if done < total and now - self._last < LOG_EVERY_S:
            return
        self._last = now
        since, before = self._first if self._first[1] < done else (self._began, 0)
        left = f", {_duration((now - since) / (done - before) * (total - done))} left" if 0 < done < total else ""
        print(f"{self._title}: {done}/{total}{left} {note}".rstrip(), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def show(table: Table) -> None:
    """Print a table; wide ones are not cut when the output is no terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> Table:
    """Return a table whose columns from *numbers_from* on are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i >= numbers_from else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))  # `pip install 'x[y]'` is no markup
    return made


def scores_table(runs: Sequence[RunRecord]) -> Table:
    """Return value and 95 % half-width of every score, a row a task and metric, a column a run.

    Beside them stand chance and what always answering the most frequent target gets.
    """
    keys = list(dict.fromkeys((s.task, s.metric) for run in runs for s in run.scores))
    found = [{(s.task, s.metric): s for s in run.scores} for run in runs]
    rows = []
    for key in keys:
        one = next(scores[key] for scores in found if key in scores)
        chance, majority = (DASH if v is None else f"{v:.1f}" for v in (one.chance, one.majority))
        name = f"{key[1]} ↓" if one.lower_is_better else key[1]
        rows.append([key[0], name, *(_score(scores.get(key)) for scores in found), chance, majority, str(one.n)])
    smaller = "; ↓: not 0-100, less is better" if any(s.lower_is_better for run in runs for s in run.scores) else ""
    title = f"Scores, 0-100, ± 95 % interval{smaller}"
    return table(
        title, ["task", "metric", *(run.name for run in runs), "chance", "majority", "n"], rows, numbers_from=2
    )


def _score(score: Score | None) -> str:
    if score is None:
        return DASH
    digits = 3 if score.lower_is_better else 1
    return f"{score.value:.{digits}f}" + (f" ±{1.96 * score.stderr:.{digits}f}" if score.stderr is not None else "")


def finetune_table(records: Sequence[FinetuneRecord]) -> Table:
    """Return what each training run did, a row a run: its loss at both ends, and what guessing would have."""
    from bitnet_bench.training.ending import warn_about_ending

    rows = [
        [
            record.job.out,
            record.job.precision,
            str(record.steps),
            _or_dash(record.job.learning_rate, "{:.3g}"),
            _or_dash(record.first_loss, "{:.3f}"),
            _or_dash(record.last_loss, "{:.3f}"),
            _or_dash(record.guessing_loss, "{:.3f}"),
            " to ".join(f"{point['loss']:.3f}" for point in record.validation[:: len(record.validation) - 1 or 1])
            or DASH,
            f"{record.train_seconds:.0f} s",
            f"{record.rows} ({record.dropped_rows} dropped, {record.truncated_rows} cut)",
            mebibytes(sum(record.result.weight_bytes.values())),
        ]
        for record in records
    ]
    columns = [
        "checkpoint",
        "precision",
        "steps",
        "rate",
        "loss of the first step",
        "at the end",
        "of guessing",
        "validation loss",
        "time",
        "rows",
        "weights on disk",
    ]
    failed = any(warn_about_ending(record) for record in records)
    made = table("Trained, see the last line" if failed else "Fine-tuned", columns, rows, numbers_from=2)
    sources = dict.fromkeys(
        f"{record.job.precision}, rate {record.job.learning_rate:.3g}: {record.job.learning_rate_source}"
        for record in records
        if record.job.learning_rate_source
    )
    made.caption = "\n".join(map(escape, sources)) or None
    return made


def finetune_warnings(records: Sequence[FinetuneRecord]) -> list[str]:
    """Return the warnings of runs, those last that say that one failed to learn."""
    from bitnet_bench.training.ending import warn_about_ending

    early = [(r, warning) for r in records for warning in r.warnings if warning not in warn_about_ending(r)]
    late = [(r, warning) for r in records for warning in warn_about_ending(r)]
    return [f"{record.job.out}: {warning}" for record, warning in (*early, *late)]


def search_table(search: SearchRecord) -> Table:
    """Return what a search tried, a row a run, with a mark at the settings that it chose."""
    rows = [
        [
            trial.arm,
            ", ".join(f"{name} {value}" for name, value in trial.settings.items()),
            str(trial.seed),
            DASH if trial.validation_loss is None else f"{trial.validation_loss:.4f}",
            "chosen" if trial.out in search.chosen.get(trial.arm, ()) else "",
            trial.error or trial.out,
        ]
        for trial in search.trials
    ]
    columns = ["precision", "settings", "seed", "validation loss", "", "checkpoint"]
    return table("Search", columns, rows, numbers_from=99)


def steps_table(steps: Sequence[Estimate]) -> Table:
    """Return the steps of a recipe, a row a step, with a sum of what is not done."""
    rows = [
        [
            step.title,
            "done" if step.done else "to do",
            DASH if step.seconds is None else f"~{_duration(step.seconds)}",
            DASH if step.memory_bytes is None else f"~{gigabytes(step.memory_bytes)}",
            DASH if step.disk_bytes is None else f"~{gigabytes(step.disk_bytes)}",
            step.note,
        ]
        for step in steps
    ]
    left = [step for step in steps if not step.done]
    known = [step for step in left if step.seconds is not None]
    total = f"~{_duration(sum(step.seconds or 0.0 for step in known))}"
    disk = f"~{gigabytes(sum(step.disk_bytes or 0 for step in known))}"
    memory = f"~{gigabytes(max((step.memory_bytes or 0 for step in known), default=0))}"
    unknown = len(left) - len(known)
    rows.append(["what is left", "", total, memory, disk, f"without {unknown} unknown steps" if unknown else ""])
    made = table("Plan (estimates)", ["step", "", "time", "memory at most", "disk", "from"], rows, numbers_from=99)
    made.caption = "; ".join(dict.fromkeys(step.speed for step in steps if step.speed))
    return made


def judgement_table(said: HumanJudgement) -> Table:
    """Return what people said of two runs: the preference first, then each scale."""
    counts = f"{said.a} {said.wins_a}, tie {said.ties}, {said.b} {said.wins_b}"
    rows = [["preference", f"{_estimated(said.win_rate)} %", "", counts, _agreement(said.alpha["preference"])]]
    for scale, means in said.scales.items():
        a, b, difference = (_estimated(means[of], 2) for of in ("a", "b", "difference"))
        rows.append([scale, a, b, difference, _agreement(said.alpha[scale])])
    title = f"{len(said.raters)} raters, {said.items} items; 95 % intervals over items"
    columns = ["", f"A: {said.a}", f"B: {said.b}", "A - B; or the count", "Krippendorff's alpha"]
    return table(title, columns, rows)


def _estimated(number: Estimated, digits: int = 1) -> str:
    if number.interval is None:
        return f"{number.value:.{digits}f}"
    low, high = number.interval
    return f"{number.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _agreement(alpha: Estimated | Unavailable) -> str:
    return f"{alpha.value:.2f}" if alpha.kind == "estimated" else f"{DASH} {alpha.reason}"


def costs_table(runs: Sequence[RunRecord]) -> Table:
    """Return what each measured run costs, a row a run, backend, precision and batch.

    One that failed, or that the budget left out, has a row, too.
    """
    columns = ["run", "backend", "batch", "weights", "KV", "peak", "first token", "prefill tok/s", "decode tok/s"]
    columns += ["of floor", "p95 / p99 a token", "energy"]
    rows = [_cost_row(run.name, cost) for run in runs for cost in run.costs]
    rows += [
        [run.name, who, *[DASH] * (len(columns) - 2)]  # `notes` says why
        for run in runs
        for who in dict.fromkeys((*run.cost_errors, *run.cost_left_out))
    ]
    return table("Cost", columns, rows, numbers_from=2)


def _cost_row(name: str, cost: Cost) -> list[str]:
    get = cost.metrics.get
    return [
        name,
        f"{cost.backend} {cost.precision}" + (" (another model)" if cost.parity and cost.parity.fault else ""),
        str(cost.batch),
        mebibytes(cost.resident_weight_bytes),
        mebibytes(cost.kv_bytes),
        _median(get("peak_bytes"), mebibytes),
        _median(get("prefill_s"), "{:.3g} s".format),
        _spread(get("prefill_tokens_per_s")),
        _spread(get("decode_tokens_per_s")),
        _share_of_floor(cost),
        f"{_median(get('token_p95_s'), _milliseconds)} / {_median(get('token_p99_s'), _milliseconds)}",
        _median(get("energy_j"), "{:.3g} J".format),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _spread(measurement: Measurement | None) -> str:
    """Return the median, and half of the width between the least and the most in per cent of it; of one round none."""
    if measurement is None or measurement.kind != "measured":
        return DASH
    if len(measurement.readings) == 1:
        return f"{measurement.median:,.4g} (1 round)"
    low, high = min(measurement.readings), max(measurement.readings)
    return f"{measurement.median:,.4g} ±{50 * (high - low) / measurement.median:.0f} %"


def _share_of_floor(cost: Cost) -> str:
    """Return how close prefill and decoding came to the least time that they can take."""
    shares = []
    for phase in ("prefill", "decode"):
        floor, taken = cost.metrics.get(f"{phase}_floor_s"), cost.metrics.get(f"{phase}_s")
        known = floor is not None and taken is not None and floor.kind == "modelled" and taken.kind == "measured"
        shares.append(f"{floor.value / taken.median:.0%}" if known else DASH)  # type: ignore[union-attr]
    return " / ".join(shares)


def floors_table(plans: Sequence[Plan], context: int, batch: int) -> Table:
    """Return what each precision of a shape takes, a row a precision."""
    rows = [
        [
            one.precision,
            one.head,
            mebibytes(one.layer_bytes),
            mebibytes(one.head_bytes + one.embedding_bytes),
            mebibytes(one.kv_bytes),
            mebibytes(one.total_bytes),
            f"{one.prefill_floor_s:.3g} s",
            _milliseconds(one.decode_floor_s),
            f"{batch / one.decode_floor_s:,.0f}",
        ]
        for one in plans
    ]
    columns = ["weights", "head", "layers", "head, embedding", "KV", "together", "prefill", "a token", "tokens/s"]
    return table(f"At the least, context {context:,}, batch {batch}", columns, rows, numbers_from=2)


def floors_notes(device: Device) -> list[str]:
    """Return what a plan assumes."""
    return [
        f"{device.name}: reads {device.read_bytes_per_s / 1e9:,.0f} GB/s, int8 {device.int8_ops_per_s / 1e9:,.0f} "
        f"GOP/s, floats {device.float_ops_per_s / 1e9:,.0f} GFLOP/s ({device.source}).",
        "A token reads all weights but the embedding, and the keys and values of the whole context, once; ternary "
        "layers multiply in int8, all else in floats; nothing else takes time. No runtime is faster, most are slower.",
        "Keys and values are float32 in the backend `ternary`, and of 16 bits in the others.",
    ]


def gguf_sentence(out: Path, found: FileParity) -> str:
    """Say how equal an exported GGUF file is to its source, and what a runtime makes of it."""
    sizes = ", ".join(f"{name} {mebibytes(size)}" for name, size in found.types.items())
    return (
        f"Parity: the codes of {found.ternary_layers} layers are equal, scales within {found.largest_scale_error:.1e}, "
        f"other tensors within {found.largest_float_error:.1e} of their largest value.\n"
        f"GGUF: {out} (architecture {found.architecture}; {sizes}). What a runtime computes with it is compared "
        "when it is measured or evaluated."
    )


def inspection_table(found: Inspection) -> Table:
    """Return what a checkpoint is, a row a fact."""
    checkpoint = found.checkpoint
    norm = f"{checkpoint.inner_norm}, eps {checkpoint.inner_norm_eps:g}" if checkpoint.inner_norm else None
    sizes = [f"{kind} {mebibytes(size)}" for kind, size in checkpoint.weight_bytes.items()]
    trainable = "yes" if found.trainable else f"no: {found.untrainable_because}"
    facts = {
        "format": checkpoint.format,
        "architecture": checkpoint.architecture,
        "scales": {"multiply": "multiply", "divide": "divide (stored inverse)", None: None}[checkpoint.scale_direction],
        "norm inside ternary layers": norm,
        "parameters": f"{checkpoint.parameters:,}, of which ternary {checkpoint.ternary_parameters:,}",
        "zeros": _or_dash(found.zero_density, "{:.2%} of the codes"),
        "bytes": ", ".join(sizes),
        "bits per ternary weight": _or_dash(found.ternary_bits_per_weight, "{:.3f}"),
        "bits per weight": f"{found.bits_per_weight:.3f}",
        "other weights": checkpoint.dtype,
        "trainable": trainable,
        "sha256": checkpoint.sha256,
    }
    rows = [[name, fact] for name, fact in facts.items() if fact is not None]
    return table(checkpoint.source, ["", ""], rows, numbers_from=99)


def findings_table(checked: Checked, shown: int) -> Table:
    """Return *shown* findings of a file, a row a finding, those first that stop training."""
    from bitnet_bench.data.checking import KINDS

    order = sorted(checked.findings, key=lambda finding: list(KINDS).index(finding.kind))
    rows = [[str(f.line), f.kind, f.reason] for f in order[:shown]]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in checked.counts.items())
    title = f"{checked.file}: {checked.lines:,} rows; {counts or 'nothing found'}"
    left = len(checked.findings) - shown
    made = table(title, ["line", "what", "why"], rows, numbers_from=99)
    made.caption = f"{left:,} more: --show, or --json for all" if left > 0 else None
    return made


def lengths_table(checked: Checked) -> Table:
    """Return how long rows are in tokens."""
    from bitnet_bench.data.checking import quantiles

    whole, learned = quantiles(checked.tokens), quantiles(checked.response_tokens)
    rows = [[name, f"{whole[name]:,.0f}", f"{learned[name]:,.0f}"] for name in whole]
    return table(f"{checked.file}: tokens a row", ["", "whole", "with loss"], rows)


def histogram_table(checked: Checked) -> Table:
    """Return how many rows have how many tokens, as bars."""
    from bitnet_bench.data.checking import histogram

    bars = histogram(checked.tokens)
    most = max((count for _, _, count in bars), default=1)
    rows = [[f"{low:,}-{high:,}", f"{count:,}", "█" * round(40 * count / most)] for low, high, count in bars]
    return table("", ["tokens", "rows", ""], rows, numbers_from=99)


def kept_table(models: Sequence[Kept]) -> Table:
    """Return whose answers are kept, a row a model."""
    rows = [
        [
            model.about.get("model", DASH),
            model.about.get("precision", DASH),
            model.about.get("backend", DASH),
            model.about.get("software", DASH),
            model.used[:16].replace("T", " "),
            f"{model.answers:,}",
            mebibytes(model.size),
        ]
        for model in models
    ]
    columns = ["model", "precision", "backend", "software", "last used (UTC)", "answers", "size"]
    return table("Answers kept", columns, rows, numbers_from=5)


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)


def layers_table(found: Inspection) -> Table:
    """Return the ternary layers, a row for those of one kind and shape, such as all 30 q_proj."""
    kinds: dict[tuple[str, int, int], list[float]] = {}
    for layer in found.layers:
        kinds.setdefault((layer.name.rpartition(".")[2], layer.rows, layer.columns), []).append(layer.zero_density)
    rows = [
        [
            kind,
            str(len(zeros)),
            f"{n} x {k}",
            f"{sum(zeros) / len(zeros):.2%}",
            f"{min(zeros):.2%}",
            f"{max(zeros):.2%}",
        ]
        for (kind, n, k), zeros in kinds.items()
    ]
    return table("Ternary layers", ["kind", "count", "shape", "zeros, mean", "least", "most"], rows)


def parity_sentence(parity: Parity) -> str:
    """Say how equal a converted checkpoint is to its source."""
    codes = f"Parity: the codes of {parity.layers} layers are equal, scales within {parity.largest_scale_error:.1e}"
    if parity.mean_logit_error is None or parity.largest_logit_error is None:
        return f"{codes}. Logits were not compared: this machine has too little memory to run the model."
    return (
        f"{codes}, logits of {parity.prompt_tokens} Korean tokens within {parity.mean_logit_error:.1e} standard "
        f"deviations in the mean and {parity.largest_logit_error:.1e} at most."
    )


def show_comparison(comparison: Comparison) -> None:
    """Print the verdict, and a row a task."""
    from bitnet_bench.comparison.formats import COLUMNS, rows
    from bitnet_bench.comparison.words import counts_words, headline

    print(headline(comparison).en)
    show(table(f"A: {comparison.a}, B: {comparison.b}", COLUMNS, rows(comparison), numbers_from=99))
    print(counts_words(comparison).en)


def outcome_sentence(outcome: Judged) -> str:
    """Say whether a condition of --fail-if holds."""
    from bitnet_bench.comparison.words import signed

    asked = outcome.condition
    over = f" (mean of {len(outcome.tasks)} tasks)" if len(outcome.tasks) > 1 else ""
    found = f"{asked.scope}.{asked.metric} is {signed(outcome.difference)}{over}"
    return f"{found}: {'fails' if outcome.holds else 'does not fail'} at {asked.sign} {asked.value:g}."


def mebibytes(size: float) -> str:
    """Return bytes as MiB (2^20)."""
    return f"{size / 2**20:.2f} MiB"


def gigabytes(size: float) -> str:
    """Return bytes as GB (10^9), or as MB where that is less than one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _median(measurement: Measurement | None, form: Any) -> str:
    if measurement is None:
        return DASH
    if measurement.kind == "measured":
        return str(form(measurement.median))
    return f"{form(measurement.value)} (modelled)" if measurement.kind == "modelled" else DASH


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """Return why numbers are missing, which were disturbed, and which are not the checkpoint's."""
    reasons = {m.reason for run in runs for cost in run.costs for m in cost.metrics.values() if m.kind == "unavailable"}
    found = [f"{DASH} {reason}" for reason in sorted(reasons)]
    for run in runs:
        found += [
            f"{run.name} {who} was not measured. {' '.join(said.split())}" for who, said in run.cost_errors.items()
        ]
        found += [f"{run.name} {who} was left out by the budget. {why}" for who, why in run.cost_left_out.items()]
    costs = [(run.name, cost) for run in runs for cost in run.costs]
    for name, cost in costs:
        if cost.once_because:
            found.append(f"{name} {cost.backend} {cost.precision} ran once, without an interval. {cost.once_because}")
        if cost.parity and cost.parity.fault:
            found.append(f"{name} {cost.backend} {cost.precision} is another model: {cost.parity.fault}.")
        if cost.left_out:
            left = "; ".join(cost.disturbances)
            found.append(
                f"{name} {cost.backend} {cost.precision} without {len(cost.left_out)} disturbed rounds ({left})."
            )
        elif cost.disturbances:
            found.append(f"{name} {cost.backend} {cost.precision}, disturbed: {'; '.join(cost.disturbances)}.")
        elif cost.disturbed:
            found.append(f"Other processes used {cost.foreign_load:.0%} of this machine beside {name} {cost.backend}.")
    return found
