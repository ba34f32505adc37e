"""Run a built task through lm-eval and score the outputs."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from bitnet_bench.data.characters import is_blank
from bitnet_bench.errors import BenchError, RowError, UsageError
from bitnet_bench.evaluation.extraction import find_choice
from bitnet_bench.evaluation.generation import GeneratedText
from bitnet_bench.evaluation.harness_tasks import HARNESS_METRIC, convert_harness_scores
from bitnet_bench.evaluation.instructions import check_known, label_instructions
from bitnet_bench.evaluation.local_rows import compute_rows_digest
from bitnet_bench.evaluation.number_extraction import find_number
from bitnet_bench.evaluation.row_fields import find_null, find_unfit_text
from bitnet_bench.evaluation.tasks import BuiltTask
from bitnet_bench.metrics import Metric, load_metric
from bitnet_bench.metrics.several_answers import list_several_answer_metrics
from bitnet_bench.runs.records import Answer, Example, Score
from bitnet_bench.statistics import RESAMPLES

_log = logging.getLogger(__name__)
EACH_FILTERED = "each_filtered"
"""Key of the filtered answers of a sample that has several."""
NO_ANSWER = "(no answer)"
"""Output of a row without an answer where an empty one would be right."""
IMPOSSIBLE_LOGLIKELIHOOD = -1e4
"""Log-probability (nats) that stands for an answer that is never given."""


@dataclass(frozen=True)
class TaskResult:
    """Scores of one task, its examples in order, and the digest of its rows."""

    name: str
    scores: tuple[Score, ...]
    examples: tuple[Example, ...]
    rows_sha256: str


def check_rows(built: BuiltTask, limit: int | None) -> None:
    """Refuse rows that cannot be asked or scored before a model is loaded: BenchError names file and line.

    Prompts are built, and the metrics are computed for one answer to each row with choices, and to the first row whose
    answer is generated.
    """
    if built.task.kind == "open":  # its rows were checked when they were read
        return
    for doc_id, doc in enumerate(islice(built.lm_task.test_docs(), limit)):
        try:
            _try_row(built, doc, doc_id)
        except BenchError:
            raise
        except Exception as error:  # a task's module may raise anything for a malformed row
            raise BenchError(
                f"{built.describe_row(doc_id)} does not fit {built.name}: {_name_fault(error)}.",
                "Correct or remove the row.",
            ) from error
    _warn_of_equal_choices(built, limit)


def _name_fault(error: Exception) -> str:
    """Return what a row's exception says: the sentence of a ValueError, else its type as well."""
    said = str(error).strip().rstrip(".")
    return said if said and isinstance(error, ValueError) else repr(error)


def _warn_of_equal_choices(built: BuiltTask, limit: int | None) -> None:
    """Warn of the rows in which two choices are one text: the model cannot prefer the right one."""
    if built.lm_task.OUTPUT_TYPE != "multiple_choice" or not built.has_own_rows:
        return
    choices = (built.lm_task.doc_to_choice(doc) for doc in islice(built.lm_task.test_docs(), limit))
    equal = [doc_id for doc_id, some in enumerate(choices) if len({str(one).strip() for one in some}) < len(some)]
    if equal:
        _log.warning(
            "%s: %s rows have equal choices, of which the first is taken; the first such row: %s.",
            built.name,
            f"{len(equal):,}",
            built.describe_row(equal[0]),
        )


def _try_row(built: BuiltTask, doc: Any, doc_id: int) -> None:
    """Build the prompt of a row and score one answer to it; errors are raised."""
    task = built.lm_task
    null = find_null(task, doc)
    if null is not None:
        raise BenchError(
            f'{built.describe_row(doc_id)} has a null in "{null}", which would be read as the word None.',
            "Give the field a text, or remove the row.",
        )
    gold = _read_gold_answer(built, doc, doc_id)
    if HARNESS_METRIC in built.task.metrics:
        task.doc_to_text(doc)
        return
    prompt = task.doc_to_text(doc)
    if not isinstance(prompt, str):
        raise BenchError(
            f"{built.describe_row(doc_id)} has the prompt {prompt!r}, which lm-eval reads as a number.",
            "A prompt needs more than digits.",
        )
    choices = [str(choice) for choice in task.doc_to_choice(doc)] if gold.choice is not None else []
    blank = next((place for place, choice in enumerate(choices, 1) if is_blank(choice)), None)
    if blank is not None:
        raise BenchError(
            f"{built.describe_row(doc_id)} has no text in choice {blank} of {len(choices)}.",
            "Give it one, or remove the row.",
        )
    if built.has_own_rows:
        _check_own_texts(built, doc, doc_id, gold)
    answers: list[Any] = [gold.target]
    if choices and task.OUTPUT_TYPE == "multiple_choice":
        answers = [(-1.0, False)] * len(choices)
    elif task.OUTPUT_TYPE == "loglikelihood_rolling":
        answers = [-1.0]
    example = _make_example(built, {"doc": doc, "doc_id": doc_id, "arguments": [[prompt]], "filtered_resps": answers})
    for key in built.task.metrics if choices or doc_id == 0 else ():
        load_metric(key).score_example(example)


