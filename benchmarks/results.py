"""Make docs/results.md's table: fine-tune the embedded pair on three tasks, three seeds, and compare on test rows.

python benchmarks/results.py --data-dir DATA --out runs/results

Every step is a command of the command line, printed before it runs; a step that is finished is not done again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitnet_bench.cli.tables import DASH
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.runs.records import Example, RunRecord
from bitnet_bench.statistics import NORMAL_95, paired_difference

EPOCHS = {"kobest:sentineg": 5, "classification:nsmc": 2, "klue:ynat": 6}
SEEDS = (0, 1, 2)
ARMS = {"ternary": "demo", "fp16": "demo-fp16"}


def finetune(arm: str, model: str, task: str, seed: int, folder: Path, data: Path) -> list[str]:
    """Return the arguments that fine-tune one arm on one task."""
    return [
        "finetune", "--model", model, "--precision", arm, "--data", task, "--data-dir", str(data),
        "--epochs", str(EPOCHS[task]), "--lr", "1e-3", "--batch-size", "16", "--seed", str(seed), "--out", str(folder),
    ]  # fmt: skip


def evaluate(model: Path, task: str, folder: Path, data: Path) -> list[str]:
    """Return the arguments that score a checkpoint on a task's test rows."""
    suite, name = task.split(":")
    return [
        "evaluate", "--model", str(model), "--suite", suite, "--task", name,
        "--data-dir", str(data), "--out", str(folder),
    ]  # fmt: skip


def run(arguments: list[str]) -> None:
    """Run one command of the command line."""
    print("bitnet-bench", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "bitnet_bench", *arguments, "--json"], check=True, stdout=subprocess.DEVNULL)


def arm_runs(arms: dict[str, str], task: str, seed: int, out: Path, data: Path) -> None:
    """Fine-tune and score every arm on one task and seed."""
    for name, model in arms.items():
        folder = out / f"{task.replace(':', '-')}-{name}-seed{seed}"
        run(finetune(name.split("-")[0], model, task, seed, folder / "model", data))
        run(evaluate(folder / "model", task, folder / "run", data))


def load(task: str, arm: str, seed: int, out: Path) -> tuple[RunRecord, list[Example]]:
    """Return the record and examples of one arm."""
    folder = out / f"{task.replace(':', '-')}-{arm}-seed{seed}" / "run"
    return load_record(folder), load_samples(folder, [task])


def mean_correct(task: str, arm: str, out: Path) -> list[float]:
    """Return each test row's correctness, averaged over seeds, 0..100."""
    per_seed = [[100 * e.correct for e in load(task, arm, seed, out)[1]] for seed in SEEDS]
    return [statistics.mean(row) for row in zip(*per_seed, strict=True)]


def row(task: str, arms: list[str], out: Path) -> str:
    """Return a Markdown row: each arm's primary score (mean and range over seeds) and the first two's difference."""
    cells = []
    for arm in arms:
        primary = [next(s for s in load(task, arm, seed, out)[0].scores if s.primary) for seed in SEEDS]
        values = [score.value for score in primary]
        error = statistics.mean(score.stderr or 0.0 for score in primary)
        cells.append(f"{statistics.mean(values):.1f} ±{NORMAL_95 * error:.1f} ({min(values):.1f} to {max(values):.1f})")
    difference, stderr = paired_difference(mean_correct(task, arms[0], out), mean_correct(task, arms[1], out))
    shown = DASH if stderr is None else f"{difference:+.1f} ±{NORMAL_95 * stderr:.1f}"
    first = load(task, arms[0], SEEDS[0], out)[0].scores[0]
    return f"| {task} | {first.metric} | {first.n} | {first.chance:.1f} | {' | '.join(cells)} | {shown} |"


def main() -> None:
    """Run everything that is not finished and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--jobs", type=int, default=2, help="commands at once; give each one thread (OMP_NUM_THREADS=1)"
    )
    parser.add_argument("--masters", type=Path, help="true masters of `demo`: compare fine-tuning from them instead")
    parser.add_argument("--task", action="append", choices=list(EPOCHS), help="only this task; repeatable")
    given = parser.parse_args()
    tasks = given.task or list(EPOCHS)
    arms = ARMS
    if given.masters:
        arms = {"ternary": "demo", "ternary-masters": str(given.masters)}
    with ThreadPoolExecutor(given.jobs) as pool:
        work = [(arms, task, seed, given.out, given.data_dir) for task in tasks for seed in SEEDS]
        for future in [pool.submit(arm_runs, *one) for one in work]:
            future.result()
    names = list(arms)
    print(f"| task | metric | n | chance | {' | '.join(names)} | {names[0]} - {names[1]}, accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for task in tasks:
        print(row(task, names, given.out))


if __name__ == "__main__":
    main()
