"""Runs with made-up open answers, and a judge whose replies are made up too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.protocols import no_progress
from bitnet_bench.runs.folder import save_record, save_samples
from bitnet_bench.runs.records import AnsweredTurn, Example, RunRecord

TASK = "open:sample"
ANSWER_SHOWN = re.compile(r"\[채점할 답변의 시작\]\n(.*?)\n\[채점할 답변의 끝\]", re.DOTALL)
PAIR_SHOWN = re.compile(
    r"\[A의 답변 시작\]\n(.*?)\n\[A의 답변 끝\].*\[B의 답변 시작\]\n(.*?)\n\[B의 답변 끝\]", re.DOTALL
)


class FakeLM:
    """A language model whose reply to a conversation is that of a function."""

    def __init__(self, reply: Callable[[str], str], has_chat_template: bool = True, room: int | None = None) -> None:
        self.asked: list[str] = []
        self.counts: dict[str, int] = {"truncated": 0}
        self.progress: Any = no_progress
        self.has_chat_template = has_chat_template
        self.tokenizer: Any = None
        self._reply, self._room = reply, room

    def apply_chat_template(self, chat_history: list[dict[str, str]]) -> str:
        """Return a conversation as plain text."""
        return "\n".join(f"<{one['role']}>{one['content']}" for one in chat_history)

    def tok_encode(self, string: str) -> list[int]:
        """Return a number for each character."""
        return [ord(character) for character in string]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return a reply to each request."""
        prompts = [request.args[0] for request in requests]
        self.counts["truncated"] += sum(self._room is not None and len(prompt) > self._room for prompt in prompts)
        self.asked += prompts
        return [self._reply(prompt) for prompt in prompts]


def open_fake(lm: FakeLM) -> Callable[..., Any]:
    """Return a function that opens *lm* in the place of a judge."""

    @contextmanager
    def open_judge(record: RunRecord, job: Any) -> Iterator[FakeLM]:
        yield lm

    return open_judge


def write_open_run(
    folder: Path,
    answers: Sequence[Sequence[str]],
    model: str = "demo-fp16",
    categories: Sequence[str] = ("글쓰기", "수학"),
) -> Path:
    """Write a run that gave *answers*, a list of the answers to each question's turns."""
    examples = [
        Example(
            task=TASK,
            doc_id=i,
            prompt=f"질문 {i}",
            target="",
            output="\n".join(given),
            correct=0.0,
            groups={"category": categories[i % len(categories)]},
            turns=tuple(
                AnsweredTurn(question=f"질문 {i}의 {turn}", answer=text, reference="정답" if turn else None)
                for turn, text in enumerate(given)
            ),
        )
        for i, given in enumerate(answers)
    ]
    record = RunRecord(
        name=folder.name,
        checkpoint=open_checkpoint(model),
        backend="hf",
        precision="ternary",
        data={TASK: "digest"},
        answered={TASK: len(examples)},
        environment=read_environment(),
    )
    digest = save_samples(folder, TASK, examples)
    save_record(folder, record.model_copy(update={"samples": {TASK: digest}}))
    return folder


def give_points(prompt: str) -> str:
    """Reply with the number that the answer itself is."""
    (answer,) = ANSWER_SHOWN.findall(prompt)
    return f"이유입니다.\n점수: [[{answer}]]"


def prefer_longer(prompt: str) -> str:
    """Reply with the longer of two answers, whatever their order."""
    ((a, b),) = PAIR_SHOWN.findall(prompt)
    return "[[A]]" if len(a) > len(b) else "[[B]]" if len(b) > len(a) else "[[C]]"