def _check_own_texts(built: BuiltTask, doc: Any, doc_id: int, gold: _GoldAnswer) -> None:
    """Refuse what the task would show as a text and is none, a text with nothing to see, and an empty gold text."""
    unfit = find_unfit_text(built.lm_task, doc)
    if unfit is not None:
        field, what = unfit
        raise BenchError(
            f'{built.describe_row(doc_id)} has {what} in "{field}", where {built.name} needs a text.',
            "Write the text that is meant (a number in quotation marks), or remove the row.",
        )
    by_function = built.hooks.references(doc) is not None or callable(built.lm_task.config.doc_to_target)
    # a task's own code gives an empty text on purpose, such as for a question without an answer
    if gold.choice is None and not gold.labels and not by_function and all(map(is_blank, gold.references)):
        raise BenchError(
            f"{built.describe_row(doc_id)} has no text in its gold answer, and any output would be wrong.",
            "Give it one, or remove the row.",
        )


@dataclass(frozen=True)
class AskedRow:
    """A row as its task asks it, without examples or a chat template."""

    prompt: str
    choices: tuple[str, ...]
    delimiter: str
    """Text between the prompt and an answer."""
    answer: str
    references: tuple[str, ...]
    """All answers that count as right, where more than one does."""


def ask_row(built: BuiltTask, doc_id: int = 0) -> tuple[dict[str, Any], AskedRow]:
    """Return a test row and how it is asked; BenchError if it does not fit its task."""
    task = built.lm_task
    if built.task.kind == "open":
        question = task.questions[doc_id]
        return task.rows[doc_id], AskedRow(question.prompt, (), "", question.reference, ())
    doc = next(islice(task.test_docs() if task.has_test_docs() else task.validation_docs(), doc_id, None))
    gold = _read_gold_answer(built, doc, doc_id)
    choices = tuple(str(choice) for choice in task.doc_to_choice(doc)) if gold.choice is not None else ()
    prompt = str(task.doc_to_text(doc))
    delimiter = "" if task.OUTPUT_TYPE == "loglikelihood_rolling" else str(task.config.target_delimiter)
    references = gold.references if len(gold.references) > 1 else ()
    return dict(doc), AskedRow(f"{task.config.description}{prompt}", choices, delimiter, gold.target, references)


def check_repeats(built: BuiltTask, repeats: int) -> None:
    """Refuse several answers to each row of a task that lm-eval scores itself, or of an open one: both take one."""
    if repeats > 1 and built.task.kind == "open":
        raise UsageError(f"{built.name} is answered once, turn after turn.", "Leave `repeats` out, or this task.")
    if repeats > 1 and HARNESS_METRIC in built.task.metrics and built.lm_task.OUTPUT_TYPE == "generate_until":
        raise UsageError(
            f"lm-eval scores {built.name} itself, by one answer to each row.",
            "Leave `repeats` out, or choose a suite of this project.",
        )


def evaluate_task(
    lm: Any,
    built: BuiltTask,
    limit: int | None = None,
    chat_template: bool = False,
    repeats: int = 1,
    system: str | None = None,
) -> TaskResult:
    """Score *lm* (`lm_eval.api.model.LM`) on the first *limit* rows of a task, or on all.

    Each row whose answer is generated is answered *repeats* times, after the *system* turn of the chat template.
    """
    if built.task.kind == "open":
        from bitnet_bench.evaluation.open_run import answer_open_task

        return TaskResult(built.name, (), *answer_open_task(lm, built, limit, system))
    # metrics of this project compute their own standard errors
    resamples = RESAMPLES if HARNESS_METRIC in built.task.metrics else 0
    results = ask_task(lm, built, limit, chat_template, repeats, system, resamples)
    samples = list_samples(built, results)
    if built.lm_task.OUTPUT_TYPE == "generate_until" and repeats > 1:
        _filter_each_answer(built.lm_task, samples)
    examples = [_make_example(built, sample) for sample in samples]
    digest = compute_rows_digest(sample["doc"] for sample in samples)
    if HARNESS_METRIC not in built.task.metrics:
        return score_examples(built, examples, digest)
    scores = convert_harness_scores(built.name, results["results"][built.lm_task.task_name], len(examples))
    right = [sample.get(scores[0].metric, 0.0) if scores else 0.0 for sample in samples]
    own = tuple(e.model_copy(update={"correct": float(r)}) for e, r in zip(examples, right, strict=True))
    return TaskResult(built.name, scores, own, digest)


