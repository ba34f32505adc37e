"""Fine-tune the embedded pair in four ways on six tasks, three seeds, each under one search budget, and compare.

python benchmarks/arms.py --data-dir DATA --out runs/arms

Every step is a command of the command line, printed before it runs; a step that is finished is not done again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitnet_bench import store
from bitnet_bench.records import Example, RunRecord, SearchRecord
from bitnet_bench.statistics import NORMAL_95, paired_difference

TASKS = {
    "kobest:sentineg": "256",
    "klue:ynat": "256",
    "klue:nli": "256",
    "classification:nsmc": "256",
    "classification:korsts": "256",
    "kobest:boolq": "448",
}
"""Task -> longest sequence in tokens; BoolQ's paragraphs are long."""
ROWS, EPOCHS, SEEDS, RATES = "2000", "3", "3", "lr=5e-4,1.5e-3"
SETTLED = ["--ternary-warmup", "50", "--neftune-alpha", "5"]
"""What helped most in single trials on YNAT (docs/log.md)."""
ARMS = {
    "fp16": ["--model", "demo-fp16", "--precision", "fp16"],
    "ternary": [],
    "ternary-options": SETTLED,
    "ternary-distill": [*SETTLED, "--method", "distill"],
}


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
    for arm, options in ARMS.items():
        teacher = ["--teacher", str(chosen(task, "fp16", out)[0])] if "distill" in options else []
        run([
            "finetune", "--data", task, "--data-dir", str(data), "--limit", ROWS, "--hold-out", "0.1",
            "--epochs", EPOCHS, "--max-length", TASKS[task], "--save-every", "1000", "--search", RATES,
            "--seeds", SEEDS, *options, *teacher, "--out", str(folder_of(task, arm, out)),
        ])  # fmt: skip
        for model in chosen(task, arm, out):
            run([
                "evaluate", "--model", str(model), "--suite", suite, "--task", name, "--data-dir", str(data),
                "--out", str(model.parent / f"{model.name}-run"),
            ])  # fmt: skip


def load(task: str, arm: str, out: Path) -> list[tuple[RunRecord, list[Example]]]:
    """Return the record and examples of each seed."""
    folders = [model.parent / f"{model.name}-run" for model in chosen(task, arm, out)]
    return [(store.load_record(folder), store.load_samples(folder, [task])) for folder in folders]


def mean_correct(runs: list[tuple[RunRecord, list[Example]]]) -> list[float]:
    """Return each test row's correctness, averaged over seeds, 0..100."""
    return [statistics.mean(row) for row in zip(*([100 * e.correct for e in found] for _, found in runs), strict=True)]


def row(task: str, out: Path) -> tuple[str, list[float]]:
    """Return a Markdown row, and each arm's mean primary score."""
    cells, means = [], []
    baseline = mean_correct(load(task, "fp16", out))
    for arm in ARMS:
        runs = load(task, arm, out)
        primary = [next(score for score in record.scores if score.primary) for record, _ in runs]
        values = [score.value for score in primary]
        error = NORMAL_95 * statistics.mean(score.stderr or 0.0 for score in primary)
        means.append(statistics.mean(values))
        difference, stderr = paired_difference(mean_correct(runs), baseline)
        versus = "" if arm == "fp16" or stderr is None else f", {difference:+.1f} ±{NORMAL_95 * stderr:.1f}"
        cells.append(f"{means[-1]:.1f} ±{error:.1f} ({min(values):.1f} to {max(values):.1f}){versus}")
    score = primary[0]
    return f"| {task} | {score.metric} | {score.n} | {' | '.join(cells)} |", means


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
    print(f"| task | metric | n | {' | '.join(ARMS)} |")
    print(f"| --- | --- | --- {'| --- ' * len(ARMS)}|")
    found = [row(task, given.out) for task in tasks]
    print("\n".join(line for line, _ in found))
    print(f"| mean | | | {' | '.join(f'{statistics.mean(m):.1f}' for m in zip(*(m for _, m in found), strict=True))} |")


if __name__ == "__main__":
    main()
