"""Estimate what the steps of a recipe will take, from parameters x tokens and the speed of one matrix product.

Time is 2 FLOP a parameter and token read, 6 a token trained on, at a share of what this machine does in a float32
matrix product of the model's own shape. These are estimates: a factor of three either way is nothing unusual.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bitnet_bench import api
from bitnet_bench.errors import BenchError
from bitnet_bench.measure.worker import SHORTEST_ROUND_S
from bitnet_bench.pipeline import Finetuning, Measuring, Reporting, Scoring, Step
from bitnet_bench.ports import Progress
from bitnet_bench.records import FinetuneJob

SAMPLED_ROWS = 200
CALIBRATION_S = 0.3
TOKENS = 512
"""Of the matrix product whose speed is taken."""
TRAINING_SHARE, SCORING_SHARE, DECODING_SHARE = 0.5, 0.5, 0.05
"""Of that speed, what training, reading a prompt and writing a token reach."""
OPENING_S = 4.0
"""Importing, opening a checkpoint and building tasks."""
PROCESS_BYTES = 600 * 10**6
"""A process that has imported torch and transformers."""
TRAINED_BYTES = 16
"""A parameter in training: float32 master, gradient, and AdamW's two moments."""
STATE_BYTES = 12
"""A parameter in a saved state: master and moments. A new state is written before the old one goes."""
ACTIVATION_FLOATS_A_LAYER = 20
"""Kept for the backward pass by token, in units of the hidden width: inputs of products, quantized too, and norms."""
SCORED_TOKENS = 1024
"""Tokens of a batch in scoring."""


@dataclass(frozen=True)
class Shape:
    """What a config.json says about size; parameters of a Llama-like model."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    matrices: int
    """Parameters of the layers' products, which are what becomes ternary."""
    embeddings: int

    @property
    def parameters(self) -> int:
        """All of them, norms left out."""
        return self.matrices + self.embeddings

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: an embedding is only looked up, a head is not."""
        return self.matrices + self.hidden * self.vocabulary


@dataclass(frozen=True)
class Estimate:
    """What one step will take, beside what is there."""

    title: str
    done: bool
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None
    note: str
    """What it rests on, or why there is none."""
    speed: str = ""
    """Where the speed behind it is from."""


@dataclass(frozen=True)
class Speed:
    """Float32 FLOP a second of one matrix product, and where that is from."""

    flops: float
    source: str


def shape_of(config: dict[str, Any]) -> Shape:
    """Return the size of a Llama-like config.json; KeyError if it is none."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    shared = width * (config.get("num_key_value_heads") or heads)
    layer = 2 * hidden * heads * width + 2 * hidden * shared + 3 * hidden * intermediate
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    layers = config["num_hidden_layers"]
    return Shape(hidden, intermediate, layers, config["vocab_size"], layers * layer, embeddings)


def find_shape(model: str) -> Shape:
    """Return the size of *model* without downloading it; BenchError if that cannot be said."""
    from bitnet_bench.ternary.config import read_config
    from bitnet_bench.ternary.initializing import preset_config

    try:
        if Path(model).exists() or model in api.EMBEDDED:
            return shape_of(read_config(Path(api.open_checkpoint(model).path)))
        for name, source in api.presets().items():
            if model == source or model.startswith(f"{source}-"):  # a sister repository: -bf16, -gguf
                return shape_of(preset_config(name))
    except KeyError as error:
        raise BenchError(f"{model} is no Llama-like model: its config.json has no {error}.") from error
    raise BenchError(f"{model} is not here, and its size is not known.", "`bitnet-bench pull` brings it.")


