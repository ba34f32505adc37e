"""Let a judge score the open answers of one run, or compare those of two, and add what it said to their records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.conversations import ChatLM
from bitnet_bench.evaluation.evaluate import describe_model, open_language_model
from bitnet_bench.files import is_file
from bitnet_bench.judging.agreement import compare_points, compare_preferences
from bitnet_bench.judging.asking import (
    JudgeRequest,
    Verdict,
    VerdictFile,
    ask_judge,
    list_pair_requests,
    list_single_requests,
)
from bitnet_bench.judging.prompts import JudgePrompt, read_prompt
from bitnet_bench.judging.scoring import (
    WIN_RATE_SCALE,
    count_pairs,
    count_verdicts,
    summarize_questions,
    value_pairs,
    value_single,
)
from bitnet_bench.judging.verdicts import PARSER_VERSION
from bitnet_bench.protocols import ProgressDisplay, no_display, show_phase
from bitnet_bench.runs.folder import (
    RECORD_FILE,
    load_record_to_extend,
    load_samples,
    lock_folder,
    resolve_inside,
    save_record,
)
from bitnet_bench.runs.jobs import EvaluateJob, JudgeJob
from bitnet_bench.runs.records import AnsweredTurn, Example, JudgedScore, RunRecord

OpenJudge = Callable[[RunRecord, EvaluateJob], AbstractContextManager[ChatLM]]
"""Function that loads the judge of a record (`describe_model`), as the job says."""
JUDGED_FOLDER = "judged"
"""Folder of the verdicts in a run folder."""


@dataclass(frozen=True)
class JudgedRun:
    """A run whose answers are judged, and the folder that takes what is said."""

    folder: Path
    record: RunRecord
    out: Path

    def load_answers(self, task: str, limit: int | None) -> list[Example]:
        """Return the first *limit* questions of a task with their answers, each with its turns."""
        return [_with_turns(example) for example in load_samples(self.folder, [task])[:limit]]


@dataclass(frozen=True)
class _Sitting:
    """What a judge is asked about one task of one run, or of two."""

    task: str
    run: JudgedRun
    other: JudgedRun | None
    examples: Sequence[Example]
    requests: Sequence[JudgeRequest]
    kept: VerdictFile


def judge_runs(
    folders: Sequence[Path],
    model: str,
    job: JudgeJob,
    runtime: EvaluateJob,
    steps: ProgressDisplay = no_display,
    open_judge: OpenJudge = open_language_model,
) -> list[RunRecord]:
    """Let *model* judge the open answers of the runs in *folders*, and return their records with its scores.

    *runtime* says how the judge is run. Verdicts stand in the run folder (`judged/`), or in `job.out`, which leaves the
    runs as they are. Called again after a kill, only what is missing is asked; if nothing is, no model is loaded.
    """
    mode = job.mode or ("single" if len(folders) == 1 else "pairwise")
    if mode == "pairwise" and len(folders) != 2:
        raise UsageError("A pairwise judgement needs two runs.", "Name both, or give `mode=single`.")
    outs = [Path(job.out) / folder.resolve().name if job.out else folder.resolve() for folder in folders]
    if len(set(outs)) < len(outs):
        raise UsageError(
            f"{folders[0]} and {folders[1]} are one folder, or would share one.", "Name two other folders."
        )
    prompt = read_prompt(mode, Path(job.prompt) if job.prompt else None)
    judge = describe_model(model, runtime)
    signature = sign_judge(judge, prompt, job)
    with ExitStack() as held:
        runs = [held.enter_context(_open_judged_run(*both)) for both in zip(folders, outs, strict=True)]
        pairs = [(runs[0], runs[1])] if mode == "pairwise" else [(run, None) for run in runs]
        sittings = [
            _prepare(run, other, task, prompt, job, signature)
            for run, other in pairs
            for task in _choose_tasks(run, other, job.tasks)
        ]
        _ask_what_is_missing(sittings, prompt, judge, job, steps, lambda: open_judge(judge, runtime))
        scores = [score for sitting in sittings for score in _score(sitting, prompt, judge, signature)]
        return [_keep_scores(run, [score for owner, score in scores if owner is run]) for run in runs]


def sign_judge(judge: RunRecord, prompt: JudgePrompt, job: JudgeJob) -> str:
    """Return everything that decides a verdict, as one line; the weights, their files and the prompt by digests."""
    files = hashlib.sha256(json.dumps(judge.inputs, sort_keys=True).encode()).hexdigest()
    activations = judge.settings.get("activations")
    parts = {
        "judge": judge.checkpoint.source,
        "weights": judge.checkpoint.weights_id[:16],
        **({"files": files[:16]} if judge.inputs else {}),
        "backend": judge.backend,
        "precision": judge.precision,
        **({"activations": activations} if activations else {}),
        **({"kv_cache": judge.settings["kv_cache"]} if "kv_cache" in judge.settings else {}),
        "prompt": f"{prompt.name}@{prompt.version}",
        "prompt_sha256": prompt.sha256[:16],
        "mode": prompt.mode,
        "max_new_tokens": job.max_new_tokens,
        "decoding": "greedy",
        "parser": PARSER_VERSION,
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


@contextmanager
def _open_judged_run(folder: Path, out: Path) -> Iterator[JudgedRun]:
    """Yield the run in *folder*, and lock the folder *out*, whose record will be written."""
    record = load_record_to_extend(folder)
    with lock_folder(out):
        if is_file(out / RECORD_FILE):
            record = load_record_to_extend(out)
        yield JudgedRun(folder, record, out)


def _choose_tasks(run: JudgedRun, other: JudgedRun | None, named: Sequence[str]) -> list[str]:
    """Return the tasks *named*, or all open ones; BenchError if there is nothing to judge."""
    runs = [one for one in (run, other) if one is not None]
    they_have = f"{' and '.join(str(one.folder) for one in runs)} {'has' if len(runs) == 1 else 'have'}"
    answered = [task for task in run.record.samples if all(task in one.record.samples for one in runs)]
    for task in named:
        if task not in answered:
            raise BenchError(
                f"{they_have} no answers to {task}.",
                f"There are: {', '.join(answered) or 'none'}.",
            )
    tasks = list(named) or [task for task in answered if task in run.record.answered]
    if not tasks:
        raise BenchError(
            f"{they_have} no open answers.",
            "`bitnet-bench evaluate --suite open --out RUN` writes some; or name a `task` whose answers are generated.",
        )
    return tasks


def _prepare(
    run: JudgedRun, other: JudgedRun | None, task: str, prompt: JudgePrompt, job: JudgeJob, signature: str
) -> _Sitting:
    """Return what is asked about a task; BenchError if there is nothing to judge, or two runs are not comparable."""
    examples = run.load_answers(task, job.limit)
    if not examples or any(example.target_choice is not None for example in examples):
        raise BenchError(
            f"{run.folder} has no written answers to {task}.", "Name a task whose answers are texts, not choices."
        )
    if other is None:
        requests = list_single_requests(prompt, examples)
    else:
        others = other.load_answers(task, job.limit)
        _check_same_questions(run, other, task, examples, others)
        requests = list_pair_requests(prompt, examples, others)
    file = _name_verdict_file(run, other, task, prompt, signature)
    return _Sitting(task, run, other, examples, requests, VerdictFile(file, prompt, requests))


def _with_turns(example: Example) -> Example:
    """Return an example with its turns; an answer to any other task is one turn, with the gold answer as reference."""
    if example.turns or example.target_choice is not None:
        return example
    turn = AnsweredTurn(question=example.prompt, answer=example.output, reference=example.target or None)
    return example.model_copy(update={"turns": (turn,)})


def _check_same_questions(
    run: JudgedRun, other: JudgedRun, task: str, examples: Sequence[Example], others: Sequence[Example]
) -> None:
    asked = [
        [(example.doc_id, *(turn.question for turn in example.turns)) for example in answered]
        for answered in (examples, others)
    ]
    if asked[0] != asked[1]:
        raise BenchError(
            f"{run.folder} and {other.folder} did not answer the same questions of {task}.",
            "Evaluate both on the same rows with the same `limit` and prompts.",
        )


def _name_verdict_file(run: JudgedRun, other: JudgedRun | None, task: str, prompt: JudgePrompt, signature: str) -> Path:
    """Return the file of the verdicts of one judge about one task: another judge, prompt or opponent has another."""
    decides = [signature, run.record.name, *([other.record.name, other.record.checkpoint.sha256] if other else [])]
    digest = hashlib.sha256("\n".join(decides).encode()).hexdigest()
    name = f"{JUDGED_FOLDER}/{task.replace(':', '-')}-{prompt.mode}-{digest[:12]}.jsonl"
    return resolve_inside(run.out, name)


def _ask_what_is_missing(
    sittings: Sequence[_Sitting],
    prompt: JudgePrompt,
    judge: RunRecord,
    job: JudgeJob,
    steps: ProgressDisplay,
    open_judge: Callable[[], AbstractContextManager[ChatLM]],
) -> None:
    """Open the judge if a verdict is missing, and ask for it."""
    left = [sitting for sitting in sittings if sitting.kept.groups_left]
    if not left:
        return
    with ExitStack() as stack:
        with show_phase(steps, f"load {judge.checkpoint.source} into {judge.backend}"):
            lm = stack.enter_context(open_judge())
        for sitting in left:
            names = " - ".join(run.record.name for run in (sitting.run, sitting.other) if run)
            with steps(f"judge {names} {sitting.task}, verdicts") as progress:
                ask_judge(lm, prompt, sitting.kept, job.max_new_tokens, progress)


def _score(
    sitting: _Sitting, prompt: JudgePrompt, judge: RunRecord, signature: str
) -> list[tuple[JudgedRun, JudgedScore]]:
    """Return the score of each run that the verdicts are about."""
    verdicts, digest = sitting.kept.finish()
    run, other = sitting.run, sitting.other
    known: dict[str, Any] = {
        "task": sitting.task,
        "mode": prompt.mode,
        "judge": judge.checkpoint.source,
        "signature": signature,
        "prompt": f"{prompt.name} {prompt.version}",
        "prompt_sha256": prompt.sha256,
        "is_own": _judges_itself(judge, run, other),
        "verdicts_file": f"{JUDGED_FOLDER}/{sitting.kept.file.name}",
        "verdicts_sha256": digest,
        **count_verdicts(verdicts),
    }
    if other is None:
        questions = value_single(sitting.examples, verdicts)
        people = compare_points(sitting.task, run.record, questions)
        return [(run, JudgedScore(**known, **summarize_questions(questions, prompt.scale), people=people))]
    return [
        (run, _score_pairs(sitting, verdicts, known, run, other)),
        (other, _score_pairs(sitting, list(map(_mirror, verdicts)), {**known, "verdicts_file": ""}, other, run)),
    ]


def _judges_itself(judge: RunRecord, *runs: JudgedRun | None) -> bool:
    weights = judge.checkpoint.weights_id
    return any(run.record.checkpoint.weights_id == weights for run in runs if run is not None)


def _mirror(verdict: Verdict) -> Verdict:
    """Return a verdict as it looks from the other run: its answer was shown in the other place."""
    return verdict.model_copy(update={"order": {"ab": "ba", "ba": "ab"}.get(verdict.order, verdict.order)})


def _score_pairs(
    sitting: _Sitting, verdicts: Sequence[Verdict], known: dict[str, Any], run: JudgedRun, other: JudgedRun
) -> JudgedScore:
    questions = value_pairs(sitting.examples, verdicts)
    return JudgedScore(
        **known,
        **summarize_questions(questions, WIN_RATE_SCALE),
        **count_pairs(verdicts),
        opponent=other.record.name,
        opponent_sha256=other.record.checkpoint.sha256,
        people=compare_preferences(sitting.task, run.record, other.record, questions),
    )


def _keep_scores(run: JudgedRun, scores: Sequence[JudgedScore]) -> RunRecord:
    """Add *scores* to the record of a run, in place of those that the same judge gave before; return the record."""
    new = {_identify(score) for score in scores}
    others = [score for score in run.record.judged if _identify(score) not in new]
    record = run.record.model_copy(update={"judged": (*others, *scores)})
    save_record(run.out, record)
    return record


def _identify(score: JudgedScore) -> tuple[str, ...]:
    return score.task, score.mode, score.signature, score.opponent, score.opponent_sha256
