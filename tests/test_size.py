"""No function is longer, and no module knows more of the others, than a reader can keep in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MAX_LINES = 50
MAX_IMPORTS = 20
ROOT = Path(__file__).parents[1]
FOLDERS = ("bitnet_bench", "backends", "reports", "tasks")
pytestmark = pytest.mark.skipif(not (ROOT / "backends").is_dir(), reason="there are no sources outside a checkout")


def long_functions() -> Iterator[str]:
    """Yield FILE:NAME of every function of more than `MAX_LINES` lines, decorators left out."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200, "the folders are not where this test looks for them"
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_LINES:
                    yield f"{file.relative_to(ROOT)}:{node.name}"


def test_no_function_is_longer_than_fifty_lines() -> None:
    """Commands included, whose options come from the job models, and Triton kernels."""
    assert list(long_functions()) == []


def imported_modules(file: Path) -> set[str]:
    """Return the modules of the project that *file* imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names if one.name.startswith("bitnet_bench")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bitnet_bench"):
            for one in node.names:
                inner = ROOT / node.module.replace(".", "/") / one.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                found.add(f"{node.module}.{one.name}" if is_module else node.module)
    return found


def test_no_module_imports_more_than_twenty_others() -> None:
    """A module that needs more knows too much: what it decides belongs next to what it decides about."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert [str(file) for file in files if len(imported_modules(file)) > MAX_IMPORTS] == []
