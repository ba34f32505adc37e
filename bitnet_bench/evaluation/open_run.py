"""Ask the questions of an open task turn after turn: the answer to a turn stands in the conversation of the next."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from bitnet_bench.evaluation.conversations import ChatLM, Message, Reply, answer_conversations, count_from
from bitnet_bench.evaluation.local_rows import compute_rows_digest
from bitnet_bench.evaluation.open_tasks import OpenQuestion, OpenRows, join_turns
from bitnet_bench.runs.records import AnsweredTurn, Example

if TYPE_CHECKING:
    from bitnet_bench.evaluation.tasks import BuiltTask

_log = logging.getLogger(__name__)


def answer_open_task(
    lm: ChatLM, built: BuiltTask, limit: int | None, system: str | None = None
) -> tuple[tuple[Example, ...], str]:
    """Ask the first *limit* questions, or all; return them with their answers, and the digest of their rows.

    Every conversation begins with the text *system*, if there is one.
    """
    rows: OpenRows = built.lm_task
    questions = list(islice(rows.questions, limit))
    if not lm.has_chat_template:
        _log.warning(
            "%s: the checkpoint has no chat template; its questions are asked in the form 사용자: ... 모델: ...",
            built.name,
        )
    answers = _ask_in_turns(lm, questions, rows.definition.max_gen_toks, system)
    examples = (
        _make_example(built.name, doc_id, question, answered)
        for doc_id, (question, answered) in enumerate(zip(questions, answers, strict=True))
    )
    return tuple(examples), compute_rows_digest(islice(rows.eval_docs, limit))


def _ask_in_turns(
    lm: ChatLM, questions: Sequence[OpenQuestion], max_new_tokens: int, system: str | None
) -> list[list[Reply]]:
    """Return the answers to all turns of each question; questions with fewer turns are left out of later ones."""
    answers: list[list[Reply]] = [[] for _ in questions]
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    most = max((len(question.turns) for question in questions), default=0)
    progress, before, total = lm.progress, 0, sum(len(question.turns) for question in questions)
    for turn in range(most):
        asked = [at for at, question in enumerate(questions) if turn < len(question.turns)]
        conversations = [[*opening, *_continue_conversation(questions[at], answers[at])] for at in asked]
        lm.progress = count_from(progress, before, total)
        for at, answer in zip(asked, answer_conversations(lm, conversations, max_new_tokens, asked), strict=True):
            answers[at].append(answer)
        before += len(asked)
    lm.progress = progress
    return answers


def _continue_conversation(question: OpenQuestion, answers: Sequence[Reply]) -> list[Message]:
    """Return the conversation up to the question that follows *answers*, without the thoughts before these."""
    messages: list[Message] = []
    for turn, text in enumerate(question.turns[: len(answers) + 1]):
        messages.append({"role": "user", "content": text})
        if turn < len(answers):
            messages.append({"role": "assistant", "content": answers[turn].text})
    return messages


def _make_example(task: str, doc_id: int, question: OpenQuestion, answers: Sequence[Reply]) -> Example:
    turns = [
        AnsweredTurn(
            question=text,
            answer=answer.text,
            reference=reference,
            thought=answer.thought,
            cut=answer.cut,
            unfinished=answer.unfinished,
        )
        for text, answer, reference in zip(question.turns, answers, question.references, strict=True)
    ]
    return Example(
        task=task,
        doc_id=doc_id,
        prompt=question.prompt,
        target=question.reference,
        output=join_turns([answer.text for answer in answers]),
        correct=0.0,
        groups={"category": question.category} if question.category else {},
        turns=tuple(turns),
    )
