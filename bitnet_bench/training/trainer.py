"""Base of all trainers, which adds data order, schedules, validation, monitor and log to transformers' Trainer."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.data.row_packing import check_packing_support, pack_examples
from bitnet_bench.errors import BenchError, DivergedError
from bitnet_bench.processes import STOPPED_STATUS, count_processes, is_stop_requested
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import RowPacking
from bitnet_bench.ternary.group_linear import find_group_modules
from bitnet_bench.ternary.linear import find_ternary_targets
from bitnet_bench.training.compiling import choose_compile, compile_layers
from bitnet_bench.training.ending import read_cross_entropy, warn_short_run
from bitnet_bench.training.items import Items, list_examples, measure_items
from bitnet_bench.training.micro_batch_sums import MicroBatchSums
from bitnet_bench.training.monitor import TernaryMonitor, warn_about_codes
from bitnet_bench.training.objectives import BatchLoss, Objective, PreferenceObjective, has_diverged, supervised_loss
from bitnet_bench.training.order import count_steps, make_batch_order
from bitnet_bench.training.save_timer import SaveTimer
from bitnet_bench.training.saved_steps import STATE_FOLDER, mark_complete
from bitnet_bench.training.schedule import StepCodes, is_second_stage, keep_codes, make_schedule, set_ternary_share
from bitnet_bench.training.sharding import load_shards, save_shards, shard_model

LOG_POINTS = 200
TENSORBOARD = "tensorboard"
SCHEDULER = "scheduler.pt"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """Training items, validation items, and the collator that makes batches of them."""

    items: Sequence[BatchItem]
    validation: Sequence[BatchItem]
    collator: Collator


@dataclass(frozen=True)
class TrainerSetup:
    """A model before its first step, with everything its trainer needs."""

    job: FinetuneJob
    model: PreTrainedModel
    tokenizer: Any
    plan: TrainingPlan
    teacher: PreTrainedModel | None
    is_resumed: bool
    """True if training continues from a saved step, whose weights are not yet loaded into *model*."""
    becomes_ternary: bool
    """True if the base is a float model, so the first steps repair what quantization broke."""
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    """Clock in seconds, by which states are saved."""
    conversion: Mapping[str, float] = field(default_factory=dict)
    """Losses of the float base, and of the model as it begins; {} if it does not become ternary in this run."""
    token_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Tokens learned up to the end of each step, padding left out."""


def validation_objective(job: FinetuneJob) -> Objective:
    """Return the objective of validation rows: for a distilled student, the plain cross-entropy as well."""
    return PreferenceObjective(job.beta, checked=True) if job.method == "dpo" else supervised_loss


