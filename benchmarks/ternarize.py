"""Make a pretrained float model ternary in BitDistill's stages, and show what each costs and gives back.

python benchmarks/ternarize.py run --model MODEL --data-dir DATA --out OUT --workers 6 --seconds 500
python benchmarks/ternarize.py table --out OUT

Arms on each task: FP16 fine-tuning; the same with ternary weights; and distillation from the FP16 twin after SubLN and
0 or more tokens of running text. Every arm searches the same number of learning rates with seed 0, takes the one of the
lowest validation loss, and runs it with further seeds. Each run is a `bitnet_bench.finetune`, whose record is
OUT/NAME/finetune.json, and a finished one is not done again. Runs begin in the order of their importance; after
--seconds none begins.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TASKS = {"klue:ynat": 3000, "classification:nsmc": 3000, "classification:question_pair": 3000}
"""Task -> most training rows."""
SCORED_ROWS, EPOCHS, BATCH, LENGTH = 1000, 3, 32, 128
RATES = {"fp16": (2e-5, 1e-4), "ternary": (1e-4, 3e-4)}
"""Two values each: the twin is fine-tuned at what published FP16 recipes use, a ternary model at 3 to 5 times that; of
2e-4 and 1e-3, tried first, the higher one taught nothing (docs/log.md)."""
TEXT_RATES = (3e-4, 1e-3)
TEXT_TOKENS = (0, 500_000, 2_000_000, 8_000_000)
FLOAT_TEXT_TOKENS = 2_000_000
"""Tokens of the runs that train the float model on the same text, which tells the text's part from the repair's."""
TEXT_BATCH, TEXT_LENGTH = 16, 512
SEEDS = 3
Key = tuple[str, ...]


@dataclass
class Run:
    """One fine-tuning (and scoring) that waits for others; *needs* are names of runs, or of searches as `best:ARM`."""

    name: str
    job: dict[str, Any]
    needs: tuple[str, ...] = ()
    score: str | None = None
    """SUITE:TASK to score the result on."""
    priority: float = 0.0
    arm: str = ""


def list_text_runs(model: str, texts: list[str], counts: list[int]) -> list[Run]:
    """Return the runs on running text: the rates are tried with the fewest tokens, the others take the better one."""
    first = min(tokens for tokens in counts if tokens)
    runs = []
    for tokens in filter(None, counts):
        for rate in TEXT_RATES if tokens == first else TEXT_RATES[:1]:
            job = _make_text_job(model, texts, tokens, rate) | {"subln": True, "keep_masters": True}
            needs = () if tokens == first else (f"best:text/{first}",)
            order = -2.0 if tokens == first else -1 - tokens / 1e9  # the longest first: others wait for it
            runs.append(Run(f"text/{tokens}/lr{rate:g}", job, needs, priority=order, arm=f"text/{tokens}"))
    for rate in RATES["fp16"]:
        job = _make_text_job(model, texts, FLOAT_TEXT_TOKENS, rate) | {"precision": "fp16"}
        runs.append(Run(f"float-text/{FLOAT_TEXT_TOKENS}/lr{rate:g}", job, priority=8, arm="float-text"))
    return runs


def _make_text_job(model: str, texts: list[str], tokens: int, rate: float) -> dict[str, Any]:
    steps = math.ceil(tokens / (TEXT_BATCH * TEXT_LENGTH))
    return {
        "model": model, "data": texts, "method": "pretrain", "max_length": TEXT_LENGTH, "batch_size": TEXT_BATCH,
        "epochs": float(steps), "max_steps": steps, "learning_rate": rate, "hold_out": 0.005, "compile": "off",
        "save_every": max(20, steps // 4), "save_minutes": 0,
    }  # fmt: skip


def list_task_runs(model: str, data_dir: str, task: str, counts: list[int], seeds: int) -> list[Run]:
    """Return the runs of every arm on *task*."""
    runs = []
    arms = ["fp16", "ternary", *(f"distill-{tokens}" for tokens in counts)]
    for number, arm in enumerate(arms):
        for seed in range(seeds):
            for rate in RATES["fp16" if arm == "fp16" else "ternary"] if seed == 0 else (0.0,):
                runs.append(_make_task_run(model, data_dir, task, arm, rate, seed, number))
    return runs


def _make_task_run(model: str, data_dir: str, task: str, arm: str, rate: float, seed: int, number: int) -> Run:
    """Return one run; a *rate* of 0 is the best one of the arm's search."""
    precision = "fp16" if arm == "fp16" else "ternary"
    job: dict[str, Any] = {
        "model": model, "data": [task], "data_dir": data_dir, "limit": TASKS[task], "precision": precision,
        "epochs": EPOCHS, "batch_size": BATCH, "max_length": LENGTH, "hold_out": 0.1, "learning_rate": rate,
        "seed": seed, "save_every": 10**6, "save_minutes": 0,
    }  # fmt: skip
    needs: list[str] = []
    if arm.startswith("distill"):
        tokens = int(arm.partition("-")[2])
        needs += [f"best:fp16/{task}"]
        job |= {"method": "distill", "teacher": f"best:fp16/{task}"}
        if tokens:
            needs.append(f"best:text/{tokens}")
            job |= {"model": f"best:text/{tokens}/masters"}
        else:
            job |= {"subln": True}
    name = f"{arm}/{task}"
    if seed:
        needs.append(f"best:{name}")
    # without a second seed, the arms with most text are the most telling; with them, those that ended first
    stage = {"fp16": 0.0, "ternary": 5.0}.get(arm, 4 - 0.1 * number)
    label = f"lr{rate:g}" if rate else "best"
    return Run(f"{name}/{label}/seed{seed}", job, tuple(needs), task, stage + 10 * seed, name)


