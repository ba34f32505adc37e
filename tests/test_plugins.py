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
from bitnet_bench.errors import BenchError, UsageError

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


def test_a_misspelt_plugin_gets_the_nearest_name() -> None:
    """As suites and tasks do."""
    with pytest.raises(UsageError) as error:
        plugins.load_plugin("backends", "terary")
    assert str(error.value.hint).startswith("Did you mean ternary?")


def test_backends_say_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes has its version; what is missing has its reason, and how to get it."""
    monkeypatch.delenv("BITNETCPP_DIR", raising=False)
    monkeypatch.delenv("BITNET_BENCH_LIBLLAMA", raising=False)
    monkeypatch.setattr("bitnet_bench.backends.trl.find_spec", lambda name: None)
    monkeypatch.setattr("bitnet_bench.backends.libllama.builds._list_wheels", list)
    found = {str(one["name"]): one for one in plugins.list_backends()}
    assert found["hf"]["installed"] is True
    assert "transformers" in str(found["hf"]["runtime"])
    assert [name for name in ("trl", "llamacpp", "bitnetcpp") if found[name]["installed"]] == []
    assert found["trl"]["hint"] == "pip install 'bitnet-bench[trl]'"
    assert "pip install 'bitnet-bench[llamacpp]'" in str(found["llamacpp"]["hint"])
    assert "Build microsoft/BitNet" in str(found["bitnetcpp"]["hint"])


def test_without_kernel_and_gpu_the_ternary_backend_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_the_cpu: None
) -> None:
    """It says whether the kernel is not built or turned off."""
    backend = plugins.load_plugin("backends", "ternary")
    monkeypatch.setenv("BITNET_BENCH_KERNEL", "off")
    with pytest.raises(BenchError, match="turned off"):
        backend.find_runtime()
    monkeypatch.delenv("BITNET_BENCH_KERNEL")
    monkeypatch.setattr("bitnet_bench.backends.ternary.KERNEL_FOLDER", tmp_path)
    with pytest.raises(BenchError, match="is not built"):
        backend.find_runtime()