class BenchTrainer(Trainer):
    """Base of all backends' trainers; a subclass computes the loss and calls `record_micro_batch` each time."""

    def __init__(self, *args: Any, start: TrainerSetup, **kwargs: Any) -> None:
        _use_one_gpu(kwargs["args"])
        super().__init__(*args, **kwargs)
        self.job, self._plan = start.job, start.plan
        self.warnings: list[str] = []
        self.token_counts = start.token_counts
        if self.job.shard:
            check_sharding_support(self)
            shard_model(self.model)
            self.is_distributed_loading_by_transformers = True  # keeps Trainer from wrapping the model
        self.monitor = TernaryMonitor(self.model)
        self.codes = StepCodes(self.model)
        self._seen = MicroBatchSums()
        self._since = time.monotonic()
        self._becomes_ternary = start.becomes_ternary or self.job.ternary_warmup > 0
        self.remove_callback(PrinterCallback)
        self.add_callback(_StepCallback(self, start))

    @property
    def packing(self) -> RowPacking:
        """How rows share sequences, for the record; see `FinetuneRecord.packing`."""
        return "full" if self.job.packing else "step" if self._plan.collator.joins_rows else "off"

    def record_micro_batch(
        self,
        loss: Tensor,
        count: Tensor | int,
        inputs: Mapping[str, Tensor],
        figures: Mapping[str, Tensor | float],
    ) -> None:
        """Record a micro-batch's sums over *count* for the log, without waiting for the GPU."""
        tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        self._seen.add(self.state.global_step, {"loss": loss, "count": count, "tokens": tokens, **figures})

    def check_finite_loss(self) -> None:
        """Raise DivergedError if a loss since the last check is not finite; called before each log and saved state."""
        bad = self._seen.find_bad_loss()
        if bad:
            step, loss = bad
            raise DivergedError(f"The loss became {loss} at step {step}.", self._remedy(), step)

    @staticmethod
    def _remedy() -> str:
        return (
            "Lower `learning_rate` or raise `warmup_ratio` and start anew with another `out`; "
            "the last saved step is kept."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the objective and the monitor since the last log to a step's log."""
        if "loss" not in logs:  # such as validation: trl's `log` would add figures of the training steps
            Trainer.log(self, logs, start_time)
            return
        self.check_finite_loss()
        figures = self._figures()
        self._check_not_diverged(figures)
        super().log({**logs, **figures, **self.monitor.compare_codes()}, start_time)
        if not self._list_raised_warnings():
            # the log is part of each saved state, so that a resumed run still has what was said before it was killed
            self.state.log_history += [
                {"step": self.state.global_step, "warning": warning} for warning in self.code_warnings()
            ]
            self.log_raised_warnings()

    def _list_raised_warnings(self) -> list[tuple[int, str]]:
        """Return the warnings about codes that were raised in the whole run, each with its step."""
        return [(point["step"], point["warning"]) for point in self.state.log_history if "warning" in point]

    def log_raised_warnings(self) -> None:
        """Log those warnings, on the first process."""
        for step, warning in self._list_raised_warnings() if self.is_world_process_zero() else []:
            _log.warning("Step %s: %s", step, warning)

    def list_code_warnings(self) -> tuple[str, ...]:
        """Return the warnings about codes for the record: those of the whole run, and earlier ones of another kind."""
        last = self.code_warnings()
        kinds = {warning.split()[0] for warning in last}  # "No code differed", "More than"
        raised = self._list_raised_warnings()
        return (*(f"Step {step}: {text}" for step, text in raised if text.split()[0] not in kinds), *last)

    def code_warnings(self) -> tuple[str, ...]:
        """Return warnings about the ternary codes of the run so far, including steps before it was resumed."""
        return warn_about_codes(self.list_logged_points("flips"), self.job.peak_rate, self.monitor.mean_weight)

    def _figures(self) -> dict[str, float]:
        """Return means over all processes since the last call: loss, the objective's figures, and tokens per second."""
        taken = self._seen.pop_sums()
        names = sorted(taken)  # the same order on all processes
        sums = torch.tensor([taken[name] for name in names], dtype=torch.float64, device=self.args.device)
        seen = dict(zip(names, self.accelerator.reduce(sums, "sum").tolist(), strict=True))
        seconds = time.monotonic() - self._since
        self._since = time.monotonic()
        count, tokens = seen.pop("count"), seen.pop("tokens")
        return {**{name: value / count for name, value in seen.items()}, "tokens_per_s": tokens / seconds}

    def _check_not_diverged(self, figures: dict[str, float]) -> None:
        if self.job.method == "dpo":  # its loss has no scale of its own
            return
        losses = [read_cross_entropy(point) for point in (*self.list_logged_points("loss"), figures)]
        vocabulary = self.model.config.vocab_size
        # a ternary model that begins above guessing is one whose conversion goes on: it had few tokens, or none, so far
        converts = self._becomes_ternary or (self.job.precision == "ternary" and losses[0] > math.log(vocabulary))
        if has_diverged(losses, vocabulary, converts):
            step = self.state.global_step
            raise DivergedError(f"The loss rose to {losses[-1]:.3g} at step {step}.", self._remedy(), step)

    def validate(self) -> None:
        """Log the mean loss of the validation rows, if there are any, with the model as it would be deployed."""
        if not self._plan.validation:
            return
        self.check_finite_loss()
        began = time.monotonic()
        validated = MicroBatchSums()
        self.codes.refresh()
        with self._evaluation_mode():
            for batch, counts in self._validation_batches():
                inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
                outcome = self.compute_batch_loss(inputs)
                if counts:
                    figures = {"loss": outcome["loss"], "count": outcome["count"], **outcome["figures"]}
                    validated.add(self.state.global_step, figures)
        names = ["count", "loss", *(["margin", "accuracy"] if self.job.method == "dpo" else [])]
        seen = validated.pop_sums()
        sums = torch.tensor([seen.get(name, 0.0) for name in names], dtype=torch.float64, device=self.args.device)
        count, *rest = self.accelerator.reduce(sums, "sum").tolist()
        due = self.control.should_log  # `log` would clear a step's log that is due
        self.log({f"validation_{name}": value / count for name, value in zip(names[1:], rest, strict=True)})
        self.control.should_log = due
        self._since += time.monotonic() - began

    def compute_batch_loss(self, inputs: dict[str, Tensor]) -> BatchLoss:
        """Return the loss of a batch of validation rows."""
        return validation_objective(self.job)(self.model, inputs)

    def _validation_batches(self) -> Any:
        """Yield this process's batches, each of rows of similar length, and whether each counts.

        Processes of a sharded model run together, so all have the same number of batches; a surplus one does not count.
        """
        by_length = np.argsort(measure_items(self._plan.validation), kind="stable").tolist()
        starts = range(0, len(by_length), self.job.sequences)
        for first in range(0, len(starts), self.args.world_size):
            i = first + self.args.process_index
            start = starts[min(i, len(starts) - 1)]
            some = by_length[start : start + self.job.sequences]
            yield self._plan.collator([self._plan.validation[at] for at in some]), i < len(starts)

    @contextmanager
    def _evaluation_mode(self) -> Any:
        """Turn off dropout and noise, and make layers fully ternary."""
        set_ternary_share(self.model, 1, 0)
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.job.compute == "bf16"):
            yield
        self.model.train(training)
        set_ternary_share(self.model, self.state.global_step, self.job.ternary_warmup)

    def list_logged_points(self, name: str) -> list[dict[str, float]]:
        """Return the logged points of the whole run that contain *name*, including those before it was resumed."""
        return [{k: float(v) for k, v in point.items()} for point in self.state.log_history if name in point]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW with three groups: ternary layers (in a twin their like), other matrices, norms and biases."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        decaying = set(self.get_decay_parameter_names(self.model))
        layers = (*find_ternary_targets(self.model).values(), *find_group_modules(self.model).values())
        ternary = {id(p) for layer in layers for p in layer.parameters()}
        rate, other = self.job.peak_rate, self.job.float_rate
        groups = [
            ([p for n, p in named if id(p) in ternary and n in decaying], rate, self.job.weight_decay),
            ([p for n, p in named if id(p) not in ternary and n in decaying], other, self.job.weight_decay),
            ([p for n, p in named if n not in decaying], other, 0.0),
        ]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        made: torch.optim.Optimizer = kind(
            [{"params": ps, "lr": lr, "weight_decay": decay} for ps, lr, decay in groups if ps],
            **{**options, "lr": rate},
        )
        self.optimizer = made
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the job's schedule; that of transformers would begin with a rate of 0."""
        factor = make_schedule(self.job.schedule, num_training_steps, count_warmup(self.job, num_training_steps))
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check_finite_loss()
        super()._save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights of a saved step, unless the model is sharded: then they are written with its optimizer."""
        if not self.job.shard:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.job.shard:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self._plain_optimizer(), Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer without accelerate's wrapper."""
        wrapper: Any = self.optimizer
        plain: torch.optim.Optimizer = wrapper.optimizer
        return plain

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.job.shard:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.job.shard:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            load_shards(self.model, self._plain_optimizer(), Path(checkpoint))
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))


