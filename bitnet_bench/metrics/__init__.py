"""Metrics over evaluated examples, each with a signature that says what was computed."""

from __future__ import annotations

from importlib import import_module

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics.base import Metric as Metric

_METRICS = {
    "accuracy": "accuracy:Accuracy",
    "accuracy_norm": "accuracy:LengthNormalisedAccuracy",
    "extracted_accuracy": "accuracy:ExtractedAccuracy",
    "macro_f1": "classification:MacroF1",
    "micro_f1": "classification:MicroF1",
    "weighted_f1": "classification:WeightedF1",
    "macro_precision": "classification:MacroPrecision",
    "macro_recall": "classification:MacroRecall",
    "f1": "classification:PositiveF1",
    "pearson": "correlation:Pearson",
    "spearman": "correlation:Spearman",
    "f1_at_3": "correlation:F1AtThree",
    "entity_f1": "klue_ner:EntityF1",
    "character_macro_f1": "klue_ner:CharacterMacroF1",
    "re_micro_f1": "klue_re:MicroF1WithoutNoRelation",
    "re_auprc": "klue_re:AUPRC",
    "uas": "klue_dp:UAS",
    "las": "klue_dp:LAS",
    "uas_accuracy": "klue_dp:UASAccuracy",
    "las_accuracy": "klue_dp:LASAccuracy",
    "klue_exact_match": "klue_mrc:ExactMatch",
    "klue_rouge_w": "klue_mrc:RougeW",
    "joint_goal_accuracy": "klue_wos:JointGoalAccuracy",
    "slot_f1": "klue_wos:SlotF1",
    "exact_match": "korquad:ExactMatch",
    "char_f1": "korquad:CharacterF1",
    "number_match": "number_match:NumberMatch",
    "prompt_strict": "instructions:PromptStrict",
    "prompt_loose": "instructions:PromptLoose",
    "instruction_strict": "instructions:InstructionStrict",
    "instruction_loose": "instructions:InstructionLoose",
    "rouge_1": "rouge:Rouge1",
    "rouge_2": "rouge:Rouge2",
    "rouge_l": "rouge:RougeL",
    "rouge_lsum": "rouge:RougeLsum",
    "bleu": "bleu:Bleu",
    "chrf": "chrf:ChrfPlusPlus",
    "meteor": "meteor:Meteor",
    "bits_per_byte": "perplexity:BitsPerByte",
    "byte_perplexity": "perplexity:BytePerplexity",
    "pass_at": "several_answers:PassAt",
    "majority_vote": "several_answers:MajorityVote",
}


def load_metric(key: str, answers: int = 1) -> Metric:
    """Return the metric *key*, in the form `name` or `name:argument`; BenchError lists the known metrics.

    The argument is the tokenizer of `rouge_*`, `bleu` and `meteor`, the positive class of `f1`, `corrected` for
    `klue_exact_match` and `klue_rouge_w`, the metric that says what is right for `majority_vote`, and K, or K and such
    a metric, for `pass_at` (`pass_at:4:exact_match`). With several *answers* to each row it is the metric over all.
    """
    name, _, argument = key.partition(":")
    if name not in _METRICS:
        raise BenchError(f"There is no metric {name!r}.", f"There are: {', '.join(sorted(_METRICS))}.")
    module, attribute = _METRICS[name].split(":")
    kind = getattr(import_module(f"bitnet_bench.metrics.{module}"), attribute)
    if argument and kind.__init__ is object.__init__:
        raise BenchError(f"The metric {name!r} takes no argument, and {key!r} gives it one.", f"Write {name!r}.")
    found: Metric = kind(argument) if argument else kind()
    if answers <= 1 or found.reads_all_answers:
        return found
    from bitnet_bench.metrics.repeated import repeat_metric

    return repeat_metric(found, answers)
