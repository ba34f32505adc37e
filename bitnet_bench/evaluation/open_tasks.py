"""Read the questions of open tasks: one or more turns a row, with a category and a good answer where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import Field, ValidationError, field_validator

from bitnet_bench.data.characters import is_blank
from bitnet_bench.data.hub_rows import HUB_PREFIX, open_source, pin_source
from bitnet_bench.errors import BenchError, explain_fault
from bitnet_bench.evaluation.definitions import CORRECT_HINT, read_definition
from bitnet_bench.evaluation.local_rows import read_rows_file
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, find_definition
from bitnet_bench.runs.choices import DEFAULT_PROMPTS
from bitnet_bench.runs.value import Value

MAX_TURNS = 20
"""Number of turns of a question up to which it is asked."""
CORRECT_ROW_HINT = "Correct or remove the row."


class OpenDefinition(Value):
    """What the YAML of an open task holds: the fields of a row, and how long an answer may be."""

    task: str
    turns: tuple[str, ...] = ("turns",)
    """Field that lists the questions of the turns; of several names the first that a row has."""
    category: tuple[str, ...] = ("category",)
    references: tuple[str, ...] = ("references",)
    """Field that lists a good answer to each turn, or null."""
    asked_turns: int = Field(default=MAX_TURNS, gt=0, le=MAX_TURNS)
    """Number of turns that are asked of a row with more."""
    max_gen_toks: int = Field(default=1024, gt=0)
    """Number of tokens of an answer; fewer if the model's context has no room for them."""
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("turns", "category", "references", mode="before")
    @classmethod
    def _list_names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def list_fields(self) -> list[str]:
        """Return the fields that every row needs."""
        return [self.turns[0]]


@dataclass(frozen=True)
class OpenQuestion:
    """A row of an open task."""

    turns: tuple[str, ...]
    references: tuple[str | None, ...]
    """A good answer to each turn; None where the row has none."""
    category: str = ""

    @property
    def prompt(self) -> str:
        """Return the questions of all turns as one text."""
        return join_turns(self.turns)

    @property
    def reference(self) -> str:
        """Return the good answers to all turns as one text; empty if there is none."""
        return join_turns([one or "-" for one in self.references]) if any(self.references) else ""


class OpenRows:
    """The rows of an open task, in the place of lm-eval's task."""

    OUTPUT_TYPE = "generate_until"

    def __init__(
        self, definition: OpenDefinition, rows: Sequence[dict[str, Any]], questions: Sequence[OpenQuestion]
    ) -> None:
        self.definition, self.rows, self.questions = definition, rows, questions
        self.task_name = definition.task
        turns = max(len(question.turns) for question in questions)
        self.config = SimpleNamespace(
            num_fewshot=0, generation_kwargs={"max_gen_toks": turns * definition.max_gen_toks}, description=""
        )

    @property
    def eval_docs(self) -> Sequence[dict[str, Any]]:
        """Return the rows, whose digest the record keeps."""
        return self.rows

    def test_docs(self) -> Sequence[dict[str, Any]]:
        """Return the rows."""
        return self.rows

    def has_test_docs(self) -> bool:
        """Return True: every row is asked."""
        return True

    def has_training_docs(self) -> bool:
        """Return False: there is nothing to train on."""
        return False

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """Return the questions of a row as one text."""
        return read_question(self.definition, doc).prompt


def join_turns(texts: Sequence[str]) -> str:
    """Return the texts of several turns as one, each with its number; the text of a single turn as it is."""
    return texts[0] if len(texts) == 1 else "\n\n".join(f"[{turn}] {text}" for turn, text in enumerate(texts, 1))


def build_open_task(suite: Suite, task: Task, setting: TaskSettings, file: Path | None, missing_hint: str) -> BuiltTask:
    """Return an open task with its rows, those of *file* or else of the hub; BenchError names a row that is unfit."""
    name = f"{suite.name}:{task.name}"
    if setting.shots:
        raise BenchError(f"{name} has no training rows for {setting.shots} shots.", "Leave `shots` or this task out.")
    definition = read_open_definition(suite, task, setting.prompts)
    own = setting.rows.get(name)
    source = own.as_posix() if own else str(file)
    if file is None:
        source = _pin_hub_rows(suite, task, missing_hint)
        file = open_source(source)
    rows, lines = read_rows_file(file, "Correct the path in `rows`." if own else missing_hint)
    questions = []
    for row, line in zip(rows, lines, strict=True):
        try:
            questions.append(read_question(definition, row))
        except ValueError as error:
            raise BenchError(f"Line {line} of {source} {error}.", CORRECT_ROW_HINT) from error
    return BuiltTask(suite, task, OpenRows(definition, rows, questions), source, lines, own is not None)


def _pin_hub_rows(suite: Suite, task: Task, missing_hint: str) -> str:
    hub = suite.find_hub_id(task)
    if hub is None or task.own_rows:
        raise BenchError(f"{suite.name}:{task.name} has no rows here.", missing_hint)
    return pin_source(f"{HUB_PREFIX}{hub}")


def read_open_definition(suite: Suite, task: Task, prompts: str = DEFAULT_PROMPTS) -> OpenDefinition:
    """Return the definition of an open task; BenchError says what is wrong with its YAML."""
    file = find_definition(suite, task, prompts)
    fields = {key: value for part in read_definition(file).values() for key, value in part.items()}
    try:
        return OpenDefinition.model_validate(fields)
    except ValidationError as error:
        raise BenchError(
            f"{file} does not define an open task: {explain_fault(error.errors()[0])}.", CORRECT_HINT
        ) from error


def read_question(definition: OpenDefinition, row: Mapping[str, Any]) -> OpenQuestion:
    """Return the question in *row*; ValueError, as the end of a sentence, says what is wrong with it."""
    turns = _find_field(row, definition.turns)
    if turns is None:
        named = " or ".join(f'"{name}"' for name in definition.turns)
        raise ValueError(f"has no {named}, the list of its questions")
    turns = [turns] if isinstance(turns, str) else turns
    if not isinstance(turns, list) or not 0 < len(turns) <= MAX_TURNS:
        raise ValueError(f"needs a list of 1 to {MAX_TURNS} questions")
    blank = next((turn for turn, text in enumerate(turns, 1) if not isinstance(text, str) or is_blank(text)), None)
    if blank is not None:
        raise ValueError(f"has no text in the question of turn {blank}")
    category = _find_field(row, definition.category)
    if not isinstance(category, str | None):
        raise ValueError(f"has a category that is no text: {category!r}")
    references = _read_references(definition, row, len(turns))
    asked = definition.asked_turns
    return OpenQuestion(tuple(turns[:asked]), references[:asked], category or "")


def _read_references(definition: OpenDefinition, row: Mapping[str, Any], turns: int) -> tuple[str | None, ...]:
    """Return a good answer for each turn; one that is null or blank counts as none."""
    found = _find_field(row, definition.references)
    found = [found] if isinstance(found, str) else list(found or ())
    if len(found) > turns or not all(isinstance(one, str | None) for one in found):
        raise ValueError(f"has references that are not one text, or null, for each of {turns} questions")
    kept = [None if one is None or is_blank(one) else one for one in found]
    return (*kept, *[None] * (turns - len(kept)))


def _find_field(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of the fields *names* that *row* has; None if it has none."""
    return next((row[name] for name in names if row.get(name) is not None), None)