def _use_one_gpu(arguments: TrainingArguments) -> None:
    """Keep a process on one GPU: Trainer would split each batch for DataParallel."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def check_sharding_support(trainer: Trainer) -> None:
    """Raise BenchError if transformers' Trainer would wrap a sharded model in DistributedDataParallel."""
    if not hasattr(trainer, "is_distributed_loading_by_transformers"):
        raise BenchError(
            f"`shard` does not work with transformers {transformers.__version__}, whose Trainer cannot be kept from "
            "wrapping a model that is sharded already.",
            "pip install --upgrade transformers (5.23 is tested), or leave `shard` out.",
        )


class _StepCallback(TrainerCallback):
    """Runs schedules, progress and validation between steps, and marks saved steps as complete."""

    def __init__(self, trainer: BenchTrainer, start: TrainerSetup) -> None:
        self._trainer, self._progress, self._note = trainer, start.progress, ""
        self._conversion = dict(start.conversion)
        self._timer = SaveTimer(start.job.save_minutes, start.clock)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._timer.restart()
        self._trainer.monitor.restart()
        self._trainer.log_raised_warnings()
        if state.global_step == 0:
            if self._conversion:  # in the log, so that a resumed run still has it
                state.log_history.append({"step": 0, **self._conversion})
            self._trainer.validate()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        job = self._trainer.job
        self._begin_step(state.global_step)
        self._trainer.codes.refresh(self._trainer.monitor.pop_codes())
        if job.schedule == "two-stage" and is_second_stage(state.global_step, state.max_steps):
            for group in self._trainer.optimizer.param_groups:
                group["weight_decay"] = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.codes.forget()
        self._begin_step(state.global_step)
        if state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps, self._note)
        if self._is_save_due():
            control.should_save = True
        if state.global_step == state.max_steps:
            control.should_log = True  # the end of the run is part of its curve, whatever logging_steps divides
        if state.global_step % args.save_steps == 0 or state.global_step == state.max_steps:
            self._trainer.validate()

    def _begin_step(self, step: int) -> None:
        if self._trainer.job.ternary_warmup:
            set_ternary_share(self._trainer.model, step, self._trainer.job.ternary_warmup)

    def _is_save_due(self) -> bool:
        """Return whether a state is due by the first process's timer, because all processes write a state together."""
        if self._trainer.args.world_size == 1:
            return self._timer.is_due()
        due = torch.tensor(int(self._timer.is_due()), device=self._trainer.args.device)
        torch.distributed.broadcast(due, src=0)
        return bool(due)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._timer.restart()
        self._trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if is_stop_requested() and state.global_step < state.max_steps:
            raise SystemExit(STOPPED_STATUS)


