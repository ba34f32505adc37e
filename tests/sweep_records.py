"""Run a sweep of the embedded models on any executor, and hold its records against those of the plain commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import load_suites, select_tasks
from bitnet_bench.pipeline.planning import plan_sweep
from bitnet_bench.pipeline.recipe import read_sweep
from bitnet_bench.pipeline.running import run_sweep
from bitnet_bench.runs.jobs import EvaluateJob, FinetuneJob
from bitnet_bench.sweeps.executors import ExecutorOptions
from bitnet_bench.sweeps.scheduler import SweepState
from bitnet_bench.training.finetune import finetune

MODELS = {"demo": "demo", "float": "demo-fp16"}
"""Embedded models by their names in the sweep; the third model is trained by a step of it."""
TASKS = {"one": ["copa"], "two": ["qa"], "three": ["wic", "copa"]}
"""Tasks of each of three suites, which are folders of their own."""
SEEDS = (0, 1)
"""Seeds that choose the example before each question."""
LIMIT = 4
ROWS = '{"prompt": "수도는?", "response": "서울"}\n' * 4
SWEEP = """\
matrix:
  suites: [{suites}]
  evaluate.seed: {seeds}
models: {models}
finetune: {{data: [rows.jsonl], max_steps: 2, batch_size: 2}}
evaluate: {{limit: {limit}, shots: 1, cache: false}}
"""
UNLIKE = {"seconds", "name"}
"""Fields of a record that differ between two runs of one command in two folders."""
UNLIKE_ENVIRONMENT = {"time", "command", "platform", "cores", "threads", "memory_bytes", "cpu"}
"""Fields of an environment that say when and where a run was made."""


def write_suites(folder: Path) -> list[Path]:
    """Write three small suites, folders with their rows, from tasks of the embedded one."""
    sample = load_suites()["sample"].folder
    return [_copy_suite(sample, folder / f"suite-{name}", name, tasks) for name, tasks in TASKS.items()]


def _copy_suite(source: Path, folder: Path, name: str, tasks: list[str]) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    about = yaml.safe_load((folder / "suite.yaml").read_text(encoding="utf-8"))
    about |= {"name": name, "tasks": [task for task in about["tasks"] if task["name"] in tasks]}
    (folder / "suite.yaml").write_text(yaml.safe_dump(about, allow_unicode=True), encoding="utf-8")
    return folder


def write_sweep(folder: Path) -> Path:
    """Write the sweep of 3 models x 3 suites x 2 seeds with its rows and suites, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    suites = ", ".join(path.name for path in write_suites(folder))
    (folder / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    file = folder / "sweep.yaml"
    text = SWEEP.format(suites=suites, seeds=list(SEEDS), models=json.dumps(MODELS), limit=LIMIT)
    file.write_text(text, encoding="utf-8")
    return file


def run_whole_sweep(file: Path, out: Path, on: str = "local", options: ExecutorOptions | None = None) -> SweepState:
    """Run the sweep in *file* to its end on an executor."""
    sweep = read_sweep(file)
    return run_sweep(sweep, plan_sweep(sweep, out), out, on, options)


def run_plain_commands(file: Path, out: Path) -> None:
    """Make every run of the sweep as `finetune` and `evaluate` do, in folders of the same names."""
    trained = str(out / "models/ternary")
    finetune(FinetuneJob(data=(str(file.parent / "rows.jsonl"),), max_steps=2, batch_size=2, out=trained))
    for name, model in {**MODELS, "ternary": trained}.items():
        for suite in TASKS:
            tasks = select_tasks([str(file.parent / f"suite-{suite}")])
            for seed in SEEDS:
                job = EvaluateJob(limit=LIMIT, shots=1, cache=False, seed=seed)
                evaluate(model, tasks, out / f"{name}-suite-{suite}-seed={seed}", job)


def read_runs(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return what two ways to make the runs in *out* have in common: records without times and hosts, and samples."""
    runs = {}
    for file in sorted(out.glob("*/record.json")):
        record = {name: value for name, value in json.loads(file.read_text("utf-8")).items() if name not in UNLIKE}
        record.pop("sha256", None)  # of the record itself
        record["environment"] = {
            name: value for name, value in record["environment"].items() if name not in UNLIKE_ENVIRONMENT
        }
        text = json.dumps(record, ensure_ascii=False, sort_keys=True).replace(str(out), "OUT")
        samples = {one.name: one.read_bytes() for one in sorted((file.parent / "samples").iterdir())}
        runs[file.parent.name] = {"record": json.loads(text), "samples": samples}
    return runs
