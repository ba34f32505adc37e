"""A prompt of a suite's YAML reaches nothing but its row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.suites import Suite
from bitnet_bench.evaluation.tasks import TaskSettings, build_task


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(premise) }}",
    ],
)
def test_a_prompt_that_reaches_out_of_its_sandbox_is_refused(prompt: str, tmp_path: Path) -> None:
    """Neither classes nor globals: the task is refused before a model is loaded."""
    ((suite, task),) = select_tasks(["sample"], ["copa"])
    folder = Path(shutil.copytree(suite.folder, tmp_path / "suite"))
    file = folder / "copa.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("doc_to_text:")]
    assert len(kept) == len(lines) - 1, "the prompt is one line"
    file.write_text("\n".join([*kept, f'doc_to_text: "{prompt}"']), encoding="utf-8")
    stranger: Suite = suite.model_copy(update={"folder": folder})
    with pytest.raises(BenchError, match=r"unsafe|no attribute"):
        build_task(stranger, task, TaskSettings())
