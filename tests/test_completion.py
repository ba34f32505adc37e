"""A shell completes suites, tasks, backends, presets, recipes and devices, and waits for no heavy library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bitnet_bench import plugins
from bitnet_bench.checkpoints.random_weights import list_presets
from bitnet_bench.cli import completion
from bitnet_bench.evaluation.select import load_suites
from bitnet_bench.pipeline.recipe import list_recipes

PROGRAM = """
import sys
from bitnet_bench.cli import main
sys.argv = ["bitnet-bench"]
try:
    main()
finally:
    print(sorted({"torch", "transformers", "lm_eval", "datasets"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evaluate --suite kl", ["klue"]),
        ("evaluate --suite sample,kl", ["sample,klue"]),
        ("evaluate --suite klue --task y", ["ynat"]),
        ("evaluate --backend hf", ["hf", "hf-dense"]),
        ("measure --backend bitn", ["bitnetcpp"]),
        ("measure --meter n", ["nvml", "none"]),
        ("finetune --backend tr", ["trl"]),
        ("plan --preset bitnet-2", ["bitnet-2b-4t"]),
        ("plan --device h2", ["h200"]),
        ("init out --preset falcon-e-1", ["falcon-e-1b"]),
        ("run sent", ["sentiment"]),
        ("data check rows.jsonl --suite kl", ["klue"]),
    ],
)
def test_a_shell_gets_names_without_a_heavy_import(line: str, expected: list[str]) -> None:
    """As bash asks: the words so far, and the number of the one that is begun."""
    words = f"bitnet-bench {line}"
    environment = {"_BITNET_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.split()) == sorted(expected)
    assert done.stderr.strip() == "[]"


def test_what_is_completed_is_what_there_is() -> None:
    """The names are those that the commands know, though they are read from file names and entry points."""
    assert completion.complete_suites("") == sorted(load_suites())
    assert set(completion.complete_backends("")) == {"auto", *plugins.list_plugins("backends")}
    assert completion.complete_presets("") == sorted(list_presets())
    assert set(completion.complete_recipes("")) >= set(list_recipes())
