"""No function is longer than a reader can keep in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 50
ROOT = Path(__file__).parents[1]
FOLDERS = ("bitnet_bench", "backends", "reports", "tasks")


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
