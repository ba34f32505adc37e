"""The main job, end to end, on what the package carries: no network, no data, a few minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench import api
from bitnet_bench.measure.run import Scenario
from bitnet_bench.ports import Steps
from bitnet_bench.records import EvaluateJob, FinetuneJob, RunRecord

SCENARIO = Scenario(prompt_tokens=128, new_tokens=32, rounds=5)
BEFORE, AFTER = EvaluateJob(stage="before"), EvaluateJob(stage="after")
PAIR = {"ternary": "demo", "fp16": "demo-fp16"}


def quickstart(out: Path, seed: int = 0, steps: Steps = api.quiet) -> tuple[list[RunRecord], Path]:
    """Evaluate, fine-tune and evaluate again the embedded pair on the `sample` suite, measure both, and report.

    Returns the four runs (before and after, ternary and FP16) and the report's path. What is finished in *out*
    is not done again.
    """
    tasks = api.select_tasks(["sample"])
    runs = {}
    for name, model in PAIR.items():
        runs[f"{name}-before"] = api.evaluate(model, tasks, out / f"{name}-before", BEFORE, steps)
    tuned = {}
    job = quickstart_job(out / "model", seed)
    for name, one in {"ternary": job, "fp16": api.twin_of(job, PAIR["fp16"])}.items():
        api.finetune(one, steps=steps)
        tuned[name] = one.out
        runs[f"{name}-after"] = api.evaluate(one.out, tasks, out / f"{name}-after", AFTER, steps)
    if not all(runs[f"{name}-after"].costs for name in PAIR):
        contestants = [api.Contender(tuned["ternary"], "ternary", out / "ternary-after")]
        contestants += [api.Contender(tuned["fp16"], precision, out / "fp16-after") for precision in api.FLOATS]
        api.measure(contestants, SCENARIO, steps=steps)
    folders = [out / name for name in runs]
    path = api.report(folders, out / "report.html")
    return [api.load_run(folder) for folder in folders], path


def quickstart_job(out: Path, seed: int) -> FinetuneJob:
    """Return the fine-tuning of the embedded pair: the training rows of `sample`, and the embedded instructions."""
    tasks = [f"{suite.name}:{task.name}" for suite, task in api.select_tasks(["sample"])]
    instructions = Path(__file__).parent / "demo" / "instructions.jsonl"
    return FinetuneJob(
        model=PAIR["ternary"],
        data=(*tasks, str(instructions)),
        out=str(out),
        epochs=6,
        learning_rate=1e-3,
        batch_size=16,
        seed=seed,
    )
