"""Ternary QAT and FP16 training on transformers' Trainer, resumable to the bit."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from bitnet_bench.data.rows import Row
from bitnet_bench.data.tokenizing import IGNORED, Encoded, Example, encode, encode_pairs
from bitnet_bench.environment import environment
from bitnet_bench.errors import BenchError
from bitnet_bench.files import disk_errors, write_whole
from bitnet_bench.ports import Progress
from bitnet_bench.records import Checkpoint, FinetuneJob, FinetuneRecord
from bitnet_bench.ternary.checkpoint import inspect
from bitnet_bench.ternary.config import read_config
from bitnet_bench.ternary.loading import load_model, load_tokenizer
from bitnet_bench.ternary.saving import refuse_unpackable, save
from bitnet_bench.training.flips import FlipMonitor
from bitnet_bench.training.loss import response_logprobs, response_loss
from bitnet_bench.training.order import batch_order, total_steps
from bitnet_bench.training.preference import LN2, Preferences, dpo_loss, reference_is_the_policy

STATE = ".trainer"
"""Where a run keeps what it needs to go on; removed when it is finished."""
COMPLETE = "complete"
"""A saved step without this file was cut off while it was written."""
LOG_POINTS = 200


def finetune(job: FinetuneJob, base: Checkpoint, rows: Sequence[Row], progress: Progress) -> FinetuneRecord:
    """Run *job*; see `bitnet_bench.ports.TrainingBackend.finetune`."""
    out = Path(job.out)
    tokenizer = load_tokenizer(base)
    length = min(job.max_length, _context(base))
    if job.method == "dpo":
        encoded = encode_pairs(rows, tokenizer, job.template, length)
    else:
        encoded = encode(rows, tokenizer, job.template, length, pretrain=job.method == "pretrain")
    set_seed(job.seed)
    model = load_model(base, "train", "ternary" if job.precision == "ternary" else "fp32")
    if job.precision == "ternary":
        refuse_unpackable(model)
    claim(out, job, base, encoded)
    trainer = _trainer(job, model, encoded, _pad_id(tokenizer), out / STATE, progress)
    resumed = _last_complete(out / STATE)
    transformers_logging.set_verbosity_error()  # a resumed tied head is "missing", and that is right
    started = time.monotonic()
    with disk_errors(out):
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        seconds = time.monotonic() - started
        _save_result(job, model, tokenizer, base.dtype)
    record = _record(job, base, encoded, trainer, seconds, resumed)
    write_whole(out / "finetune.json", record.model_dump_json(indent=1))
    shutil.rmtree(out / STATE, ignore_errors=True)
    return record


def _save_result(job: FinetuneJob, model: PreTrainedModel, tokenizer: Any, dtype: str) -> None:
    """Write the checkpoint; what is not ternary keeps *dtype*, and the FP16 arm is FP16 whatever its base was."""
    out = Path(job.out)
    tokenizer.save_pretrained(out)
    if job.keep_masters and job.precision == "ternary":
        tokenizer.save_pretrained(out / "masters")
        save(model, out / "masters", "masters", dtype)
    if job.precision == "ternary":
        save(model, out, "autobitlinear", dtype)
    else:
        save(model, out, "float", "float16")


def _record(
    job: FinetuneJob, base: Checkpoint, encoded: Encoded, trainer: _Trainer, seconds: float, resumed: Path | None
) -> FinetuneRecord:
    history = tuple(trainer.history)
    tail = [point["loss"] for point in history[-max(1, len(history) // 10) :]]
    return FinetuneRecord(
        job=job,
        backend="hf",
        base=base,
        result=inspect(Path(job.out)),
        rows=encoded.rows,
        dropped_rows=encoded.dropped,
        truncated_rows=encoded.truncated,
        data_sha256=encoded.sha256,
        steps=trainer.state.global_step,
        train_loss=sum(tail) / len(tail),
        history=history,
        train_seconds=seconds,
        resumed_from_step=int(resumed.name.split("-")[-1]) if resumed else 0,
        environment=environment(),
    )


def claim(out: Path, job: FinetuneJob, base: Checkpoint, encoded: Encoded) -> None:
    """Take *out* for this job, or refuse: it may hold the same job unfinished, and nothing else."""
    ours = {**job.settings(), "base weights": base.sha256, "data rows": encoded.sha256}
    mark = out / STATE / "job.json"
    if mark.is_file():
        theirs = json.loads(mark.read_text(encoding="utf-8"))
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        if differing:
            raise BenchError(
                f"{out} holds an unfinished run with another {', '.join(differing)}.",
                "Give the settings it was started with to go on, another --out, or delete the folder.",
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise BenchError(f"{out} is not empty.", "Give another --out, or delete the folder.")
    write_whole(mark, json.dumps(ours, ensure_ascii=False, indent=1))


def _last_complete(state: Path) -> Path | None:
    """Return the newest whole saved step, after removing those that were cut off."""
    saved = sorted(state.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]))
    for folder in saved:
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    whole = [folder for folder in saved if folder.exists()]
    return whole[-1] if whole else None


def _context(base: Checkpoint) -> int:
    return int(read_config(Path(base.path)).get("max_position_embeddings", 2**31))


def _pad_id(tokenizer: Any) -> int:
    """Any id will do: padded positions are masked from attention and from the loss."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


@dataclass(frozen=True)
class _Item:
    """What is drawn at once: one sequence, or the chosen and the rejected one of a pair with their reference."""

    examples: Sequence[Example]
    reference: Sequence[float] = ()
    """Log-probability of each answer before training, in nats."""

    def __len__(self) -> int:
        return max(len(example.input_ids) for example in self.examples)


