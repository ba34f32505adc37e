"""What `measure` says to its processes: each side refuses what it does not know, in a sentence."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.messages import (
    MeasuringTask,
    ParityTask,
    ProbeResult,
    Request,
    parse_request,
    run_process,
    send_reply,
)
from bitnet_bench.protocols import RuntimeOptions


def make_task(**fields: object) -> MeasuringTask:
    """Return a task with everything that can be said."""
    given = {
        "checkpoint": open_checkpoint("demo"),
        "precision": "i2_s",
        "backend": "module:Backend",
        "options": RuntimeOptions(gguf="a.gguf", directory="build", allow_mismatch=True),
        "threads": 2,
        "meter": "module:Meter",
        "prompt_tokens": 8,
        "new_tokens": 4,
        "texts": ("안녕하세요",),
    }
    return MeasuringTask.model_validate({**given, **fields})


def test_a_task_arrives_as_it_was_sent() -> None:
    """The checkpoint, the options and Korean prompts too; a text of several lines is still one line."""
    task = make_task(texts=("첫째 줄\n둘째 줄",))
    stream = io.StringIO()
    send_reply(stream, task)
    assert stream.getvalue().count("\n") == 1
    assert parse_request(stream.getvalue(), MeasuringTask) == task


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"do": "dance", "batch": 1}', "do must be 'probe', 'warm up' or 'round'"),
        ('{"do": "round", "batch": 0}', "batch"),
        ('{"do": "round", "batch": 1, "rows": 3}', "rows"),
        ('{"do": "round"}', "batch"),
        ("round", "JSON"),
        ("", "JSON"),
    ],
)
def test_an_unknown_request_is_a_sentence_that_names_what_is_wrong(line: str, said: str) -> None:
    """Nothing of it is carried out, and the line is shown."""
    with pytest.raises(BenchError, match="was asked for what it does not know") as error:
        parse_request(line, Request)
    assert said in error.value.problem
    assert repr(line) in error.value.problem


@pytest.mark.parametrize("module", ["worker", "parity_check"])
def test_a_process_that_gets_another_task_ends_with_the_sentence(module: str) -> None:
    """Its last line is what the parent shows: no traceback, and nothing that could be taken for a reply."""
    command = [sys.executable, "-m", f"bitnet_bench.measurement.{module}"]
    done = subprocess.run(command, input='{"do": "dance"}\n', capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "was asked for what it does not know" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_task_to_compare_is_no_task_to_measure() -> None:
    """The one lacks what the other needs, and knows nothing of what it does not."""
    compared = ParityTask.model_validate(make_task().model_dump(include=set(ParityTask.model_fields)))
    with pytest.raises(BenchError, match="meter"):
        parse_request(compared.model_dump_json(), MeasuringTask)
    with pytest.raises(BenchError, match="meter"):
        parse_request(make_task().model_dump_json(), ParityTask)


def test_an_impossible_reading_is_a_sentence_of_the_process_that_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A time of zero would divide by zero later."""
    with pytest.raises(SystemExit, match="1"):
        run_process(lambda: print(ProbeResult(run_s=0.0)))
    assert "a reading is impossible (run_s must be " in capsys.readouterr().err
