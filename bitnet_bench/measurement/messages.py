"""Exchange messages between `measure` and the processes that it starts: each is one line of JSON.

Both sides check what they receive. The first line that a process reads is its task, and the others are requests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Literal, TextIO, TypeVar

from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.measurement.lifeline import die_with_parent
from bitnet_bench.protocols import RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.runs.value import Value

MAX_CHARACTERS_SHOWN = 60
"""Number of characters shown of a line that cannot be parsed."""
Message = TypeVar("Message", bound=Value)


class ParityTask(Value):
    """Task of comparing a runtime with a checkpoint; the reply is a `records.RuntimeParity`."""

    checkpoint: Checkpoint
    precision: Precision
    backend: str
    """Backend as `module:Class`."""
    options: RuntimeOptions
    threads: int = Field(gt=0)


class MeasuringTask(ParityTask):
    """Task of loading and measuring a candidate; the reply is `OpenResult`."""

    meter: str
    """Meter as `module:Class`."""
    prompt_tokens: int = Field(gt=0)
    new_tokens: int = Field(gt=1)
    texts: tuple[str, ...] = ()
    """Prompts to read instead of random ids."""


class Request(Value):
    """Request to run a batch; the reply to a probe is `ProbeResult`, to the others a `readings.Round`."""

    do: Literal["probe", "warm up", "round"]
    batch: int = Field(gt=0)


class OpenResult(Value):
    """The time and memory that opening took."""

    load_s: float = Field(gt=0)
    resident_weight_bytes: int = Field(gt=0)
    kv_per_token: int = Field(ge=0)
    resident_by_kind: dict[str, int]
    memory_method: str


class ProbeResult(Value):
    """The seconds that one run will take."""

    run_s: float = Field(gt=0)


def parse_request(line: str, kind: type[Message]) -> Message:
    """Return the request of *kind* in *line*; BenchError if it is something else."""
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise BenchError(
            f"A process that measures was asked for what it does not know ({format_validation_error(error)}): "
            f"{line.strip()[:MAX_CHARACTERS_SHOWN]!r}.",
            "Two versions of bitnet-bench may be mixed: reinstall it.",
        ) from error


def claim_stdout() -> TextIO:
    """Return standard output for replies; what libraries print goes to standard error from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def send_reply(stream: TextIO, reply: Value) -> None:
    """Write *reply* as one line."""
    stream.write(reply.model_dump_json() + "\n")
    stream.flush()


def run_process(main: Callable[[], None]) -> None:
    """Run *main*, no longer than the parent lives.

    An error that is meant for the user becomes the last line, which the parent shows, and status 1.
    """
    die_with_parent()
    try:
        main()
    except BenchError as error:
        print(error.problem, error.hint, file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        print(f"a reading is impossible ({format_validation_error(error)}).", file=sys.stderr)
        sys.exit(1)
