"""Estimate the time, memory and disk of a recipe's steps, from parameters x tokens and the speed of a matrix product.

Time is 2 FLOP per parameter and token read, 6 per token trained on, at a share of the speed that this machine reaches
in a float32 matrix product of the model's own shape. Estimates are often wrong by a factor of three either way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.locate import is_here, open_checkpoint
from bitnet_bench.checkpoints.random_weights import find_shape
from bitnet_bench.checkpoints.shape import ModelShape
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.machine.memory import find_free_bytes
from bitnet_bench.measurement.budget import format_duration
from bitnet_bench.measurement.candidates import FLOAT_PRECISIONS, TERNARY_BACKENDS
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.measurement.worker import SHORTEST_ROUND_S
from bitnet_bench.pipeline.step_estimate import PROCESS_BYTES, Estimate
from bitnet_bench.pipeline.steps import EvaluateStep, FinetuneStep, MeasureStep, SearchStep, Step
from bitnet_bench.pipeline.token_counts import WITHOUT_CODE, count_sequences, count_task_tokens
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.choices import AUTO, Precision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.inputs import read_training_rows, split_validation_rows
from bitnet_bench.training.memory import fit_batch, training_bytes

CALIBRATION_S = 0.3
CALIBRATION_TOKENS = 512
"""Tokens of the matrix product whose speed is measured."""
TRAINING_SHARE, SCORING_SHARE, DECODING_SHARE = 0.5, 0.5, 0.05
"""Shares of that speed that training, reading a prompt and generating a token reach."""
OPENING_S = 4.0
"""Seconds for importing, opening a checkpoint and building tasks."""

STATE_BYTES = 12
"""Bytes of a parameter in a saved state: master and moments. A new state is written before the old one is deleted."""
SCORED_TOKENS = 1024
"""Tokens of a batch in scoring."""
IDLE_S = 2.0
"""Seconds for which idle power is measured, before anything else."""
LOADED_BYTES_PER_S, READ_BYTES_PER_S = 200e6, 20e9
"""Speed at which weights are read when a checkpoint is opened, and when a token is decoded."""
PREFILL_SHARES: Mapping[Precision, float] = {"ternary": 0.8, "bf16": 1.3, "fp16": 0.15}
"""Shares of the float32 product's speed that reading a prompt reaches, with hardware for the dtype (bf16) or without
(fp16)."""
ENGINE_SHARE = 1.5
"""Speed of the ternary engine over that of `hf` when reading a prompt."""


@dataclass(frozen=True)
class Speed:
    """Float32 FLOP/s of a matrix product, and the source of this number."""

    flops: float
    source: str


@cache
def measure_speed(shape: ModelShape) -> Speed:
    """Measure in under a second how fast this machine computes a float32 product of a feed-forward layer's shape."""
    import torch

    device = "cpu" if find_gpu() is None else "cuda"
    left, right = (
        torch.ones(size, device=device)
        for size in ((CALIBRATION_TOKENS, shape.hidden), (shape.hidden, shape.intermediate))
    )
    left @ right
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < CALIBRATION_S:
        (left @ right)[0, 0].item()
        done += 1
    flops = 2 * CALIBRATION_TOKENS * shape.hidden * shape.intermediate * done / (time.perf_counter() - began)
    return Speed(flops, f"{flops / 1e9:,.0f} GFLOP/s measured here on {device}, {torch.get_num_threads()} threads")


def estimate_steps(
    steps: Sequence[Step], speed: Speed | None, progress: Progress, done: Sequence[bool] = ()
) -> list[Estimate]:
    """Return an estimate for each step; *speed* is measured for each model if it is not given.

    Files are read and tasks built, so a missing file is found now; nothing is trained, scored or downloaded. *done*
    says of each step whether it is known to be done: it is looked at no further.
    """
    planner = _StepEstimator(_find_starts([step.job for step in steps if isinstance(step, FinetuneStep)]), speed)
    found = []
    for number, step in enumerate(steps, 1):
        is_done = bool(done) and done[number - 1]
        found.append(Estimate(step.title, True, 0.0, 0, 0, "") if is_done else planner.estimate_step(step))
        progress(number, len(steps), step.title)
    return found


def _find_starts(jobs: Sequence[FinetuneJob]) -> dict[str, str]:
    """Return the model that each result of *jobs* has the shape of, be it trained in several stages."""
    starts: dict[str, str] = {}
    for job in jobs:
        starts[job.out] = starts[job.masters] = starts.get(job.model, job.model)
    return starts