def list_samples(built: BuiltTask, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the samples that lm-eval logged, in the order of the rows."""
    return sorted(results["samples"][built.lm_task.task_name], key=lambda sample: int(sample["doc_id"]))


def ask_task(
    lm: Any,
    built: BuiltTask,
    limit: int | None,
    chat_template: bool,
    repeats: int = 1,
    system: str | None = None,
    resamples: int = 0,
) -> Mapping[str, Any]:
    """Ask *lm* what `evaluate_task` scores, and return lm-eval's results; *resamples*: of its own standard errors."""
    from lm_eval import evaluator

    generates = built.lm_task.OUTPUT_TYPE == "generate_until"
    lm.asks_choices = not generates
    if generates and HARNESS_METRIC not in built.task.metrics:
        built.lm_task.set_config("repeats", repeats)
    try:
        results = evaluator.evaluate(
            lm,
            {"tasks": {built.lm_task.task_name: built.lm_task}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=resamples,
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            system_instruction=system,
        )
    except RowError as error:
        if error.row is None:
            raise
        raise BenchError(f"{built.describe_row(error.row)} {error.what}.", error.hint) from error
    answered: Mapping[str, Any] = results
    return answered


def score_examples(built: BuiltTask, examples: Sequence[Example], rows_sha256: str) -> TaskResult:
    """Return every metric of the task over *examples*, with chance and majority."""
    primary = load_metric(built.task.metrics[0])
    examples = [_score_answers(primary, example) for example in examples]
    constant = _answer_with_majority(built, examples)
    added = list_several_answer_metrics(built.task.metrics, len(examples[0].answers))
    keys = dict.fromkeys((*built.task.metrics, *added))
    scores = tuple(_make_score(built, key, examples, constant) for key in keys)
    return TaskResult(built.name, scores, tuple(examples), rows_sha256)


def _score_answers(primary: Metric, example: Example) -> Example:
    """Return *example* with the score of each answer, and their mean as its own."""
    scores = [primary.score_example(one) for one in example.each_answer()]
    answers = zip(example.answers, scores if example.answers else (), strict=True)
    marked = tuple(answer.model_copy(update={"correct": score}) for answer, score in answers)
    return example.model_copy(update={"correct": sum(scores) / len(scores), "answers": marked})


def _make_score(built: BuiltTask, key: str, examples: Sequence[Example], constant: Sequence[Example]) -> Score:
    found = load_metric(key, len(examples[0].answers))
    primary = key == built.task.metrics[0]
    groups = group_examples(examples)
    return Score(
        task=built.name,
        metric=key,
        value=found.value(examples),
        stderr=found.stderr(examples),
        n=len(examples),
        signature=found.signature(),
        primary=primary,
        chance=_compute_chance(built, examples) if primary else None,
        majority=found.value(constant) if constant else None,
        limits=found.limits,
        lower_is_better=found.lower_is_better,
        parts=found.parts(examples) | {name: found.value(rows) for name, rows in groups.items()},
        part_counts={name: len(rows) for name, rows in groups.items()},
        part_errors={name: error for name, rows in groups.items() if (error := found.stderr(rows)) is not None},
    )


def _compute_chance(built: BuiltTask, examples: Sequence[Example]) -> float:
    """Return the task's chance; of rows with different numbers of choices, the mean of 1 / choices, 0..100."""
    if not built.task.mixed_choices:
        return built.task.chance
    return 100.0 * math.fsum(1.0 / len(example.choices) for example in examples) / len(examples)


def group_examples(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Return the examples of each group, by its kind and name such as `category=history`, in order of the names."""
    found: dict[str, list[Example]] = {}
    for example in examples:
        for kind, name in example.groups.items():
            found.setdefault(f"{kind}={name}", []).append(example)
    return dict(sorted(found.items()))


def _answer_with_majority(built: BuiltTask, examples: Sequence[Example]) -> list[Example]:
    """Return the examples, each answered with the most frequent target; [] if the task has no choices."""
    if not all(e.choices for e in examples):
        return []
    ((most, _count),) = Counter(e.target_choice for e in examples).most_common(1)
    return [_answer_with(built, e, most) for e in examples]


def _answer_with(built: BuiltTask, example: Example, choice: int | None) -> Example:
    """Return the example answered with *choice*, each time; with none of its choices if it has fewer."""
    if choice is None or choice >= len(example.choices):
        answered = example.model_copy(update={"output": "", "output_choice": None, "malformed": True})
    else:
        lls = [0.0 if i == choice else IMPOSSIBLE_LOGLIKELIHOOD for i in range(len(example.choices))]
        answered = _answer_by_choice(built, example, lls)
    return answered.model_copy(update={"answers": (_pick_answer(answered),) * len(example.answers)})


@dataclass(frozen=True)
class _GoldAnswer:
    """The gold answer of a row, in the form that its task uses."""

    target: str
    references: tuple[str, ...] = ()
    choice: int | None = None
    labels: tuple[str, ...] = ()
    value: float | None = None


def _read_gold_answer(built: BuiltTask, doc: Any, doc_id: int) -> _GoldAnswer:
    task, hooks = built.lm_task, built.hooks
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        text = str(task.doc_to_target(doc))
        return _GoldAnswer(text, (text,))
    target = _target(task, doc)
    if has_choices(built.lm_task):
        choices = [str(choice) for choice in task.doc_to_choice(doc)]
        choice = _find_choice_index(built, doc_id, target, choices)
        return _GoldAnswer(choices[choice], choice=choice, value=hooks.value(doc))
    targets = list(target) if isinstance(target, list | tuple) else [target]
    wrong = next((one for one in targets if not isinstance(one, str)), None)
    if wrong is not None or not targets:
        raise BenchError(
            f"{built.describe_row(doc_id)} has the gold answer {target!r}, which is no text.",
            "Write it as a text, in quotation marks, or as a list of texts.",
        )
    references = hooks.references(doc)
    if built.task.extracts == "instructions":
        check_known(doc["instruction_id_list"], doc["kwargs"])
        return _GoldAnswer(targets[0], labels=tuple(doc["instruction_id_list"]))
    return _GoldAnswer(
        targets[0], tuple(targets if references is None else references), labels=tuple(hooks.labels(doc))
    )


def has_choices(task: Any) -> bool:
    """Return whether the rows of lm-eval's *task* have choices: to be compared, or to be read out of a text."""
    if task.OUTPUT_TYPE == "generate_until":
        return task.config.doc_to_choice is not None
    return bool(task.OUTPUT_TYPE == "multiple_choice")


def _target(task: Any, doc: Any) -> Any:
    """Return lm-eval's target of a row; a text such as "[1, 2]" stays a text, which lm-eval would parse as a list.

    A list in the row itself stays a list, and holds several references.
    """
    from lm_eval.utils import apply_template

    target = task.doc_to_target(doc)
    template = task.config.doc_to_target
    if (
        task.OUTPUT_TYPE != "generate_until"
        or has_choices(task)
        or isinstance(target, str)
        or not isinstance(template, str)
    ):
        return target
    return target if template in task.features or _holds(doc, target) else apply_template(template, doc)


def _holds(value: Any, wanted: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value == wanted or any(_holds(one, wanted) for one in inner)


def _find_choice_index(built: BuiltTask, doc_id: int, target: Any, choices: Sequence[str]) -> int:
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    if isinstance(target, int) and 0 <= target < len(choices):
        return target
    raise BenchError(
        f"{built.describe_row(doc_id)} has the label {target!r}, which is none of its {len(choices)} choices.",
        "Correct the row; a label outside the set cannot be scored.",
    )


def _make_example(built: BuiltTask, sample: dict[str, Any]) -> Example:
    """Convert a sample that lm-eval logged to an `Example`."""
    doc, doc_id = sample["doc"], int(sample["doc_id"])
    gold = _read_gold_answer(built, doc, doc_id)
    asked = Example(
        task=built.name,
        doc_id=doc_id,
        prompt=sample["arguments"][0][0],
        target=gold.target,
        target_choice=gold.choice,
        references=gold.references,
        target_labels=gold.labels,
        target_value=gold.value,
        groups=dict(built.hooks.groups(doc)),
        output="",
        correct=0.0,
    )
    responses = sample["filtered_resps"]
    if built.lm_task.OUTPUT_TYPE == "loglikelihood_rolling":
        return asked.model_copy(update={"loglikelihoods": (float(responses[0]),)})
    if has_choices(built.lm_task):
        choices = tuple(str(choice) for choice in built.lm_task.doc_to_choice(doc))
        asked = asked.model_copy(update={"choices": choices})
    if built.lm_task.OUTPUT_TYPE == "multiple_choice":
        return _answer_by_choice(built, asked, [float(ll) for ll, _ in responses])
    texts = sample["resps"][0] if "resps" in sample else responses  # a row is tried without a model
    outputs = sample.get(EACH_FILTERED, responses[:1])
    answered = [_answer_by_text(built, asked, doc, *pair) for pair in zip(outputs, texts[: len(outputs)], strict=True)]
    if len(answered) == 1:
        return answered[0]
    return answered[0].model_copy(update={"answers": tuple(map(_pick_answer, answered))})


def _pick_answer(example: Example) -> Answer:
    """Return the answer of an example that has one."""
    return Answer(**{name: getattr(example, name) for name in Answer.model_fields})


def _filter_each_answer(task: Any, samples: Sequence[dict[str, Any]]) -> None:
    """Add to each sample what the task's filters make of each of its answers alone: together they keep the first."""
    found: dict[int, list[str]] = {int(sample["doc_id"]): [] for sample in samples}
    for draw in range(len(samples[0]["resps"][0])):
        alone = [replace(one, resps=[one.resps[draw]], filtered_resps={}) for one in task.instances]
        for one in task._filters:
            one.apply(alone)
        for instance in alone:
            found[instance.doc_id].append(instance.filtered_resps[samples[0]["filter"]])
    for sample in samples:
        sample[EACH_FILTERED] = found[int(sample["doc_id"])]


def _answer_by_choice(built: BuiltTask, asked: Example, loglikelihoods: Sequence[float]) -> Example:
    """Return an example of a task with choices, answered by the most likely one."""
    choice = loglikelihoods.index(max(loglikelihoods))
    values = built.hooks.values
    return asked.model_copy(
        update={
            "loglikelihoods": tuple(loglikelihoods),
            "output": asked.choices[choice],
            "output_choice": choice,
            "output_value": _expected_value(loglikelihoods, values) if values else None,
        }
    )


def _expected_value(loglikelihoods: Sequence[float], values: Sequence[float]) -> float:
    """Return the mean of *values* under the softmax of *loglikelihoods*."""
    top = max(loglikelihoods)
    weights = [math.exp(ll - top) for ll in loglikelihoods]
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def _answer_by_text(built: BuiltTask, asked: Example, doc: Any, filtered: Any, text: str) -> Example:
    """Return an example of a task that generates; an output outside the task's grammar matches no gold label.

    Scored is the *filtered* text. Without an answer after a thought, the output matches no gold text either.
    """
    hooks = built.hooks
    output = hooks.read(str(filtered).strip())
    if isinstance(text, GeneratedText):
        asked = asked.model_copy(update={"cut": text.cut, "thought": text.thought, "unfinished": text.unfinished})
    if asked.unfinished:
        output = NO_ANSWER if any(is_blank(reference) for reference in asked.references) else ""
    found: dict[str, Any] = {"output": output, "malformed": asked.unfinished}
    if has_choices(built.lm_task) or built.task.extracts:
        found |= _extract(built, asked, doc, "" if asked.unfinished else output)
    elif hooks.parse is not None:
        labels = None if asked.unfinished else hooks.parse(output, doc)
        found["malformed"] = labels is None
        found["output_labels"] = ("",) * max(1, len(asked.target_labels)) if labels is None else tuple(labels)
    return asked.model_copy(update=found)


def _extract(built: BuiltTask, asked: Example, doc: Any, output: str) -> dict[str, Any]:
    """Return what is read out of a text: a choice, a number, or which instructions it follows."""
    if has_choices(built.lm_task):
        choice = find_choice(output, asked.choices, built.hooks.options(doc))
        return {"output_choice": choice, "malformed": choice is None}
    if built.task.extracts == "number":
        number = find_number(output)
        return {"output_labels": (number or "",), "malformed": number is None}
    return {"output_labels": label_instructions(output, doc["instruction_id_list"], doc["kwargs"])}


def list_training_pairs(built: BuiltTask, limit: int | None) -> tuple[list[tuple[str, str]], int]:
    """Return (prompt, response) of the training split, in the exact text of evaluation with its delimiter.

    The second value is the number of rows that were left out because they are also test rows.
    """
    task = built.lm_task
    documents, overlap = built.list_training_documents()
    pairs = []
    nulls = 0
    for doc in documents[:limit]:
        if find_null(task, doc) is not None:
            nulls += 1
            continue
        target = _target(task, doc)
        if has_choices(built.lm_task) and isinstance(target, int):
            target = task.doc_to_choice(doc)[target]
        elif not isinstance(target, str):
            target = target[0]
        pairs.append((task.doc_to_text(doc), f"{task.config.target_delimiter}{target}"))
    if nulls:
        _log.warning("%s: %s training rows are left out, because they hold null in place of text.", built.name, nulls)
    return pairs, overlap