def work(name: str, job: dict[str, Any], score: str | None, out: str) -> dict[str, Any]:
    """Fine-tune and score one run in this process, and return its losses and its score."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import bitnet_bench as bb
    from bitnet_bench.training.finetune import finetune

    try:
        return _work(bb, finetune, name, job, score, Path(out))
    except Exception as error:  # some cannot be sent to another process
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def _work(bb: Any, finetune: Any, name: str, job: dict[str, Any], score: str | None, out: Path) -> dict[str, Any]:
    import gc

    import torch

    gc.collect()  # one process does many runs, and others share its GPU
    torch.cuda.empty_cache()
    began = time.monotonic()
    folder = out / name
    record = finetune(bb.FinetuneJob.model_validate({**job, "out": str(folder / "model")}))
    trained = time.monotonic()
    found: dict[str, Any] = {"loss": record.validation[-1]["loss"], "steps": record.steps}
    if score:
        suite, task = score.split(":")
        scoring = bb.EvaluateJob(data_dir=job["data_dir"], limit=SCORED_ROWS, cache=False)
        run = bb.evaluate(str(folder / "model"), suite, folder / "run", scoring, tasks=[task])
        found["score"] = next((one.value for one in run.scores if one.primary), None)
        found["errors"] = [str(error) for error in run.errors]
    shutil.copy(folder / "model" / "finetune.json", folder / "finetune.json")
    return found | {"train_s": round(trained - began, 1), "score_s": round(time.monotonic() - trained, 1)}


class Schedule:
    """What is done, what may begin, and what the searches chose."""

    def __init__(self, runs: list[Run], out: Path) -> None:
        self.runs = {run.name: run for run in runs}
        self.out, self.done, self.begun = out, {}, set()  # type: ignore[var-annotated]
        self._file = out / "done.json"
        if self._file.is_file():
            self.done = json.loads(self._file.read_text())

    def choose_best(self, arm: str) -> str | None:
        """Return the run of an arm's search with the lowest validation loss, when all of them have ended."""
        tried = [name for name, run in self.runs.items() if run.arm == arm and "/best/" not in name]
        if not tried or not all(name in self.done for name in tried):
            return None
        return min(tried, key=lambda name: self.done[name].get("loss", math.inf))

    def list_ready(self) -> list[Run]:
        """Return the runs that may begin, the most important first."""
        ready = [run for run in self.runs.values() if run.name not in self.done and run.name not in self.begun]
        ready = [run for run in ready if all(self.choose_best(need.removeprefix("best:")) for need in run.needs)]
        return sorted(ready, key=lambda run: run.priority)

    def fill_in(self, run: Run) -> dict[str, Any]:
        """Return the job of *run* with what the searches before it chose."""
        job = dict(run.job)
        for name in ("model", "teacher"):
            if str(job.get(name, "")).startswith("best:"):
                arm, masters = str(job[name]).removeprefix("best:"), ""
                if arm.endswith("/masters"):
                    arm, masters = arm.removesuffix("/masters"), "/masters"
                job[name] = f"{self.out / str(self.choose_best(arm))}/model{masters}"
        if job.get("method") == "pretrain" and run.needs:
            job["learning_rate"] = self._chosen_rate(run.needs[0].removeprefix("best:"))
        if job["learning_rate"] == 0:
            job["learning_rate"] = self._chosen_rate(run.arm)
        return job

    def _chosen_rate(self, arm: str) -> float:
        best = self.choose_best(arm)
        assert best
        return float(self.runs[best].job["learning_rate"])

    def finish(self, name: str, found: dict[str, Any]) -> None:
        """Note the result of a run, and delete the weights that nothing needs."""
        self.done[name] = found
        self._file.write_text(json.dumps(self.done, indent=1))
        arm = self.runs[name].arm
        best = self.choose_best(arm)
        for other, run in self.runs.items():
            if run.arm == arm and other in self.done and (best and other != best):
                _drop_weights(self.out / other)


