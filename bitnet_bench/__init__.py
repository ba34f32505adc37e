"""Evaluation-first benchmark harness for Korean BitNet b1.58 language models.

    import bitnet_bench as bb

    checkpoint = bb.open("demo")
    run = bb.evaluate("demo", bb.select_tasks(["sample"]), Path("runs/demo"))

Names are loaded when they are used: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bitnet_bench.api import evaluate, finetune, load_run, measure, report, select_tasks, suites, twin_of
    from bitnet_bench.api import open_checkpoint as open  # noqa: A004 - bb.open, as in PIL and wave
    from bitnet_bench.measure.run import Scenario
    from bitnet_bench.records import EvaluateJob, FinetuneJob

_LAZY = {
    "open": ("bitnet_bench.api", "open_checkpoint"),
    "Scenario": ("bitnet_bench.measure.run", "Scenario"),
    "EvaluateJob": ("bitnet_bench.records", "EvaluateJob"),
    "FinetuneJob": ("bitnet_bench.records", "FinetuneJob"),
    **{
        name: ("bitnet_bench.api", name)
        for name in ("evaluate", "finetune", "load_run", "measure", "report", "select_tasks", "suites", "twin_of")
    },
}

__all__ = [
    "EvaluateJob",
    "FinetuneJob",
    "Scenario",
    "evaluate",
    "finetune",
    "load_run",
    "measure",
    "open",
    "report",
    "select_tasks",
    "suites",
    "twin_of",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