TrainerFactory = Callable[[TrainerSetup, Mapping[str, Any], Sequence[int]], BenchTrainer]
"""Function that makes a trainer from a setup, the values of its TrainingArguments, and the order of the items."""


def make_trainer(start: TrainerSetup, out: Path, build: TrainerFactory) -> BenchTrainer:
    """Return the trainer that *build* makes of *start*, with its states in *out*."""
    job, plan = start.job, start.plan
    if job.packing:
        check_packing_support(start.model.config.model_type)
        items, validation = (_pack_items(some, job.max_length) for some in (plan.items, plan.validation))
        plan = replace(plan, items=items, validation=validation)
    steps = count_steps(len(plan.items), job.sequences, job.gradient_accumulation, job.epochs, job.max_steps)
    if job.ternary_warmup >= steps:
        raise BenchError(
            f"`ternary_warmup={job.ternary_warmup}` lasts as long as the whole run, {steps} steps.",
            "Shorten it: the end of the run must be wholly ternary.",
        )
    # ordered by whole steps, so that a step has the same items however many forward passes it is cut into
    step_sequences = job.sequences * job.gradient_accumulation
    lengths = measure_items(plan.items)
    order = make_batch_order(lengths, step_sequences, steps, job.seed)
    token_counts = np.cumsum(lengths[order], dtype=np.int64)[step_sequences - 1 :: step_sequences]
    job = job.model_copy(update={"compile": choose_compile(job, steps, torch.cuda.is_available())})
    trainer = build(
        replace(start, plan=plan, job=job, token_counts=token_counts), _arguments(job, steps, out / STATE_FOLDER), order
    )
    trainer.warnings += warn_short_run(steps, count_warmup(job, steps))
    for warning in trainer.warnings if trainer.is_world_process_zero() else []:
        _log.warning(warning)
    if trainer.args.gradient_accumulation_steps > 1 or job.gradient_checkpointing:
        keep_codes(start.model)
    if job.compile == "on" and not compile_layers(start.model):
        trainer.warnings.append(f"`compile=on`: {type(start.model).__name__} names no layers that could be compiled.")
    if "tensorboard" in job.track and trainer.is_world_process_zero():
        trainer.add_callback(_tensorboard(out / TENSORBOARD))
    return trainer


