"""Read the prompt of a judge, the shipped one or the user's own, and write it about an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, ValidationError, model_validator

from bitnet_bench.data.bounds import bounded
from bitnet_bench.data.templates import TEMPLATE_BYTES, TEMPLATE_SECONDS, check_growth, explain_template_error
from bitnet_bench.errors import BenchError, explain_fault
from bitnet_bench.evaluation.conversations import Message
from bitnet_bench.runs.records import AnsweredTurn
from bitnet_bench.runs.value import Value
from bitnet_bench.yaml_files import read_yaml

JudgeMode = Literal["single", "pairwise"]
PROMPT_HINT = "docs/judging.md says what a judge's prompt holds."
EXAMPLE_TURN = AnsweredTurn(question="질문", answer="답변", reference="참고 답변")


class JudgePrompt(Value):
    """The text that a judge reads: a system turn, and a Jinja template of what follows."""

    name: str = Field(min_length=1, max_length=100)
    version: str
    mode: JudgeMode
    scale: tuple[float, float] = (1.0, 10.0)
    """Least and greatest score, for single."""
    system: str = ""
    user: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.scale[0] >= self.scale[1]:
            raise ValueError("`scale` needs its least score first, such as [1, 10]")
        return self

    @cached_property
    def sha256(self) -> str:
        """Return the digest of everything in it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def write_single(self, turns: Sequence[AnsweredTurn], turn: int) -> list[Message]:
        """Return the messages about the answer to *turn*, 0 being the first, with the turns before it."""
        return self._write(turns[turn].model_dump(), [one.model_dump() for one in turns[:turn]], turn)

    def write_pair(self, a: Sequence[AnsweredTurn], b: Sequence[AnsweredTurn], turn: int) -> list[Message]:
        """Return the messages about two answers to the same turn; *a* is shown first, as A."""
        both = [
            {**one.model_dump(exclude={"answer"}), "answer_a": one.answer, "answer_b": other.answer}
            for one, other in zip(a[: turn + 1], b[: turn + 1], strict=True)
        ]
        return self._write(both[-1], both[:-1], turn)

    def _write(self, fields: Mapping[str, Any], history: list[dict[str, Any]], turn: int) -> list[Message]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self._render({**fields, "history": history, "turn": turn + 1})}]

    def _render(self, fields: Mapping[str, Any]) -> str:
        """Return the text of the user's turn; BenchError if the template fails, or takes too much of anything."""
        try:
            with bounded(TEMPLATE_SECONDS, TEMPLATE_BYTES):
                text: str = self._template.render(**fields)
            check_growth(text, len(str(fields)))
        except Exception as error:  # a template is a program
            answers = "answer" if self.mode == "single" else "answer_a, answer_b"
            raise BenchError(
                f"The template `user` of the judge's prompt {self.name} fails: {explain_template_error(error)}.",
                f"It may use question, {answers}, reference, turn, and history (a list of the same for earlier turns).",
            ) from error
        return text

    @cached_property
    def _template(self) -> Any:
        return SandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
        ).from_string(self.user)


def read_prompt(mode: JudgeMode, file: Path | None = None) -> JudgePrompt:
    """Return the prompt in *file*, or else the shipped one; BenchError says what is wrong with it."""
    file = file or Path(__file__).parent / f"{mode}.yaml"
    found = read_yaml(file, PROMPT_HINT)
    try:
        prompt = JudgePrompt.model_validate(found.value)
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchError(f"{file} is not a judge's prompt: {explain_fault(first)}.", PROMPT_HINT) from error
    if prompt.mode != mode:
        raise BenchError(
            f"{file} is a prompt for `mode={prompt.mode}`, and the mode is {mode}.", "Give the other mode or prompt."
        )
    _try_prompt(prompt, file)
    return prompt


def _try_prompt(prompt: JudgePrompt, file: Path) -> None:
    """Write the prompt once, so that a wrong template fails before a model is loaded."""
    turns = [EXAMPLE_TURN, EXAMPLE_TURN]
    try:
        for turn in range(len(turns)):
            if prompt.mode == "single":
                prompt.write_single(turns, turn)
            else:
                prompt.write_pair(turns, turns, turn)
    except BenchError as error:
        raise BenchError(f"{file} cannot be used. {error.problem}", error.hint) from error
