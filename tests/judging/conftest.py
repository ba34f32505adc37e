"""A run whose open answers are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judging.made_up import write_open_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give a run of 20 questions of two turns, answered with the points that they deserve."""
    return write_open_run(tmp_path / "run", [[str(1 + i % 10), str(1 + (i + 3) % 10)] for i in range(20)])
