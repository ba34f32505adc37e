"""A third party's backend works like a built-in one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench import plugins
from bitnet_bench.errors import UsageError

PLUGIN = Path(__file__).parent / "plugin"


def test_an_installed_backend_is_listed_and_evaluates(
    tmp_path: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """After `pip install` of a package with an entry point, --backend takes its name; it cannot train, and says so."""
    source = shutil.copytree(PLUGIN, tmp_path / "source")  # building writes beside the sources
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(source)], check=True, capture_output=True)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, PYTHONPATH=path)

    listed = {b["name"]: b for b in json.loads(bench("backends", "--json").stdout)}
    assert (listed["constant"]["runs"], listed["constant"]["trains"]) == (True, False)
    done = bench("evaluate", "--suite", "sample", "--backend", "constant", "--limit", "6", "--json")
    assert done.returncode == 0, done.stderr
    assert {s["task"]: s["value"] for s in json.loads(done.stdout)[0]["scores"]}["sample:qa"] == 0.0
    refused = bench("finetune", "--data", "sample:copa", "--backend", "constant", "--out", "o")
    assert refused.returncode == 2
    assert "does not train" in refused.stderr


def test_a_missing_plugin_lists_those_there_are() -> None:
    """An unknown name is wrong use."""
    with pytest.raises(UsageError, match="no backend 'nothing'") as error:
        plugins.load_plugin("backends", "nothing")
    assert "hf" in error.value.hint