class _StepEstimator:
    """Estimates steps, and caches the counts that several of them share."""

    def __init__(self, starts: Mapping[str, str], speed: Speed | None) -> None:
        self._starts, self._speed = starts, speed
        self._counted: dict[str, Any] = {}

    def estimate_step(self, step: Step) -> Estimate:
        """Return the estimate of *step*, or an empty one with the reason."""
        try:
            if isinstance(step, FinetuneStep):
                return self._estimate_training(step)
            if isinstance(step, EvaluateStep):
                return self._estimate_evaluation(step)
            if isinstance(step, SearchStep):
                return self._estimate_search(step)
            return self._estimate_measurement(step) if isinstance(step, MeasureStep) else _estimate_report(step)
        except BenchError as error:
            return Estimate(step.title, step.is_done, None, None, None, error.problem)

    def _find_shape(self, model: str) -> ModelShape:
        shape: ModelShape = self._compute_once(lambda: find_shape(model), "shape", model)
        return shape

    def _compute_once(self, count: Callable[[], Any], *about: Any) -> Any:
        key = repr(about)
        if key not in self._counted:
            self._counted[key] = count()
        return self._counted[key]

    def _estimate_training(self, step: FinetuneStep) -> Estimate:
        from bitnet_bench.training.order import count_steps

        job, start = step.job, self._starts.get(step.job.model, step.job.model)
        shape = self._find_shape(start)
        (tokenizer, whose), rows = self._load_tokenizer(start, job.tokenizer), self._read_rows(job)
        sequences, tokens_a_row = self._compute_once(
            lambda: count_sequences(job, rows, tokenizer), "sequences", job.data, job.method, job.max_length, whose
        )
        job = fit_batch(job, shape, job.max_length if job.packing else round(tokens_a_row), find_free_bytes(1))
        batch = job.sequences * (2 if job.method == "dpo" else 1)
        steps = count_steps(sequences, job.sequences, job.gradient_accumulation, job.epochs, job.max_steps)
        tokens = steps * batch * job.gradient_accumulation * tokens_a_row
        speed = self._speed or measure_speed(shape)
        seconds = OPENING_S + 6 * shape.multiplied * tokens / (TRAINING_SHARE * speed.flops)
        memory = PROCESS_BYTES + training_bytes(job, shape, batch * (job.max_length if job.packing else tokens_a_row))
        note = f"{steps:,} steps, {tokens:,.0f} tokens by {whose}"
        return Estimate(step.title, step.is_done, seconds, memory, _estimate_disk_bytes(job, shape), note, speed.source)

    def _estimate_search(self, step: SearchStep) -> Estimate:
        """Return the estimate of all trials: that of one whole run of each arm, times the length of all together."""
        whole = [self._estimate_training(FinetuneStep(job, step.wanted.backend, arm)) for arm, job in step.arms.items()]
        runs = step.count_whole_runs()
        seconds = runs * sum(one.seconds or 0.0 for one in whole)
        memory, disk = (max(getattr(one, name) or 0 for one in whole) for name in ("memory_bytes", "disk_bytes"))
        note = f"{runs:.3g} times a whole run of each of {len(whole)} arms"
        return Estimate(step.title, step.is_done, seconds, memory, disk, note, whole[0].speed)

    def _read_rows(self, job: FinetuneJob) -> Sequence[Any]:
        about = ("rows", job.data, job.data_dir, job.limit, job.validation, job.hold_out)
        rows: Sequence[Any] = self._compute_once(
            lambda: split_validation_rows(read_training_rows(job, without_code=WITHOUT_CODE)[0], job)[0], *about
        )
        return rows

    def _load_tokenizer(self, model: str, tokenizer: str | None) -> tuple[Any, str]:
        """Return the tokenizer of *model*, or the embedded one if it would be a download, and which of them it is."""
        from bitnet_bench.checkpoints.loading import load_tokenizer

        here = is_here(model)
        loaded = self._compute_once(
            lambda: load_tokenizer(open_checkpoint(model, tokenizer) if here else open_checkpoint("demo")),
            *("tokenizer", model if here else None, tokenizer),
        )
        return loaded, "its own tokenizer" if here else "the embedded tokenizer, its own not being here"

    def _estimate_evaluation(self, step: EvaluateStep) -> Estimate:
        start = self._starts.get(step.model, step.model)
        shape, (tokenizer, whose) = self._find_shape(start), self._load_tokenizer(start, step.job.tokenizer)
        asked = step.job.model_dump(exclude={"stage", "cache", "seed", "shots", "backend", "precision"})
        about = ("tasks", step.task_names, asked, whose, start if is_here(start) else None)
        sizes = self._compute_once(lambda: count_task_tokens(step, tokenizer), *about)
        documents, read, written = (sum(size[i] for size in sizes) for i in range(3))
        read *= 1 + step.job.shots  # an example is about as long as a question
        speed = self._speed or measure_speed(shape)
        flops = 2 * shape.multiplied * (read / SCORING_SHARE + written / DECODING_SHARE)
        memory = PROCESS_BYTES + 4 * shape.parameters + 2 * 4 * SCORED_TOKENS * shape.vocabulary
        note = f"{documents:,.0f} documents, {read:,.0f} tokens read, {written:,.0f} written at most, by {whose}"
        seconds = OPENING_S + flops / speed.flops
        return Estimate(step.title, step.is_done, seconds, memory, int(8 * read), note, speed.source)

    def _estimate_measurement(self, step: MeasureStep) -> Estimate:
        """Return the time to load, probe, warm up and time every candidate in rounds, at most the budget."""
        scenario, seconds, memory, contestants, sources = step.scenario, IDLE_S, 0.0, 0, list[str]()
        for model in step.models:
            start = self._starts.get(model, model)
            shape = self._find_shape(start)
            speed = self._speed or measure_speed(shape)
            sources.append(speed.source)
            for run in _list_candidates(step, start, model):
                contestants += 1
                held = _estimate_read_bytes(shape, run)
                rounds = (scenario.rounds + 2) * _estimate_round_s(shape, run, scenario, speed)
                seconds += OPENING_S + held / LOADED_BYTES_PER_S + rounds
                memory += PROCESS_BYTES + held
        note = f"{contestants} processes, {scenario.rounds} rounds of each"
        if seconds > scenario.budget_s:
            note = f"{contestants} processes, as many rounds as the budget allows ({format_duration(seconds)} for all)"
        seconds = min(seconds, scenario.budget_s)
        speed_source = sources[0] if sources else ""
        return Estimate(step.title, step.is_done, seconds, int(memory), 0, note, speed_source)


