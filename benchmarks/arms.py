"""Fine-tune the embedded pair in five ways on six tasks, three seeds, each under one search budget, and compare.

python benchmarks/arms.py --data-dir DATA --out runs/arms

Every step is a command of the command line, printed before it runs; a step that is finished is not done again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.runs.records import Score, SearchRecord
from bitnet_bench.statistics import NORMAL_95
from bitnet_bench.statistics.paired import MeanPairs, make_bootstrap_pairs
from bitnet_bench.statistics.several import combine_stderrs

TASKS = {
    "klue:ynat": ("256", "2000", "1000"),
    "klue:nli": ("256", "1000", "1000"),
    "classification:nsmc": ("256", "1000", "1000"),
    "classification:korsts": ("256", "500", "500"),
    "kobest:sentineg": ("256", "500", "1000"),
    "kobest:boolq": ("448", "500", "300"),
}
"""Task -> longest sequence in tokens, most training rows, most test rows: two hours on two cores with AVX2."""
EPOCHS, SEEDS, RATES = "3", "3", "lr=5e-4,1.5e-3"
SETTLED = ["--ternary-warmup", "50", "--neftune-alpha", "5"]
"""What helped most in single trials on YNAT (docs/log.md)."""
ARMS = {
    "fp16": ["--model", "demo-fp16", "--precision", "fp16"],
    "ternary": [],
    "ternary-options": SETTLED,
    "ternary-distill": [*SETTLED, "--method", "distill"],
    "fp16-neftune": ["--model", "demo-fp16", "--precision", "fp16", "--neftune-alpha", "5"],
}
"""The last one tells how much of the others' gain is NEFTune's."""
BASELINE = "fp16"


def run(arguments: list[str]) -> None:
    """Run one command of the command line."""
    print("bitnet-bench", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "bitnet_bench", *arguments, "--json"], check=True, stdout=subprocess.DEVNULL)


def folder_of(task: str, arm: str, out: Path) -> Path:
    """Return where an arm of a task is."""
    return out / task.replace(":", "-") / arm


def chosen(task: str, arm: str, out: Path) -> list[Path]:
    """Return the checkpoints of an arm's best settings, a seed each."""
    record = SearchRecord.model_validate_json((folder_of(task, arm, out) / "search.json").read_text(encoding="utf-8"))
    (folders,) = record.chosen.values()
    return [Path(folder) for folder in folders]


def work(task: str, out: Path, data: Path) -> None:
    """Search, fine-tune and score every arm on one task."""
    suite, name = task.split(":")
    length, rows, scored = TASKS[task]
    for arm, options in ARMS.items():
        teacher = ["--teacher", str(chosen(task, BASELINE, out)[0])] if "distill" in options else []
        run([
            "finetune", "--data", task, "--data-dir", str(data), "--limit", rows, "--hold-out", "0.1",
            "--epochs", EPOCHS, "--compute", "fp32", "--max-length", length, "--save-every", "1000", "--search", RATES,
            "--seeds", SEEDS, *options, *teacher, "--out", str(folder_of(task, arm, out)),
        ])  # fmt: skip
        models = chosen(task, arm, out)
        run([
            "evaluate", *(word for model in models for word in ("--model", str(model))),
            "--suite", suite, "--task", name, "--data-dir", str(data), "--limit", scored,
            "--backend", "hf" if arm.startswith("fp16") else "ternary", "--out", str(runs_of(models[0])),
        ])  # fmt: skip


def runs_of(model: Path) -> Path:
    """Return the folder of the runs of a checkpoint's settings, a seed each."""
    return model.parent / "runs"


@dataclass(frozen=True)
class Arm:
    """What the seeds of an arm scored on one task."""

    scores: list[Score]
    """The primary metric, a seed each."""
    numbers: np.ndarray
    """[n, seeds, ...], what the metric needs of each test row."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.mean(score.value for score in self.scores)

    def figure(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the metric of each sample of rows, averaged over seeds."""
        found = load_metric(self.scores[0].metric)
        return np.mean([found.score_resamples(numbers[:, seed], weights) for seed in range(numbers.shape[1])], axis=0)


def load(task: str, arm: str, out: Path) -> Arm:
    """Return the results of an arm."""
    scores, numbers = [], []
    for model in chosen(task, arm, out):
        folder = runs_of(model) / model.name
        primary = next(score for score in load_record(folder).scores if score.primary)
        scores.append(primary)
        numbers.append(load_metric(primary.metric).example_statistics(load_samples(folder, [task])))
    return Arm(scores, np.stack(numbers, axis=1))


def difference(arm: Arm, baseline: Arm) -> MeanPairs:
    """Return the arm's metric minus the baseline's over the same resamples of test rows, seeds averaged."""
    return make_bootstrap_pairs((arm.numbers, baseline.numbers), (arm.figure, baseline.figure))


def cell(arm: Arm, paired: MeanPairs | None) -> str:
    """Say what an arm scored: mean, least and most of the seeds, and how far from the baseline."""
    values = [score.value for score in arm.scores]
    shown = f"{arm.mean:.1f} ({min(values):.1f} to {max(values):.1f})"
    return shown if paired is None else f"{shown}, {paired.difference:+.1f} ±{NORMAL_95 * paired.stderr:.1f}"


def table(tasks: list[str], out: Path) -> str:
    """Return a Markdown table, a row a task; the last is the mean, tasks taken as independent."""
    lines = [f"| task | metric | n | {' | '.join(ARMS)} |", f"| --- | --- | --- {'| --- ' * len(ARMS)}|"]
    means: dict[str, list[float]] = {arm: [] for arm in ARMS}
    pairs: dict[str, list[MeanPairs]] = {arm: [] for arm in ARMS}
    for task in tasks:
        arms = {arm: load(task, arm, out) for arm in ARMS}
        cells = []
        for name, arm in arms.items():
            paired = None if name == BASELINE else difference(arm, arms[BASELINE])
            cells.append(cell(arm, paired))
            means[name].append(arm.mean)
            pairs[name] += [paired] if paired else []
        score = arms[BASELINE].scores[0]
        lines.append(f"| {task} | {score.metric} | {score.n} | {' | '.join(cells)} |")
    last = [_mean_cell(means[arm], pairs[arm]) for arm in ARMS]
    return "\n".join([*lines, f"| mean | | | {' | '.join(last)} |"])


def _mean_cell(means: list[float], pairs: list[MeanPairs]) -> str:
    shown = f"{statistics.mean(means):.1f}"
    error = combine_stderrs([pair.stderr for pair in pairs])
    if error is None:
        return shown
    value = statistics.mean(pair.difference for pair in pairs)
    p = math.erfc(abs(value) / error / math.sqrt(2))
    return f"{shown}, {value:+.1f} ±{NORMAL_95 * error:.1f} (p {p:.2f})"


def main() -> None:
    """Run everything that is not finished and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="tasks at once; give each one thread (OMP_NUM_THREADS=1)")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="only this task; repeatable")
    given = parser.parse_args()
    tasks = given.task or list(TASKS)
    with ThreadPoolExecutor(given.jobs) as pool:
        for future in [pool.submit(work, task, given.out, given.data_dir) for task in tasks]:
            future.result()
    print(table(tasks, given.out))


if __name__ == "__main__":
    main()
