"""Forecast how long a run takes from a model's shape and this machine's rate for a dtype, before it is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bitnet_bench.checkpoints.shape import compute_shape
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.measurement.budget import format_duration
from bitnet_bench.measurement.ceilings import set_threads
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.runs.choices import Precision

TORCH_BACKENDS = ("hf", "hf-dense")
"""Backends whose float products are torch's, so that torch's rate says how long they take."""
TORCH_DTYPES: Mapping[Precision, str] = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
MIN_PROBE_TOKENS, MIN_PROBE_S = 4, 0.05
"""Tokens of the first product of a probe, and the seconds that a product must take: tokens are doubled until it
does."""


@dataclass(frozen=True)
class LayerRates:
    """Rates at which a dtype multiplies a layer: with many tokens at once, and with one token."""

    operations_per_s: float
    """Operations per second with the tokens of a prompt."""
    token_weights_per_s: float
    """Weights per second that one token is multiplied with."""


@dataclass(frozen=True)
class Forecast:
    """The time that one run of a scenario takes at the rates of this machine."""

    precision: Precision
    seconds: float
    rates: LayerRates

    def describe(self) -> str:
        """Return the reason of the forecast as words for a sentence."""
        rate = self.rates.operations_per_s / 1e9
        return (
            f"one run would take about {format_duration(self.seconds)}, because {self.precision.upper()} products "
            f"reach {rate:.3g} GFLOP/s on this processor"
        )


def forecast_run(
    config: Mapping[str, Any], backend: str, precision: Precision, scenario: Scenario, threads: int
) -> Forecast | None:
    """Return how long a run takes at least; None if torch's rates on the CPU do not determine it."""
    if backend not in TORCH_BACKENDS or precision not in TORCH_DTYPES or find_gpu() is not None:
        return None
    try:
        shape = compute_shape(config)
    except KeyError:
        return None
    batch = min(scenario.each_batch)
    rates = _measure_layer_rates(TORCH_DTYPES[precision], config["hidden_size"], config["intermediate_size"], threads)
    prompt = 2 * (shape.matrices * scenario.prompt_tokens + shape.head_weights) * batch / rates.operations_per_s
    token = (shape.matrices + shape.head_weights) / rates.token_weights_per_s
    return Forecast(precision, prompt + token * (scenario.new_tokens - 1), rates)


@cache
def _measure_layer_rates(dtype: str, columns: int, rows: int, threads: int) -> LayerRates:
    """Time products of a layer of the model: a prompt's, doubled until they take long enough, and one token's."""
    import torch

    with set_threads(threads):
        weight = torch.ones(rows, columns, dtype=getattr(torch, dtype))
        tokens, seconds = MIN_PROBE_TOKENS, 0.0
        while seconds < MIN_PROBE_S and tokens <= 1024:
            tokens *= 2
            seconds = _time_product(weight, tokens)
        one = min(_time_product(weight, 1) for _ in range(3))
    return LayerRates(2 * tokens * rows * columns / seconds, rows * columns / one)


def _time_product(weight: Any, tokens: int) -> float:
    import torch

    x = torch.ones(tokens, weight.shape[1], dtype=weight.dtype)
    started = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return time.perf_counter() - started
