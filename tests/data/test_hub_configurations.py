"""A task whose rows are several configurations of a data set of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bitnet_bench.evaluation.select import load_suites

from .fake_hub import FakeHub, serve

ROWS = Path(__file__).parents[1] / "evaluation/rows"
CARD = """---
configs:
{}
---
"""
ASK_HUB = """
import json, sys
from pathlib import Path
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
found = {}
for name in sys.argv[1:]:
    ((suite, task),) = select_tasks(["knowledge"], [name])
    built = build_task(suite, task, TaskSettings(None))
    rows = list(built.lm_task.test_docs())
    shots = len(built.lm_task.training_docs()) if built.lm_task.has_training_docs() else 0
    found[name] = [built.source, [dict(built.hooks.groups(row)) for row in rows], shots]
print(json.dumps(found))
"""


def make_hub_files(task: str, splits: dict[str, str]) -> dict[str, bytes]:
    """Return the files of a data set of the hub with a configuration for each of a task's, and a row for each split."""
    files: dict[str, bytes] = {}
    card = ""
    for config in load_suites()["knowledge"].task(task).configs:
        card += f"- config_name: {config}\n  data_files:\n"
        for split in splits:
            card += f"  - {{split: {split}, path: {config}/{split}.jsonl}}\n"
            file = ROWS / "haerae" / f"{config}.jsonl" if task == "haerae" else ROWS / task / config / "test.jsonl"
            files[f"{config}/{split}.jsonl"] = file.read_bytes()
    return {"README.md": CARD.format(card).encode(), **files}


def test_configurations_of_the_hub_are_one_task(tmp_path: Path) -> None:
    """All of them at one commit, which is recorded; each row says its own, and the shots come from their split."""
    hub = FakeHub()
    commits = {
        "haerae": hub.add("HAERAE-HUB/HAE_RAE_BENCH_1.1", make_hub_files("haerae", {"test": ""})),
        "kormedmcqa": hub.add("sean0042/KorMedMCQA", make_hub_files("kormedmcqa", {"test": "", "fewshot": ""})),
    }
    with serve(hub):
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path),
                       "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        environment.pop("HF_DATASETS_CACHE", None)
        done = subprocess.run(
            [sys.executable, "-c", ASK_HUB, *commits], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["haerae"][0] == f"HAERAE-HUB/HAE_RAE_BENCH_1.1@{commits['haerae']}"
    assert [groups["category"] for groups in found["haerae"][1]] == list(
        load_suites()["knowledge"].task("haerae").configs
    )
    assert [groups["subject"] for groups in found["kormedmcqa"][1]] == ["doctor", "nurse", "pharm", "dentist"]
    assert found["kormedmcqa"][2] == 4