@cache
def measured_speed(shape: Shape) -> Speed:
    """Return what this machine does in a float32 product of the shape of a feed-forward layer, in under a second."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (
        torch.ones(size, device=device) for size in ((TOKENS, shape.hidden), (shape.hidden, shape.intermediate))
    )
    left @ right
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < CALIBRATION_S:
        (left @ right)[0, 0].item()
        done += 1
    flops = 2 * TOKENS * shape.hidden * shape.intermediate * done / (time.perf_counter() - began)
    return Speed(flops, f"{flops / 1e9:,.0f} GFLOP/s measured here on {device}, {torch.get_num_threads()} threads")


def estimate(steps: Sequence[Step], speed: Speed | None, progress: Progress) -> list[Estimate]:
    """Return an estimate for each step; *speed* is measured for each model where it is not given.

    Files are read and tasks built, so that a missing file is found now; nothing is trained, scored or downloaded.
    """
    found = []
    starts = {step.job.out: step.job for step in steps if isinstance(step, Finetuning)}
    for number, step in enumerate(steps, 1):
        found.append(_of(step, starts, speed))
        progress(number, len(steps), step.title)
    return found


def _of(step: Step, starts: dict[str, FinetuneJob], speed: Speed | None) -> Estimate:
    if isinstance(step, Reporting):
        return Estimate(step.title, step.is_done, OPENING_S, None, 3 * 10**6, "fixed")
    try:
        if isinstance(step, Finetuning):
            return _training(step, speed)
        if isinstance(step, Scoring):
            return _scoring(step, starts, speed)
        return _measuring(step, speed)
    except BenchError as error:
        return Estimate(step.title, step.is_done, None, None, None, error.problem)


def _training(step: Finetuning, speed: Speed | None) -> Estimate:
    from bitnet_bench.training.order import total_steps

    job, shape = step.job, find_shape(step.job.model)
    rows, tokens_a_row, whose = _rows(job)
    batch = job.batch_size * (2 if job.method == "dpo" else 1)
    steps = total_steps(rows, job.batch_size, job.gradient_accumulation, job.epochs, job.max_steps)
    tokens = steps * batch * job.gradient_accumulation * tokens_a_row
    speed = speed or measured_speed(shape)
    seconds = OPENING_S + 6 * shape.multiplied * tokens / (TRAINING_SHARE * speed.flops)
    at_once = batch * job.max_length if job.packing else batch * tokens_a_row
    kept = (
        4
        * shape.hidden
        * (1 if job.gradient_checkpointing else ACTIVATION_FLOATS_A_LAYER + 3 * shape.intermediate / shape.hidden)
    )
    memory = TRAINED_BYTES * shape.parameters + at_once * (shape.layers * kept + 3 * 4 * shape.vocabulary)
    result = shape.matrices / 4 + 2 * shape.embeddings if job.precision == "ternary" else 2 * shape.parameters
    masters = 4 * shape.parameters if job.keep_masters and job.precision == "ternary" else 0
    note = f"{steps:,} steps, {tokens:,.0f} tokens by {whose}"
    disk = int(result + masters + 2 * STATE_BYTES * shape.parameters)
    return Estimate(step.title, step.is_done, seconds, int(PROCESS_BYTES + memory), disk, note, speed.source)


def _rows(job: FinetuneJob) -> tuple[int, float, str]:
    """Return how many rows a job trains on, the mean tokens of one, and whose tokens those are."""
    from bitnet_bench.data.tokenizing import encode, encode_pairs

    rows, _held_out = api.hold_out(api.training_rows(job)[0], job)
    tokenizer, whose = _tokenizer(job.model)
    some = rows[:: max(1, len(rows) // SAMPLED_ROWS)]
    if job.method == "dpo":
        examples = encode_pairs(some, tokenizer, job.template, job.max_length).examples
    else:
        examples = encode(some, tokenizer, job.template, job.max_length, pretrain=job.method == "pretrain").examples
    tokens = sum(len(example.input_ids) for example in examples) / max(1, len(examples))
    sequences = round(len(rows) * len(examples) / len(some)) if job.method == "pretrain" else len(rows)
    return sequences, tokens, whose


def _scoring(step: Scoring, starts: dict[str, FinetuneJob], speed: Speed | None) -> Estimate:
    from bitnet_bench.evaluation.tasks import Setting, build_task

    job = step.job
    start = starts[step.model].model if step.model in starts else step.model
    shape = find_shape(start)
    directory = Path(job.data_dir) if job.data_dir else None
    rows = {name: Path(file) for name, file in job.rows.items()}
    setting = Setting(directory, rows, job.prompts, job.shots, job.seed, job.chat_template)
    built = [build_task(suite, task, setting) for suite, task in step.tasks]
    tokenizer, whose = _tokenizer(start)
    sizes = [_documents(one.lm_task, tokenizer, job.limit) for one in built]
    documents, read, written = (sum(size[i] for size in sizes) for i in range(3))
    speed = speed or measured_speed(shape)
    flops = 2 * shape.multiplied * (read / SCORING_SHARE + written / DECODING_SHARE)
    memory = PROCESS_BYTES + 4 * shape.parameters + 2 * 4 * SCORED_TOKENS * shape.vocabulary
    note = f"{documents:,.0f} documents, {read:,.0f} tokens read, {written:,.0f} written at most, by {whose}"
    return Estimate(
        step.title, step.is_done, OPENING_S + flops / speed.flops, memory, int(8 * read), note, speed.source
    )


def _tokenizer(model: str) -> tuple[Any, str]:
    """Return the tokenizer of *model*, or the embedded one where that would be a download, and which it is."""
    from bitnet_bench.ternary.loading import load_tokenizer

    if Path(model).exists() or model in api.EMBEDDED:
        return load_tokenizer(api.open_checkpoint(model)), "its own tokenizer"
    return load_tokenizer(api.open_checkpoint("demo")), "the embedded tokenizer, its own not being here"


def _documents(task: Any, tokenizer: Any, limit: int | None) -> tuple[int, float, float]:
    """Return how many documents a task has, and tokens to read and to write, from a sample of them."""
    documents = list(task.test_docs())[:limit]
    some = documents[:: max(1, len(documents) // SAMPLED_ROWS)]
    texts = [str(task.doc_to_text(doc)) for doc in some]
    if task.OUTPUT_TYPE == "multiple_choice":
        texts += [str(choice) for doc in some for choice in task.doc_to_choice(doc)]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        texts += [str(task.doc_to_target(doc)) for doc in some]
    share = len(documents) / max(1, len(some))
    read = share * sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    longest = task.config.generation_kwargs.get("max_gen_toks", 0) if task.OUTPUT_TYPE == "generate_until" else 0
    return len(documents), read, float(longest * len(documents))


def _measuring(step: Measuring, speed: Speed | None) -> Estimate:
    """Every contestant warms up with one round; a float checkpoint is two contestants unless told otherwise."""
    scenario, contestants = step.scenario, 2 * len(step.folders)
    seconds = contestants * (2 * OPENING_S + (scenario.rounds + 1) * SHORTEST_ROUND_S)
    note = f"up to {contestants} processes, {scenario.rounds} rounds of {SHORTEST_ROUND_S} s or more each"
    return Estimate(step.title, step.is_done, seconds, contestants * PROCESS_BYTES, 0, note)
