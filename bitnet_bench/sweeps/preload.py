"""Import what steps need, in the process that they are forked from: it must start no thread and touch no GPU."""

from __future__ import annotations

import importlib
import os
from contextlib import suppress

# asks the driver's library instead of the driver, which a forked process could not use any more
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
for module in (
    "torch",
    "transformers.modeling_utils",
    "lm_eval.evaluator",
    "bitnet_bench.evaluation.evaluate",
    "bitnet_bench.training.finetune",
):
    with suppress(ImportError):
        importlib.import_module(module)
