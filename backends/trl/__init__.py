"""The `trl` backend: SFTTrainer and DPOTrainer run the same jobs."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from bitnet_bench.protocols import Progress, TrainingBackend, TrainingInputs
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord


class TRLBackend(TrainingBackend):
    """Trains causal LMs through trl."""

    summary = "trl's SFTTrainer and DPOTrainer: trains (ternary QAT, FP16) with the rows and the loss of hf"

    def __init__(self) -> None:
        if find_spec("trl") is None:
            raise ImportError("trl is not installed", name="trl")

    def find_runtime(self) -> str:
        """Return the version of trl."""
        return f"trl {version('trl')}"

    def finetune(self, job: FinetuneJob, given: TrainingInputs, progress: Progress) -> FinetuneRecord:
        """Fine-tune, pre-train or align with trl; resume a killed run. Raise BenchError for what trl cannot do."""
        from bitnet_bench.backends.trl.training import build_trainer, check_supported_by_trl
        from bitnet_bench.training.job import run_finetune_job

        check_supported_by_trl(job)
        return run_finetune_job(job, given, progress, "trl", build_trainer)
