"""Search what a float model needs while it becomes ternary: gradual quantization, a rate for floats, a frozen table.

python benchmarks/conversion_options.py text --model MODEL --data RAW.jsonl --out OUT
python benchmarks/conversion_options.py task --model MODEL --data klue:ynat --data-dir DATA --out OUT
python benchmarks/conversion_options.py table --out OUT

Arms: plain; gradual quantization (`ternary_warmup`, a share of the steps); another rate for embeddings, head and norms
(`float_learning_rate`); and frozen embeddings. Each tries four settings with seed 0, takes the one with the lowest
validation loss, and runs it with two more seeds. text: SubLN and running text (stage 2 of `preset=bitdistill`), scored
in nats a token of texts that nothing else saw. task: SubLN and distillation from the FP16 twin, without text (stage 3),
scored on the task's test rows. A finished run is not done again; its weights are deleted once it is scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 3
WARMUP_SHARES, FLOAT_FACTORS = (0.25, 0.5), (0.3, 0.1)
VALIDATION_TEXTS, TEST_TEXTS = 24, 96
SCORED_ROWS = 1000
ARMS = ("plain", "gradual", "float rate", "frozen embeddings")
RESAMPLES = 10_000


def list_trials(arm: str, rates: Sequence[float], plain: float, steps: int) -> dict[str, dict[str, Any]]:
    """Return four settings of *arm*; *plain* is the best rate without options, from which two of them start."""
    higher = min((rate for rate in rates if rate > plain), default=2 * plain)
    if arm == "gradual":
        return {
            f"warmup{share}-lr{rate:g}": {"learning_rate": rate, "ternary_warmup": round(share * steps)}
            for share in WARMUP_SHARES for rate in (plain, higher)
        }  # fmt: skip
    if arm == "float rate":
        return {
            f"float{factor}-lr{rate:g}": {"learning_rate": rate, "float_learning_rate": factor * rate}
            for factor in FLOAT_FACTORS for rate in (plain, higher)
        }  # fmt: skip
    frozen = {"freeze": ["embeddings"]} if arm == "frozen embeddings" else {}
    return {f"lr{rate:g}": {"learning_rate": rate, **frozen} for rate in rates}


def make_text_job(given: argparse.Namespace) -> dict[str, Any]:
    """Return stage 2, on texts that are divided by number into those of training, validation and test."""
    texts = [line for file in given.data for line in Path(file).read_text(encoding="utf-8").splitlines()]
    chosen = np.random.default_rng(0).permutation(len(texts))
    parts = np.split(chosen, [TEST_TEXTS, TEST_TEXTS + VALIDATION_TEXTS])
    files = [given.out / f"{name}.jsonl" for name in ("test", "validation", "training")]
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(f"{texts[i]}\n" for i in part), encoding="utf-8")
    return {
        "model": given.model, "method": "pretrain", "subln": lacks_sub_norms(given.model), "data": [str(files[2])],
        "validation": [str(files[1])], "batch_size": given.batch, "max_length": given.length, "epochs": 1000.0,
        "max_steps": given.steps,
    }  # fmt: skip


def make_task_job(given: argparse.Namespace) -> dict[str, Any]:
    """Return stage 3 after the twin that teaches it, which is trained here at a rate of its own."""
    from bitnet_bench.runs.jobs import FinetuneJob
    from bitnet_bench.training.finetune import finetune

    job = {
        "model": given.model, "data": given.data, "data_dir": given.data_dir, "limit": given.rows, "hold_out": 0.1,
        "batch_size": given.batch, "max_length": given.length, "epochs": given.epochs,
    }  # fmt: skip
    twin = {**job, **COMMON, "precision": "fp16", "learning_rate": given.twin_rate, "out": str(given.out / "twin")}
    finetune(FinetuneJob.model_validate(twin))
    return {**job, "method": "distill", "teacher": twin["out"], "subln": lacks_sub_norms(given.model)}


def lacks_sub_norms(model: str) -> bool:
    """Return whether a checkpoint lacks the norms of SubLN, which the embedded FP16 model has from its beginning."""
    from bitnet_bench.checkpoints.locate import load_config
    from bitnet_bench.training.stage_checks import has_sub_norms

    return not has_sub_norms(load_config(model))


COMMON: dict[str, Any] = {"save_every": 10**6, "save_minutes": 0, "track": []}


def run(given: argparse.Namespace) -> None:
    """Run all arms, and print what each run scored."""
    given.out.mkdir(parents=True, exist_ok=True)
    job = (make_text_job if given.what == "text" else make_task_job)(given)
    steps = given.steps if given.what == "text" else count_task_steps(given)
    plain = max(given.rates)
    for arm in ARMS:
        trials = list_trials(arm, given.rates, plain, steps)
        losses = {name: run_once(given, {**job, **trial}, arm, name, 0) for name, trial in trials.items()}
        best = min(losses, key=lambda name: losses[name])
        if arm == "plain":
            plain = trials[best]["learning_rate"]
        for seed in range(1, given.seeds):
            run_once(given, {**job, **trials[best]}, arm, best, seed)


def count_task_steps(given: argparse.Namespace) -> int:
    """Return the optimizer steps of stage 3."""
    record = json.loads((given.out / "twin/finetune.json").read_text(encoding="utf-8"))
    return int(record["steps"])


def run_once(given: argparse.Namespace, job: dict[str, Any], arm: str, name: str, seed: int) -> float:
    """Train and score one run unless it was, and return its validation loss."""
    folder = given.out / "runs" / arm.replace(" ", "-") / f"{name}-seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        from bitnet_bench.runs.jobs import FinetuneJob
        from bitnet_bench.training.finetune import finetune

        settings = {**COMMON, **job, "seed": seed, "out": str(folder / "model")}
        record = finetune(FinetuneJob.model_validate(settings))
        score = score_texts if given.what == "text" else score_task
        sums, counts = score(given, folder)
        found = {
            "arm": arm, "setting": name, "seed": seed, "loss": record.validation[-1]["loss"], "steps": record.steps,
            "seconds": round(record.train_seconds), "tokens": record.conversion and record.conversion.curve[-1][0],
            "begins": record.conversion and record.conversion.ternary_loss, "sums": sums, "counts": counts,
            "what": given.what,
        }  # fmt: skip
        for file in chain((folder / "model").rglob("*.safetensors"), (folder / "model").rglob("tokenizer.json")):
            file.unlink()
        result.write_text(json.dumps(found))
    found = json.loads(result.read_text())
    figure = sum(found["sums"]) / sum(found["counts"])
    print(f"{arm:18} {name:22} seed {seed}  validation {found['loss']:.3f}  test {figure:.3f}", flush=True)
    return float(found["loss"])


def score_texts(given: argparse.Namespace, folder: Path) -> tuple[list[float], list[int]]:
    """Return the cross-entropy of each test text in nats, and its tokens."""
    import torch

    from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
    from bitnet_bench.checkpoints.locate import open_checkpoint
    from bitnet_bench.training.loss import response_loss

    checkpoint = open_checkpoint(str(folder / "model"))
    model, tokenizer = load_model(checkpoint, "run", "ternary"), load_tokenizer(checkpoint)
    sums, counts = [], []
    for line in (given.out / "test.jsonl").read_text(encoding="utf-8").splitlines():
        ids = torch.tensor([tokenizer(json.loads(line)["text"]).input_ids[: given.length]])
        with torch.no_grad():
            loss, count = response_loss(model, {"input_ids": ids, "labels": ids})
        sums, counts = [*sums, float(loss)], [*counts, count]
    return sums, counts


def score_task(given: argparse.Namespace, folder: Path) -> tuple[list[float], list[int]]:
    """Return for each test row whether it was answered right, in percent, and 1."""
    import bitnet_bench
    from bitnet_bench.runs.folder import load_samples

    suite, task = given.data[0].split(":")
    job = bitnet_bench.EvaluateJob(data_dir=given.data_dir, limit=SCORED_ROWS, cache=False)
    bitnet_bench.evaluate(str(folder / "model"), suite, folder / "run", job, tasks=[task])
    rows = load_samples(folder / "run", [f"{suite}:{task}"])
    return [100 * row.correct for row in rows], [1] * len(rows)


def list_results(out: Path, arm: str) -> Iterator[dict[str, Any]]:
    """Yield the results of an arm's runs."""
    for file in sorted((out / "runs" / arm.replace(" ", "-")).glob("*/result.json")):
        yield json.loads(file.read_text())


