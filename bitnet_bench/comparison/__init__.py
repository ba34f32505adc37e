"""Decide whether two runs differ, on which tasks, and how certain that is; the terminal and the report show it."""

from __future__ import annotations

from bitnet_bench.comparison.comparing import compare
from bitnet_bench.comparison.results import Comparison, Difference, MeanDifference, RefusedTask

__all__ = ["Comparison", "Difference", "MeanDifference", "RefusedTask", "compare"]
