"""Every metric recomputed on resamples: with each example once it is the metric itself."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

RNG = np.random.default_rng(11)
N = 40
CHOICES = ("없음", "하나", "둘", "셋")


def _choosing() -> list[Example]:
    examples = []
    for doc in range(N):
        logs = RNG.normal(size=4).tolist()
        target, output = int(RNG.integers(4)), int(np.argmax(logs))
        fields = {"loglikelihoods": tuple(logs), "output_choice": output, "target_choice": target, "choices": CHOICES}
        grades = {"target_value": float(RNG.integers(6)), "output_value": float(RNG.uniform(0, 5))}
        examples.append(
            Example(
                task="t", doc_id=doc, prompt="", target=CHOICES[target], output=CHOICES[output], correct=0.0,
                **fields, **grades,
            )
        )  # fmt: skip
    return examples


def _writing() -> list[Example]:
    words = ["서울", "부산", "날씨", "맑다", "오늘", "내일"]
    examples = []
    for doc in range(N):
        target, output = (" ".join(RNG.choice(words, size=6)) for _ in range(2))
        examples.append(
            Example(
                task="t", doc_id=doc, prompt="", target=target, references=(target,), output=output, correct=0.0,
                loglikelihoods=(float(-RNG.uniform(5, 50)),),
            )
        )  # fmt: skip
    return examples


def _labelling(*kinds: str) -> list[Example]:
    examples = []
    for doc in range(N):
        target, output = (tuple(RNG.choice(kinds, size=5).tolist()) for _ in range(2))
        examples.append(
            Example(
                task="t", doc_id=doc, prompt="", target="", output="", correct=0.0, target_labels=target,
                output_labels=output,
            )
        )  # fmt: skip
    return examples


CASES = [
    *[(key, _choosing()) for key in ("accuracy", "accuracy_norm", "macro_f1", "micro_f1", "weighted_f1", "f1:2")],
    *[(key, _choosing()) for key in ("macro_precision", "macro_recall", "pearson", "spearman", "f1_at_3")],
    *[(key, _choosing()) for key in ("re_micro_f1", "re_auprc")],
    *[(key, _writing()) for key in ("exact_match", "char_f1", "klue_rouge_w", "rouge_l:space", "bleu", "chrf")],
    *[(key, _writing()) for key in ("bits_per_byte", "byte_perplexity")],
    *[(key, _labelling("1 NP", "2 NP", "2 VP")) for key in ("uas", "las", "uas_accuracy", "las_accuracy")],
    *[(key, _labelling("B-PS", "I-PS", "O")) for key in ("entity_f1", "character_macro_f1")],
    *[(key, _labelling("가-나-다", "라-마-바")) for key in ("joint_goal_accuracy", "slot_f1")],
]


@pytest.mark.parametrize(("key", "examples"), CASES, ids=[key for key, _ in CASES])
def test_weights_of_one_give_the_metric_and_weights_of_two_repeat_examples(key: str, examples: list[Example]) -> None:
    """All once is `value`; a sample that holds some twice and others never is `value` of that very list."""
    found = load_metric(key)
    counts = np.array([2, 0, 1, 1] * (N // 4))
    repeated = [example for example, count in zip(examples, counts, strict=True) for _ in range(count)]
    weights = np.stack([np.ones(N), counts.astype(float)])
    expected = [found.value(examples), found.value(repeated)]
    assert found.score_resamples(found.example_statistics(examples), weights) == pytest.approx(expected, abs=1e-9)
