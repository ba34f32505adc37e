"""Say that libraries are loaded while they are: the first seconds of a command that computes."""

from __future__ import annotations

import importlib
import sys
from contextlib import nullcontext

from bitnet_bench.cli.tables import show_phase
from bitnet_bench.processes import is_first_process

NAMES = {"torch": "PyTorch", "transformers.modeling_utils": "transformers", "lm_eval.evaluator": "lm-eval"}
"""What to call a library, by the module whose import takes the time."""
TO_READ = ("torch",)
TO_RUN = ("torch", "transformers.modeling_utils")
TO_SCORE = (*TO_RUN, "lm_eval.evaluator")


def load_libraries(modules: tuple[str, ...]) -> None:
    """Import those of *modules* that are not imported yet, and show their names meanwhile."""
    missing = [module for module in modules if module not in sys.modules]
    if not missing:
        return
    names = [NAMES[module] for module in missing]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    with show_phase(f"load {listed}") if is_first_process() else nullcontext():
        for module in missing:
            importlib.import_module(module)