def _pack_items(items: Sequence[BatchItem], max_length: int) -> Items:
    return Items(pack_examples(list_examples(items), max_length))


def _tensorboard(folder: Path) -> TrainerCallback:
    from tensorboardX import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))


def _arguments(job: FinetuneJob, steps: int, state: Path) -> dict[str, Any]:
    """Return the values of the job's TrainingArguments."""
    batch, accumulation = _share_step(job)
    cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(state),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": job.peak_rate,
        "weight_decay": job.weight_decay,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "bf16": job.compute == "bf16",
        "use_cpu": cpu,
        "ddp_backend": "gloo" if cpu and count_processes() > 1 else None,
        "ddp_find_unused_parameters": False,
        "train_sampling_strategy": "sequential",
        "seed": job.seed,
        "neftune_noise_alpha": job.neftune_alpha,
        **_checkpointing(job.gradient_checkpointing),
        "logging_steps": max(1, steps // LOG_POINTS),
        "logging_first_step": True,  # a mean over several steps would hide where the run began
        "logging_nan_inf_filter": False,
        "save_steps": job.save_every,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "report_to": _reporters(job),
        "remove_unused_columns": False,
        # on a GPU a batch is copied while the step before it is computed
        "dataloader_pin_memory": not cpu,
        "accelerator_config": {"non_blocking": not cpu},
    }


def count_warmup(job: FinetuneJob, steps: int) -> int:
    """Return over how many of *steps* the learning rate rises."""
    return math.ceil(job.warmup_ratio * steps)


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Return the arguments for recomputing activations; transformers before 5.18 calls them gradient checkpointing."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False} if wanted else None}


def _share_step(job: FinetuneJob) -> tuple[int, int]:
    """Return (sequences per forward pass, passes per step) of each process, so that a step is that of one process."""
    sharing = count_processes()
    if job.gradient_accumulation % sharing == 0:
        return job.sequences, job.gradient_accumulation // sharing
    if job.sequences % sharing == 0:
        return job.sequences // sharing, job.gradient_accumulation
    raise BenchError(
        f"{sharing} processes cannot share steps of {job.gradient_accumulation} x {job.sequences} sequences.",
        "Make `gradient_accumulation` or `batch_size` a multiple of the number of processes.",
    )


def _reporters(job: FinetuneJob) -> list[str]:
    """Return the installed trackers except TensorBoard, with a warning for those that are not installed."""
    from importlib.util import find_spec

    wanted = [name for name in job.track if name != "tensorboard"]
    for name in wanted:
        if find_spec(name) is None:
            _log.warning("%s is not installed, so it is not told: pip install %s", name, name)
    return [name for name in wanted if find_spec(name)]