def choose(out: Path, arm: str) -> list[dict[str, Any]]:
    """Return the results of the setting of *arm* with the lowest validation loss, a seed each."""
    found = list(list_results(out, arm))
    best = min((one for one in found if one["seed"] == 0), key=lambda one: one["loss"])["setting"]
    return [one for one in found if one["setting"] == best]


def resample(results: Sequence[dict[str, Any]], picks: np.ndarray) -> np.ndarray:
    """Return the figure of each of the resamples *picks* [R, n] of test rows, seeds averaged."""
    counts = np.array(results[0]["counts"], float)[picks].sum(1)
    return np.mean([np.array(one["sums"])[picks].sum(1) / counts for one in results], axis=0)


def table(out: Path) -> None:
    """Print what each arm chose and scored, and how far it is from the plain one, with a 95 % interval over rows."""
    plain = choose(out, "plain")
    rows = len(plain[0]["counts"])
    picks = np.random.default_rng(1).integers(0, rows, (RESAMPLES, rows))
    unit = "nats a token" if plain[0]["what"] == "text" else "accuracy"
    print(
        f"| arm | settings tried | chosen | validation loss | test, {unit} ({rows} rows), least to most of the seeds "
        "| against plain, ± 95 % over rows | by seed |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for arm in ARMS:
        if not any(list_results(out, arm)):
            continue
        chosen = choose(out, arm)
        figures = [sum(one["sums"]) / sum(one["counts"]) for one in chosen]
        tried = sorted((one["loss"], one["setting"]) for one in list_results(out, arm) if one["seed"] == 0)
        shown = ", ".join(f"{name} {loss:.3f}" for loss, name in tried)
        cell = f"{statistics.mean(figures):.3f} ({min(figures):.3f} to {max(figures):.3f})"
        apart = resample(chosen, picks) - resample(plain, picks)
        by_seed = [a - sum(b["sums"]) / sum(b["counts"]) for a, b in zip(figures, plain, strict=False)]
        difference = f"{np.mean(by_seed):+.3f} ±{1.96 * apart.std():.3f}" if arm != "plain" else ""
        seeds = ", ".join(f"{one:+.3f}" for one in by_seed) if arm != "plain" else ""
        losses = statistics.mean(one["loss"] for one in chosen)
        print(f"| {arm} | {shown} | {chosen[0]['setting']} | {losses:.3f} | {cell} | {difference} | {seeds} |")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["text", "task", "table"])
    parser.add_argument("--model", default="demo-fp16")
    parser.add_argument("--data", action="append", help="text: JSONL files; task: SUITE:TASK")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60, help="text: optimizer steps")
    parser.add_argument("--rows", type=int, default=1000, help="task: training rows")
    parser.add_argument("--epochs", type=float, default=3, help="task: passes over them")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rates", type=float, nargs=4, default=[3e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--twin-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    table(given.out) if given.what == "table" else run(given)


if __name__ == "__main__":
    main()
