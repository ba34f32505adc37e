"""The `hf` backend: transformers models, trained with its Trainer and run in PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.protocols import InferenceBackend, Progress, TrainingBackend, TrainingInputs
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord

if TYPE_CHECKING:
    from bitnet_bench.backends.hf.inference import HFSession


class HFBackend(InferenceBackend, TrainingBackend):
    """Trains and runs causal LMs through transformers."""

    summary = "transformers on PyTorch: trains (ternary QAT, FP16) and runs every precision"

    dense = False

    def find_runtime(self) -> str:
        """Return the versions of PyTorch and transformers."""
        return f"PyTorch {version('torch')}, transformers {version('transformers')}"

    def open(self, checkpoint: Checkpoint, precision: Precision) -> AbstractContextManager[HFSession]:
        """Open *checkpoint*: ternary runs on int8 codes with exact integer sums, other precisions as plain layers."""
        from bitnet_bench.backends.hf.inference import open_session

        return open_session(checkpoint, precision, self.dense)

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import the model's and the tokenizer's code, without loading anything."""
        from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401 - imported when named

        import bitnet_bench.backends.hf.inference  # noqa: F401
        from bitnet_bench.checkpoints.building import build_outline
        from bitnet_bench.checkpoints.config import read_config

        build_outline(read_config(Path(checkpoint.path)))

    def finetune(self, job: FinetuneJob, given: TrainingInputs, progress: Progress) -> FinetuneRecord:
        """Fine-tune, pre-train, align or distill with transformers' Trainer; resume a killed run."""
        from bitnet_bench.backends.hf.training import build_trainer
        from bitnet_bench.training.job import run_finetune_job

        return run_finetune_job(job, given, progress, "hf", build_trainer)


class HFDenseBackend(HFBackend):
    """`HFBackend` with packed ternary weights as dense floats: the cost of the shape without ternary weights."""

    summary = "as `hf`, with ternary weights as dense floats: the baseline of a checkpoint that has no float twin"
    dense = True