def _estimate_disk_bytes(job: FinetuneJob, shape: ModelShape) -> int:
    """Return the bytes on disk of the result, of masters if they are kept, and of two saved states during training."""
    ternary = job.precision == "ternary"
    result = shape.matrices / 4 + 2 * shape.embeddings if ternary else 2 * shape.parameters
    masters = 4 * shape.parameters if ternary and job.keep_masters else 0
    return int(result + masters + 2 * STATE_BYTES * shape.parameters)


def _list_candidates(step: MeasureStep, start: str, out: str) -> list[tuple[str, Precision]]:
    """Return the backend and the precision of every candidate that a checkpoint becomes."""
    precisions = step.precisions or (("ternary",) if _is_ternary(start, out) else FLOAT_PRECISIONS)
    engine = step.backend == AUTO
    return [("ternary" if engine and precision == "ternary" else step.backend, precision) for precision in precisions]


def _is_ternary(start: str, out: str) -> bool:
    """Return whether a checkpoint will be run as ternary; an arm of a recipe is named after its precision."""
    if start != out:
        return not Path(out).name.startswith("fp16")
    return open_checkpoint(start).is_ternary if is_here(start) else True


def _estimate_round_s(shape: ModelShape, run: tuple[str, Precision], scenario: Scenario, speed: Speed) -> float:
    """Return the seconds of a round, from the prompt's products and each new token's bytes; at least the shortest."""
    backend, precision = run
    share = PREFILL_SHARES.get(precision, 1.0) * (ENGINE_SHARE if backend in TERNARY_BACKENDS else 1.0)
    prefill = 2 * shape.multiplied * scenario.prompt_tokens * scenario.batch / (share * speed.flops)
    held = _estimate_read_bytes(shape, run)
    decode = held / READ_BYTES_PER_S * (scenario.new_tokens - 1)
    return max(SHORTEST_ROUND_S, prefill + decode)


def _estimate_read_bytes(shape: ModelShape, run: tuple[str, Precision]) -> float:
    """Return the bytes read per token: `hf` holds ternary weights as bytes, and the other weights in float32."""
    backend, precision = run
    if precision == "ternary":
        layers, beside = (0.25, 2.0) if backend in TERNARY_BACKENDS else (1.0, 4.0)
    else:
        layers = beside = 4.0 if precision == "fp32" else 2.0
    return layers * shape.matrices + beside * shape.hidden * shape.vocabulary


def _estimate_report(step: Step) -> Estimate:
    return Estimate(step.title, step.is_done, OPENING_S, None, 3 * 10**6, "fixed")
