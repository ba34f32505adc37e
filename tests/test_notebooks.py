"""The notebooks keep their outputs, use the public API only, and run."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from notebook_outputs import (
    FOLDER,
    MEASURED_TAG,
    METADATA_KEY,
    digest_inputs,
    mask_numbers,
    read_numbers,
    run_notebook,
)

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST_NOTEBOOK_BYTES = 100_000
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="runs against the wheel: notebooks/ is in the source tree only")
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file: Path, kind: str) -> list[dict[str, Any]]:
    """Return the cells of one kind."""
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def read_output(cell: dict[str, Any]) -> str:
    """Return what a reader sees under a cell."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "".join("".join(one) for one in shown)


@each
def test_a_notebook_keeps_the_outputs_of_its_cells(file: Path) -> None:
    """`make notebook-outputs` runs them again: after a change of a cell, of the version, or of the embedded models."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    kept = notebook["metadata"].get(METADATA_KEY, {}).get("inputs")
    assert kept == digest_inputs(notebook), "The outputs are stale: run `make notebook-outputs`."
    assert [cell["execution_count"] for cell in cells(file, "code")] == [*range(1, len(cells(file, "code")) + 1)]
    assert any(cell["outputs"] for cell in cells(file, "code"))


@pytest.mark.parametrize("change", ["a cell", "nothing"])
def test_a_changed_cell_makes_the_outputs_stale(change: str) -> None:
    """The digest is that of the cells, and not that of their outputs."""
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    before = digest_inputs(notebook)
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = []
    if change == "a cell":
        code["source"] = [*code["source"], "\n1 + 1"]
    assert (digest_inputs(notebook) != before) is (change == "a cell")


@each
def test_outputs_are_small_and_the_same_on_every_machine(file: Path) -> None:
    """Text without progress bars, logs, escape codes and folders of the machine that ran it."""
    assert file.stat().st_size < LARGEST_NOTEBOOK_BYTES
    for cell in cells(file, "code"):
        assert {output.get("name", "") for output in cell["outputs"]} <= {"stdout", ""}
        assert not re.search(r"(^|[\s'\"(])/(home|root|tmp|work|usr|Users)/|\x1b|\r|it/s", read_output(cell))
    metadata = json.loads(file.read_text(encoding="utf-8"))["metadata"]
    assert metadata.keys() == {"kernelspec", "language_info", METADATA_KEY}


@each
def test_a_notebook_uses_the_public_api_only(file: Path) -> None:
    """`import bitnet_bench as bb`, names in `bb.__all__`, and the standard library."""
    import bitnet_bench as bb

    code = "\n".join("".join(cell["source"]) for cell in cells(file, "code"))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for name in node.names:
                assert name.name in sys.stdlib_module_names or (name.name, name.asname) == ("bitnet_bench", "bb")
        if isinstance(node, ast.ImportFrom):
            assert node.module in sys.stdlib_module_names
    assert set(re.findall(r"\bbb\.(\w+)", code)) <= set(bb.__all__)


@each
def test_a_notebook_is_korean_with_an_english_summary(file: Path) -> None:
    """Its first cell says in both languages what it is."""
    first = "".join(cells(file, "markdown")[0]["source"])
    assert "**English summary.**" in first
    assert re.search("[가-힣]", first)


@pytest.mark.slow
@each
def test_a_notebook_runs_and_says_what_it_says_in_its_outputs(file: Path, tmp_path: Path) -> None:
    """Every cell, in a kernel of its own and an empty folder (`make notebooks`).

    Readings of the machine may differ; other numbers are the same up to float sums.
    """
    pytest.importorskip("nbformat", reason="pip install 'bitnet-bench[dev]'")
    pytest.importorskip("nbclient", reason="pip install 'bitnet-bench[dev]'")
    ran = [cell for cell in run_notebook(file, tmp_path)["cells"] if cell["cell_type"] == "code"]
    for kept, now in zip(cells(file, "code"), ran, strict=True):
        if MEASURED_TAG in kept["metadata"].get("tags", []):
            continue
        before, after = read_output(kept), read_output(now)
        assert mask_numbers(after) == mask_numbers(before), "The outputs are stale: run `make notebook-outputs`."
        assert read_numbers(after) == pytest.approx(read_numbers(before), rel=0.05, abs=0.1)
