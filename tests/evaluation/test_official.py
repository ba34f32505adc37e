"""Our metrics against the official definitions, on whole splits of real data: equal to 1e-9.

The references are naive: they follow the text of the official scripts with scikit-learn, scipy and seqeval, over all
examples at once, and share no code with the package.
"""

from __future__ import annotations

import os
import random
import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from korouge_score import rouge_scorer
from lm_eval.api.model import LM
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import auc, f1_score, precision_recall_curve, precision_score, recall_score

from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import evaluate_task
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
Examples = Sequence[Example]
Reference = Callable[[Examples], float]

pytestmark = [
    pytest.mark.skipif(not (DATA / "klue").is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # scikit-learn and seqeval on labels that are never given
]


def classes(examples: Examples) -> tuple[list[int | None], list[int | None]]:
    """Return targets and outputs."""
    return [e.target_choice for e in examples], [e.output_choice for e in examples]


def accuracy(examples: Examples) -> float:
    """The mean of hits."""
    return float(np.mean([e.target_choice == e.output_choice for e in examples]))


def macro_f1(examples: Examples) -> float:
    """ynat_macro_f1."""
    return float(f1_score(*classes(examples), average="macro"))


def grades(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and outputs."""
    return np.array([e.target_value for e in examples]), np.array([e.output_value for e in examples])


def pearson(examples: Examples) -> float:
    """klue_sts_pearsonr; a constant output has none, which we call 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(pearsonr(*grades(examples))[0]))


def spearman(examples: Examples) -> float:
    """The correlation of ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(spearmanr(*grades(examples))[0]))


def f1_at_3(examples: Examples) -> float:
    """klue_sts_f1."""
    labels, outputs = (np.where(side >= 3, 1, 0) for side in grades(examples))
    return float(f1_score(labels, outputs, average="binary"))


def entity_f1(examples: Examples) -> float:
    """klue_ner_entity_macro_f1: all sentences as one sequence."""
    labels = [tag for e in examples for tag in e.target_labels]
    outputs = [tag or "O" for e in examples for tag in e.output_labels]
    return float(seqeval_f1([labels], [outputs], average="macro", mode="strict", scheme=IOB2))


def character_macro_f1(examples: Examples) -> float:
    """klue_ner_char_macro_f1, over the 13 tags."""
    tags = ["B-PS", "I-PS", "B-LC", "I-LC", "B-OG", "I-OG", "B-DT", "I-DT", "B-TI", "I-TI", "B-QT", "I-QT", "O"]
    labels = [tag for e in examples for tag in e.target_labels]
    outputs = [tag for e in examples for tag in e.output_labels]
    return float(f1_score(labels, outputs, labels=tags, average="macro", zero_division=1.0))


def re_micro_f1(examples: Examples) -> float:
    """klue_re_micro_f1."""
    return float(f1_score(*classes(examples), average="micro", labels=list(range(1, 30))))


def re_auprc(examples: Examples) -> float:
    """klue_re_auprc."""
    labels = np.eye(30)[[e.target_choice for e in examples]]
    probabilities = softmax(np.array([e.loglikelihoods for e in examples]), axis=1)
    areas = []
    for c in range(30):
        precision, recall, _ = precision_recall_curve(labels[:, c], probabilities[:, c])
        areas.append(auc(recall, precision))
    return float(np.mean(areas))


def heads_and_types(labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return head indices and type indices, all types from 15 on as -3; a malformed label is head -9."""
    types = [
        *("NP", "NP_AJT", "VP", "NP_SBJ", "VP_MOD", "NP_OBJ", "AP", "NP_CNJ", "NP_MOD", "VNP", "DP", "VP_AJT"),
        *("VNP_MOD", "NP_CMP", "VP_SBJ"),
    ]
    parts = [label.split(" ") if label else ["-9", ""] for label in labels]
    return [int(head) for head, _ in parts], [types.index(t) if t in types else -3 for _, t in parts]


def words(examples: Examples) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return target heads, target types, output heads and output types of all words."""
    targets = heads_and_types([label for e in examples for label in e.target_labels])
    outputs = heads_and_types([label for e in examples for label in e.output_labels])
    return *targets, *outputs


def uas(examples: Examples) -> float:
    """klue_dp_uas_macro_f1."""
    heads, _types, head_outputs, _outputs = words(examples)
    return float(f1_score(heads, head_outputs, average="macro"))


def las(examples: Examples) -> float:
    """klue_dp_las_macro_f1."""
    heads, types, head_outputs, type_outputs = words(examples)
    type_outputs = [t if a == b else -2 for t, a, b in zip(type_outputs, heads, head_outputs, strict=True)]
    return float(f1_score(types, type_outputs, average="macro"))


def las_accuracy(examples: Examples) -> float:
    """Words that are right in head and relation over words."""
    pairs = [p for e in examples for p in zip(e.target_labels, e.output_labels, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def klue_normalised(text: str) -> str:
    """normalize_answer_for_klue_mrc, misplaced bracket and all."""
    text = re.sub(r"[\'\"《》<>〈〉]\(\)\‘\’", " ", text.lower())
    return " ".join("".join(c for c in text if c not in string.punctuation).split())


def klue_exact_match(examples: Examples) -> float:
    """klue_mrc_em."""
    return float(
        np.mean([any(klue_normalised(e.output) == klue_normalised(r) for r in e.references) for e in examples])
    )


def klue_rouge_w(examples: Examples) -> float:
    """klue_mrc_rouge_w, beta 1."""

    def one(output: str, reference: str) -> float:
        if reference == "":
            return float(output == reference)
        common = SequenceMatcher(None, output, reference).find_longest_match(0, len(output), 0, len(reference)).size
        precision = common / len(output) if output else 0.0
        recall = common / len(reference)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    return float(
        np.mean([max(one(klue_normalised(e.output), klue_normalised(r)) for r in e.references) for e in examples])
    )


def joint_goal_accuracy(examples: Examples) -> float:
    """wos_jga."""
    return float(np.mean([set(e.output_labels) == set(e.target_labels) for e in examples]))


def slot_f1(examples: Examples) -> float:
    """wos_slot_micro_f1: the mean of compute_prf_for_wos."""
    scores = []
    for e in examples:
        gold, given = e.target_labels, e.output_labels
        if not gold:
            scores.append(float(not given))
            continue
        tp, fp = sum(g in given for g in gold), sum(p not in gold for p in given)
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / len(gold)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores))


def korquad_normalised(text: str) -> str:
    """normalize_answer of evaluate-v1.0.py."""
    for mark in "'\"《》<>〈〉()‘’":
        text = text.replace(mark, " ")
    return " ".join("".join(c for c in text.lower() if c not in string.punctuation).split())


def exact_match(examples: Examples) -> float:
    """exact_match_score of evaluate-v1.0.py."""
    return float(
        np.mean([any(korquad_normalised(e.output) == korquad_normalised(r) for r in e.references) for e in examples])
    )


def char_f1(examples: Examples) -> float:
    """f1_score of evaluate-v1.0.py."""

    def one(output: str, reference: str) -> float:
        ours = [c for token in korquad_normalised(output).split() for c in token]
        theirs = [c for token in korquad_normalised(reference).split() for c in token]
        same = sum((Counter(ours) & Counter(theirs)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(ours), same / len(theirs)
        return 2 * precision * recall / (precision + recall)

    return float(np.mean([max(one(e.output, r) for r in e.references) for e in examples]))


def positive_f1(examples: Examples) -> float:
    """F1 of class 1."""
    return float(f1_score(*classes(examples), average="binary"))


def macro_precision(examples: Examples) -> float:
    """The mean precision."""
    return float(precision_score(*classes(examples), average="macro", zero_division=0.0))


def macro_recall(examples: Examples) -> float:
    """The mean recall."""
    return float(recall_score(*classes(examples), average="macro", zero_division=0.0))


def texts(examples: Examples) -> tuple[list[str], list[str]]:
    """Return outputs and references in NFC."""
    return (
        [unicodedata.normalize("NFC", e.output) for e in examples],
        [unicodedata.normalize("NFC", e.references[0]) for e in examples],
    )


def bleu(examples: Examples) -> float:
    """sacrebleu's own function, into Korean."""
    outputs, references = texts(examples)
    return sacrebleu.corpus_bleu(outputs, [references], tokenize="ko-mecab").score / 100


def bleu_13a(examples: Examples) -> float:
    """sacrebleu's own function, into English."""
    outputs, references = texts(examples)
    return sacrebleu.corpus_bleu(outputs, [references]).score / 100


def chrf(examples: Examples) -> float:
    """sacrebleu's chrF++."""
    outputs, references = texts(examples)
    return sacrebleu.corpus_chrf(outputs, [references], word_order=2).score / 100


def rouge(kind: str) -> Reference:
    """korouge-score's F over white space, of which it makes empty tokens at the ends of a text."""

    def of(examples: Examples) -> float:
        scorer = rouge_scorer.RougeScorer([kind])
        pairs = zip(*texts(examples), strict=True)
        return float(np.mean([scorer.score(r.strip(), o.strip())[kind].fmeasure for o, r in pairs]))

    return of


OFFICIAL: dict[tuple[str, str], dict[str, Reference]] = {
    ("klue", "ynat"): {"macro_f1": macro_f1, "accuracy": accuracy},
    ("klue", "sts"): {"pearson": pearson, "f1_at_3": f1_at_3, "spearman": spearman},
    ("klue", "nli"): {"accuracy": accuracy, "macro_f1": macro_f1},
    ("klue", "ner"): {"entity_f1": entity_f1, "character_macro_f1": character_macro_f1},
    ("klue", "re"): {"re_micro_f1": re_micro_f1, "re_auprc": re_auprc},
    ("klue", "dp"): {"uas": uas, "las": las, "las_accuracy": las_accuracy},
    ("klue", "mrc"): {"klue_exact_match": klue_exact_match, "klue_rouge_w": klue_rouge_w},
    ("klue", "wos"): {"joint_goal_accuracy": joint_goal_accuracy, "slot_f1": slot_f1},
    ("qa", "korquad"): {"exact_match": exact_match, "char_f1": char_f1},
    ("kobest", "hellaswag"): {"macro_f1": macro_f1, "accuracy": accuracy},
    ("kobest", "wic"): {"macro_f1": macro_f1, "accuracy": accuracy},
    ("classification", "pawsx_ko"): {
        "f1": positive_f1,
        "macro_precision": macro_precision,
        "macro_recall": macro_recall,
    },
    ("translation", "tatoeba_en_ko"): {"bleu": bleu, "chrf": chrf},
    ("translation", "flores200_ko_en"): {"bleu:13a": bleu_13a, "chrf": chrf},
    ("summarization", "sae4k"): {
        "rouge_1:space": rouge("rouge1"),
        "rouge_2:space": rouge("rouge2"),
        "rouge_l:space": rouge("rougeL"),
    },
    ("classification", "korsts"): {"spearman": spearman, "pearson": pearson},
}
ANSWERS = ("gold", "empty", "shuffled", "noise")


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize(("suite", "task"), OFFICIAL)
def test_a_metric_equals_its_official_definition(
    suite: str, task: str, answers: str, gold: Callable[[BuiltTask], LM]
) -> None:
    """On gold answers, none, those of other rows, and damaged ones, over the whole split."""
    examples = answered(answers, gold_examples(suite, task, gold))
    for name, reference in OFFICIAL[suite, task].items():
        assert load_metric(name).value(examples) == pytest.approx(100.0 * reference(examples), abs=1e-9), name


@cache
def gold_examples(suite: str, task: str, gold: Callable[[BuiltTask], LM]) -> tuple[Example, ...]:
    """Return a whole split, answered right."""
    ((found, wanted),) = select_tasks([suite], [task])
    built = build_task(found, wanted, TaskSettings(DATA))
    return evaluate_task(gold(built), built).examples


def answered(answers: str, examples: Examples) -> list[Example]:
    """Return *examples* with other answers."""
    rng = random.Random(0)
    if answers == "gold":
        return list(examples)
    if answers == "empty":
        return [reanswered(e, "", (), tuple(0.0 for _ in e.choices)) for e in examples]
    if answers == "shuffled":
        others = rng.sample(examples, len(examples))
        return [
            reanswered(e, o.output, o.output_labels, o.loglikelihoods) for e, o in zip(examples, others, strict=True)
        ]
    pool = sorted({label for e in examples for label in e.target_labels})
    return [damaged(e, rng, pool) for e in examples]


def damaged(example: Example, rng: random.Random, pool: Sequence[str]) -> Example:
    """Return *example* with a fifth of its characters or labels wrong, or with random log-likelihoods."""
    text = "".join(rng.choice((c, c, c, c, "")) for c in example.output)
    labels = tuple(rng.choice(pool) if rng.random() < 0.2 else label for label in example.output_labels)
    # rounded, so that some are equal
    return reanswered(example, text, labels, tuple(round(rng.gauss(0, 2), 1) for _ in example.choices))


def reanswered(example: Example, text: str, labels: Sequence[str], loglikelihoods: Sequence[float]) -> Example:
    """Return *example* answered by these; labels of another length are malformed, but for sets of slots."""
    slots = example.task.startswith("klue:wos")
    misfit = bool(example.target_labels) and not slots and len(labels) != len(example.target_labels)
    value = None
    if example.target_value is not None:
        value = float(softmax(np.array(loglikelihoods)) @ np.array([float(c) for c in example.choices]))
    return example.model_copy(
        update={
            "output": text,
            "output_labels": ("",) * len(example.target_labels) if misfit else tuple(labels),
            "loglikelihoods": tuple(loglikelihoods),
            "output_choice": int(np.argmax(loglikelihoods)) if example.choices else None,
            "output_value": value,
        }
    )
