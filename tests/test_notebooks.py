"""The notebooks are stored clean, use the public API only, and run."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="runs against the wheel: notebooks/ is in the source tree only")
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file: Path, kind: str) -> list[dict[str, Any]]:
    """Return the cells of one kind."""
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@each
def test_a_notebook_is_stored_without_outputs(file: Path) -> None:
    """No output, no count, no machine's name: a difference between versions is a difference of text."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(file, "code"))
    assert json.loads(file.read_text(encoding="utf-8"))["metadata"].keys() == {"kernelspec", "language_info"}


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
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a kernel of its own and an empty folder (`make notebooks`)."""
    nbformat = pytest.importorskip("nbformat", reason="pip install 'bitnet-bench[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'bitnet-bench[dev]'")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
