"""What is in the tree is in the wheel, and importing stays cheap."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import bitnet_bench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
in_checkout = pytest.mark.skipif(not (ROOT / "bitnet_bench").is_dir(), reason="runs against the wheel, not the tree")


@in_checkout
def test_every_package_folder_is_listed() -> None:
    """A sub-package that is not listed works in the editable install and is missing from the wheel."""
    folders = set()
    for base in ("bitnet_bench", "tasks", "backends", "reports", "recipes"):
        for init in (ROOT / base).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            folders.add(name if base == "bitnet_bench" else f"bitnet_bench.{name}")
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_wheel_is_what_is_tested_when_asked_for() -> None:
    """`make test-wheel` must not pick up the checkout."""
    wanted = os.environ.get("BITNET_BENCH_FROM_WHEEL")
    if not wanted:
        pytest.skip("BITNET_BENCH_FROM_WHEEL is not set: this run is against the checkout")
    assert Path(bitnet_bench.__file__).is_relative_to(wanted)


def test_built_ins_come_through_the_same_door_as_plugins() -> None:
    """The entry points of the installed package are those of pyproject.toml."""
    for group, wanted in PROJECT["project"]["entry-points"].items():
        found = {e.name: e.value for e in entry_points(group=group)}
        assert wanted.items() <= found.items()


def test_help_imports_nothing_heavy() -> None:
    """--help costs no more than Typer does: none of torch, transformers, lm_eval, datasets, pydantic is imported."""
    code = (
        "import sys, bitnet_bench.cli\n"
        "try: bitnet_bench.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'evaluate', 'numpy', 'pydantic'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_version_is_the_package_s() -> None:
    """`bitnet_bench.__version__` and pyproject.toml agree."""
    assert bitnet_bench.__version__ == PROJECT["project"]["version"]


@in_checkout
def test_no_row_of_the_data_sets_is_in_the_tree() -> None:
    """The sample rows are written for this project: none equals a row of the local data sets."""
    data = Path(os.environ.get("BITNET_BENCH_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip("no local rows: ../shared/data or BITNET_BENCH_DATA")
    import json

    def texts(files: list[Path]) -> set[str]:
        values = (
            v
            for f in files
            for line in f.read_text(encoding="utf-8").split("\n")
            if line
            for v in json.loads(line).values()
        )
        return {"".join(v.split()) for v in values if isinstance(v, str) and len(v) > 15}

    ours = texts([*(ROOT / "tasks/sample/data").rglob("*.jsonl"), ROOT / "bitnet_bench/demo/instructions.jsonl"])
    assert not ours & texts(sorted(data.rglob("*.jsonl")))
