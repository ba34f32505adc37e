"""Default learning rates by training method, kind of weights and size of the model, with a source for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint

WeightKind = Literal["fp16", "ternary", "becomes ternary"]
"""Kind of a job's weights: floats that stay floats, weights that are already ternary, or a float base that becomes
ternary."""

TINY_PARAMETERS = 30_000_000
"""Parameters below which the embedded pair is the nearest model with a known rate."""
SMALL_PARAMETERS = 1_000_000_000
"""Parameters below which models of 135M to 700M are the nearest; larger models have the rates of 1B to 8B."""
ADAPTER_FACTOR = 10
"""Rate of adapters over that of full fine-tuning (Schulman et al. 2025, "LoRA Without Regret")."""


@dataclass(frozen=True)
class Rate:
    """A peak learning rate and its source."""

    value: float
    source: str


@dataclass(frozen=True)
class RatesBySize:
    """Rates of models below `TINY_PARAMETERS`, below `SMALL_PARAMETERS`, and above."""

    tiny: Rate
    small: Rate
    large: Rate


EMBEDDED_SFT = "docs/log.md: what the embedded pair of 4.5M parameters is trained at"
EMBEDDED_DPO = "docs/log.md: preferences on the embedded pair of 4.5M parameters"

CONVERTED_SFT = "docs/results.md: Gemma 3 270M made ternary, three epochs of 3,000 rows in batches of 32"
CONVERTED_TEXT = "docs/results.md: Gemma 3 270M made ternary on 0.5 million tokens of text"

LANGUAGE_MODEL_RATES: dict[WeightKind, RatesBySize] = {
    "fp16": RatesBySize(
        Rate(1e-3, EMBEDDED_SFT),
        Rate(5e-5, "docs/log.md: SmolLM2 135M and Gemma 3 270M on 200 rows"),
        Rate(2e-5, "Alpaca 7B (Taori et al. 2023); alignment-handbook, recipes/zephyr-7b-gemma/sft"),
    ),
    "ternary": RatesBySize(
        Rate(1e-3, EMBEDDED_SFT),
        Rate(1e-4, CONVERTED_SFT),
        Rate(1e-4, "onebitllms (Falcon-Edge 1B and 3B)"),
    ),
    "becomes ternary": RatesBySize(
        Rate(1e-3, EMBEDDED_SFT),
        Rate(1e-4, CONVERTED_SFT),
        Rate(1e-4, "HF1BitLLM/Llama3-8B-1.58-Linear-10B-tokens, model card (Mekkouri et al. 2024)"),
    ),
}
"""Rates for sft and distill, and for pretrain but for those of `PRETRAINING_RATES`."""
PRETRAINING_RATES: dict[WeightKind, RatesBySize] = {
    weights: replace(LANGUAGE_MODEL_RATES[weights], small=Rate(3e-4, CONVERTED_TEXT))
    for weights in ("ternary", "becomes ternary")
}
"""Rates for pretrain where a ternary model bears more of it: each token of a text teaches, and steps are large."""
PREFERENCE_RATES: dict[WeightKind, RatesBySize] = {
    "fp16": RatesBySize(
        Rate(1e-4, EMBEDDED_DPO),
        Rate(1e-6, "alignment-handbook, recipes/smollm2/dpo/config_smol.yaml (135M and 360M)"),
        Rate(5e-7, "Zephyr 7B (Tunstall et al. 2023); alignment-handbook, recipes/zephyr-7b-beta/dpo"),
    ),
    "ternary": RatesBySize(
        Rate(1e-4, EMBEDDED_DPO),
        Rate(1e-6, "alignment-handbook, recipes/smollm2/dpo/config_smol.yaml: FP16, none is published for ternary"),
        Rate(2e-7, "BitNet b1.58 2B4T (arXiv:2504.12285)"),
    ),
}
"""Rates for dpo, whose loss does not teach a model to be ternary: a float base has the rate of a ternary one."""


def find_default_rate(job: FinetuneJob, base: Checkpoint) -> Rate:
    """Return the peak learning rate of a job without a given one, on the checkpoint *base*."""
    weights: WeightKind = "fp16" if job.precision == "fp16" else "ternary" if base.is_ternary else "becomes ternary"
    if job.method == "dpo":
        row = PREFERENCE_RATES["fp16" if weights == "fp16" else "ternary"]
    elif job.method == "pretrain":
        row = PRETRAINING_RATES.get(weights, LANGUAGE_MODEL_RATES[weights])
    else:
        row = LANGUAGE_MODEL_RATES[weights]
    size = base.parameters
    rate = row.tiny if size < TINY_PARAMETERS else row.small if size < SMALL_PARAMETERS else row.large
    if job.lora_rank:
        return Rate(ADAPTER_FACTOR * rate.value, f"{rate.source}; adapters learn at ten times that")
    return rate


def set_default_rate(job: FinetuneJob, base: Checkpoint) -> FinetuneJob:
    """Return *job* with a learning rate and, if that is from the table, its source."""
    if job.learning_rate is not None:
        return job
    rate = find_default_rate(job, base)
    return job.model_copy(update={"learning_rate": rate.value, "learning_rate_source": rate.source})
