"""Evaluation-first benchmark harness for Korean BitNet b1.58 language models.

    import bitnet_bench as bb

    job = bb.FinetuneJob(model="demo", data=("train.jsonl",), out="runs/mine")
    bb.finetune(job)                                          # exact ternary QAT
    bb.finetune(bb.twin_of(job))                              # the same in FP16
    bb.evaluate("runs/mine", "sample", "runs/scored/mine")
    bb.evaluate("runs/mine-fp16", "sample", "runs/scored/mine-fp16")
    bb.measure({"runs/mine": "runs/scored/mine", "runs/mine-fp16": "runs/scored/mine-fp16"})
    bb.compare("runs/scored/mine", "runs/scored/mine-fp16")
    bb.report(["runs/scored/mine", "runs/scored/mine-fp16"], "report.html")

Names are loaded when they are used: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# `bitnet_bench.ports` and `bitnet_bench.sections` are found in `moved/`, where importing them warns
__path__ = [*__path__, str(Path(__file__).parent / "moved")]

if TYPE_CHECKING:
    from bitnet_bench.api import (
        compare,
        evaluate,
        finetune,
        judge,
        leaderboard,
        load_run,
        measure,
        report,
        trust_suite,
        twin_of,
    )
    from bitnet_bench.api import open_checkpoint as open  # noqa: A004 - bb.open, as in PIL and wave
    from bitnet_bench.errors import BenchError
    from bitnet_bench.measurement.scenario import Scenario
    from bitnet_bench.runs.jobs import EvaluateJob, FinetuneJob, JudgeJob

_LAZY = {
    "open": ("bitnet_bench.api", "open_checkpoint"),
    "BenchError": ("bitnet_bench.errors", "BenchError"),
    "Scenario": ("bitnet_bench.measurement.scenario", "Scenario"),
    "EvaluateJob": ("bitnet_bench.runs.jobs", "EvaluateJob"),
    "FinetuneJob": ("bitnet_bench.runs.jobs", "FinetuneJob"),
    "JudgeJob": ("bitnet_bench.runs.jobs", "JudgeJob"),
    **{
        name: ("bitnet_bench.api", name)
        for name in (
            "compare",
            "evaluate",
            "finetune",
            "judge",
            "leaderboard",
            "load_run",
            "measure",
            "report",
            "trust_suite",
            "twin_of",
        )
    },
}

__all__ = [
    "BenchError",
    "EvaluateJob",
    "FinetuneJob",
    "JudgeJob",
    "Scenario",
    "compare",
    "evaluate",
    "finetune",
    "judge",
    "leaderboard",
    "load_run",
    "measure",
    "open",
    "report",
    "trust_suite",
    "twin_of",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names, loaded or not, for completion."""
    return sorted({*globals(), *__all__})