class _Ordered(Dataset[_Item]):
    """The items in the order in which they are trained on, repeated over epochs."""

    def __init__(self, items: Sequence[_Item], order: Sequence[int]) -> None:
        self._items, self._order = items, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, i: int) -> _Item:
        return self._items[self._order[i]]


class _Collator:
    """Pads on the right to the longest of the batch."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, items: list[_Item]) -> dict[str, Tensor]:
        batch = self.padded([example for item in items for example in item.examples])
        if items[0].reference:
            batch["reference"] = torch.tensor([logprob for item in items for logprob in item.reference])
        return batch

    def padded(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return input_ids, labels and, where they differ in length, attention_mask, all [B, T]."""
        longest = max(len(e.input_ids) for e in examples)
        batch = {"input_ids": self._padded([e.input_ids for e in examples], longest, self._pad)}
        batch["labels"] = self._padded([[IGNORED, *e.labels[1:]] for e in examples], longest, IGNORED)
        if any(len(e.input_ids) < longest for e in examples):
            batch["attention_mask"] = self._padded([[1] * len(e.input_ids) for e in examples], longest, 0)
        return batch

    @staticmethod
    def _padded(rows: list[list[int]], length: int, fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


class _Trainer(Trainer):
    """Trainer with our loss, which stops at the first loss that is no number, and with code flips in its log."""

    def __init__(self, *args: Any, progress: Progress, beta: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._beta = beta
        self._preferences: list[Preferences] = []
        self.model_accepts_loss_kwargs = True  # our loss divides by the tokens of the whole accumulated batch
        self.flips = FlipMonitor(self.model)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Watch(self, progress))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        total, count = self._preference(model, inputs) if "reference" in inputs else response_loss(model, inputs)
        if not math.isfinite(total.item()):
            raise BenchError(
                f"The loss became {total.item()} at step {self.state.global_step}.",
                "Lower --lr or raise --warmup-ratio and start anew with another --out; the last saved step is kept.",
            )
        if num_items_in_batch is None:
            return total / count
        # what is accumulated counts tokens, and a pair is one however long it is; all batches have as many
        return total / (count * self.args.gradient_accumulation_steps if "reference" in inputs else num_items_in_batch)

    def _preference(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, int]:
        loss, found = dpo_loss(response_logprobs(model, inputs), inputs["reference"], self._beta)
        first = loss.item() / found.pairs
        if self.state.global_step == 0 and not self._preferences and not reference_is_the_policy(first):
            raise BenchError(
                f"DPO's first loss is {first:.4f}, not ln 2 = {LN2:.4f}: the reference is not the model that trains.",
                "This is an error of bitnet-bench, or the model is not the same twice (dropout); please report it.",
            )
        self._preferences.append(found)
        return loss, found.pairs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._seen(), **self.flips.look()} if "loss" in logs else logs, start_time)

    def _seen(self) -> dict[str, float]:
        """Return margin and accuracy of the pairs since the last time; {} without pairs."""
        seen, self._preferences = self._preferences, self._preferences[:0]
        pairs = sum(found.pairs for found in seen)
        names = ("margin", "accuracy") if pairs else ()
        return {name: sum(getattr(found, name) * found.pairs for found in seen) / pairs for name in names}

    @property
    def history(self) -> list[dict[str, float]]:
        """The logged points of the whole run, those before a kill included."""
        return [{k: float(v) for k, v in point.items()} for point in self.state.log_history if "loss" in point]


class _Watch(TrainerCallback):
    """Reports steps, and marks a saved step as whole once everything of it is written."""

    def __init__(self, trainer: _Trainer, progress: Progress) -> None:
        self._trainer, self._progress, self._note = trainer, progress, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.flips.look()  # the weights may have come from a saved step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps, self._note)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def _trainer(
    job: FinetuneJob, model: PreTrainedModel, encoded: Encoded, pad: int, state: Path, progress: Progress
) -> _Trainer:
    collator = _Collator(pad)
    items = _pairs(job, model, encoded.examples, collator) if job.method == "dpo" else _singles(encoded.examples)
    steps = total_steps(len(items), job.batch_size, job.gradient_accumulation, job.epochs, job.max_steps)
    batches = steps * job.gradient_accumulation
    order = batch_order([len(item) for item in items], job.batch_size, batches, job.seed)
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=steps,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=job.gradient_accumulation,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant_with_warmup" if job.schedule == "constant" else job.schedule,
        warmup_steps=math.ceil(job.warmup_ratio * steps),
        weight_decay=job.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=job.compute == "bf16",
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        seed=job.seed,
        logging_steps=max(1, steps // LOG_POINTS),
        logging_nan_inf_filter=False,
        save_steps=job.save_every,
        save_total_limit=2,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    return _Trainer(
        model=model,
        args=arguments,
        train_dataset=_Ordered(items, order),
        data_collator=collator,
        progress=progress,
        beta=job.beta,
    )


def _singles(examples: Sequence[Example]) -> list[_Item]:
    return [_Item((example,)) for example in examples]


def _pairs(job: FinetuneJob, model: PreTrainedModel, examples: Sequence[Example], collator: _Collator) -> list[_Item]:
    """Return pairs with their reference: what this very model, quantizers and all, gives them before the first step.

    Dropout is turned off, in training as well: with it a policy would not equal its own reference.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids), reverse=True)
    reference = [0.0] * len(examples)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=job.compute == "bf16"):
        for start in range(0, len(by_length), 2 * job.batch_size):
            some = by_length[start : start + 2 * job.batch_size]
            batch = {name: t.to(model.device) for name, t in collator.padded([examples[i] for i in some]).items()}
            for i, logprob in zip(some, response_logprobs(model, batch).tolist(), strict=True):
                reference[i] = logprob
    return [_Item(examples[i : i + 2], reference[i : i + 2]) for i in range(0, len(examples), 2)]
