"""ROUGE (Lin 2004) over Korean tokens: rouge_score's scorer with a tokenizer that keeps Hangul."""

from __future__ import annotations

from functools import lru_cache

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.metrics.tokenizers import load_metric_tokenizer
from bitnet_bench.runs.records import Example


class Rouge1(MeanMetric):
    """Mean over examples of the best ROUGE-1 F over the references."""

    kind = "rouge1"

    def __init__(self, tokens: str = "mecab") -> None:
        self.tokens = tokens
        self.tokenizer_name = load_metric_tokenizer(tokens).name

    def score_example(self, example: Example) -> float:
        """Return the F of one output, 0..1."""
        return max(_rouge_f1(self.kind, self.tokens, reference, example.output) for reference in example.references)

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.kind}|tok:{self.tokenizer_name}|norm:nfc|refs:max|stderr:mean|v1"


class Rouge2(Rouge1):
    """Mean over examples of the best ROUGE-2 F over the references."""

    kind = "rouge2"


class RougeL(Rouge1):
    """Mean over examples of the best ROUGE-L F over the references, with one longest common subsequence per text."""

    kind = "rougeL"


class RougeLsum(Rouge1):
    """Mean over examples of the best summary-level ROUGE-L F, with a union of subsequences over the lines of a text."""

    kind = "rougeLsum"


@lru_cache(maxsize=1 << 16)
def _rouge_f1(kind: str, tokens: str, reference: str, output: str) -> float:
    # cached, because the value, its standard error and the scores of the examples each need it
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=load_metric_tokenizer(tokens))
    return float(scorer.score(reference, output)[kind].fmeasure)