def _drop_weights(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    for file in folder.rglob("tokenizer.json"):
        file.unlink()


def run_all(schedule: Schedule, workers: int, seconds: float) -> None:
    """Run what is ready until nothing is left or the time is up; runs that have begun then end."""
    deadline = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future[dict[str, Any]], str] = {}
        while True:
            ready = schedule.list_ready() if time.monotonic() < deadline else []
            for run in ready[: workers - len(running)]:
                schedule.begun.add(run.name)
                job = schedule.fill_in(run)
                running[pool.submit(work, run.name, job, run.score, str(schedule.out))] = run.name
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                found = future.result()  # a run that fails does not end the experiment
                schedule.finish(name, found)
                left = deadline - time.monotonic()
                print(f"{left:6.0f} s left  {name}  {json.dumps(found, ensure_ascii=False)}", flush=True)


def print_tables(out: Path, tasks: list[str], counts: list[int]) -> None:
    """Print what each arm scored and how far it is from FP16, and the loss of each run on text along its tokens."""
    from arms import Arm, cell, difference

    from bitnet_bench.metrics import load_metric
    from bitnet_bench.runs.folder import load_record, load_samples

    done = json.loads((out / "done.json").read_text())
    print("| task | arm | rates that ended, of two | rate | seeds | score, difference to FP16 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in tasks:
        baseline = None
        for arm in ("fp16", "ternary", *(f"distill-{tokens}" for tokens in counts)):
            ended = {name: one for name, one in done.items() if name.startswith(f"{arm}/{task}/") and "score" in one}
            search = [name for name in ended if "/best/" not in name]
            if not search:
                continue
            chosen = min(search, key=lambda name: float(ended[name]["loss"]))
            folders = [out / chosen / "run", *(out / name / "run" for name in ended if "/best/" in name)]
            scores = [next(one for one in load_record(folder).scores if one.primary) for folder in folders]
            metric = load_metric(scores[0].metric)
            numbers = [metric.example_statistics(load_samples(folder, [task])) for folder in folders]
            found = Arm(scores, np.stack(numbers, axis=1))
            baseline = baseline or found
            paired = None if baseline is found else difference(found, baseline)
            rate = chosen.split("/")[2]
            print(f"| {task} | {arm} | {len(search)} | {rate} | {len(folders)} | {cell(found, paired)} |")
    for name, one in done.items():
        if name.startswith("float-text/"):
            print(f"{name}: {one}")
    for file in sorted(out.glob("text/**/finetune.json")):
        lost = json.loads(file.read_text())["conversion"]
        curve = ", ".join(f"{tokens:,}: {loss:.2f}" for tokens, loss in lost["curve"])
        print(f"{file.parent}: float {lost['float_loss']:.2f}, ternary {lost['ternary_loss']:.2f}; {curve}")


def main() -> None:
    """Run the experiment, or print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--model")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--tokens", type=int, action="append", help="of text before distillation; again for more")
    given = parser.parse_args()
    counts = sorted(given.tokens or TEXT_TOKENS)
    if given.what == "table":
        print_tables(given.out, given.task or list(TASKS), counts)
        return
    texts = [str(file.resolve()) for file in sorted((given.data_dir / "raw_ko").glob("*.jsonl"))]
    runs = list_text_runs(given.model, texts, counts)
    for task in given.task or TASKS:
        runs += list_task_runs(given.model, str(given.data_dir.resolve()), task, counts, given.seeds)
    given.out.mkdir(parents=True, exist_ok=True)
    run_all(Schedule(runs, given.out.resolve()), given.workers, given.seconds)


if __name__ == "__main__":
    main()
