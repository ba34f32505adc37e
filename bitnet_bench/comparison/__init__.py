"""Whether two runs differ, on which tasks, and how sure that is: decided here, shown by the terminal and the report."""

from __future__ import annotations

from bitnet_bench.comparison.comparing import compare
from bitnet_bench.comparison.results import Comparison, Difference, MeanDifference, RefusedTask

__all__ = ["Comparison", "Difference", "MeanDifference", "RefusedTask", "compare"]
