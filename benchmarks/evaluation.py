"""CPU seconds of scoring KoBEST rows through lm-eval's own `hf` model and through ours, alternating.

    python benchmarks/evaluation.py float --vocabulary 32000 --data-dir DATA
    python benchmarks/evaluation.py model GEMMA --data-dir DATA --shots 5 --limit 10
    python benchmarks/evaluation.py families --data-dir DATA --limit 4
    python benchmarks/evaluation.py ternary --data-dir DATA
    bitnet-bench init --preset bitnet-2b-4t --format masters MASTERS && bitnet-bench convert --to packed MASTERS PACKED
    python benchmarks/evaluation.py checkpoints MASTERS PACKED --data-dir DATA

Both score the very same requests, of a random model of 125M's shape or of 8 layers of 512 (`families`), or of a real
one (`model`). Log-probabilities are compared to 1e-4 (float; `families` and `model` in float32 1e-3), and predictions
are counted where they differ. lm-eval's batch size is the fastest of those given.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.ternary import TernaryBackend
from bitnet_bench.checkpoints.converting import convert_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import TaskSettings, build_task, find_definition

TASKS = ("boolq", "copa", "wic", "hellaswag", "sentineg")
SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 2048,
}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
Results = list[tuple[float, bool]]
app = typer.Typer(add_completion=False)
DataDir = Annotated[Path, typer.Option(help="Folder of local rows.")]
Batches = Annotated[list[int], typer.Option(help="Batch sizes of lm-eval's to try.")]


def requests(data: Path, shots: int, limit: int) -> list[Any]:
    """Return the log-likelihood requests of the first *limit* rows of every KoBEST task."""
    made = []
    for suite, task in select_tasks(["kobest"], list(TASKS)):
        lm_task = build_task(suite, task, TaskSettings(data, shots=shots)).lm_task
        lm_task.build_all_requests(limit=limit, rank=0, world_size=1)
        made += lm_task.instances
    return made


def random_llama(vocabulary: int, dtype: torch.dtype) -> Any:
    """Return a random Llama of 125M's shape."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **SHAPE)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def timed(work: Callable[[], Results]) -> tuple[float, float, Results]:
    """Return (CPU seconds, wall seconds, results)."""
    cpu, wall = time.process_time(), time.perf_counter()
    results = work()
    return time.process_time() - cpu, time.perf_counter() - wall, results


def theirs(model: Any, tokenizer: Any, asked: Sequence[Any], size: int) -> Callable[[], Results]:
    """Return a run of lm-eval's `hf` model."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
    return lambda: [tuple(r) for r in lm.loglikelihood(list(asked), disable_tqdm=True)]


def ours(session: Any, asked: Sequence[Any]) -> Callable[[], Results]:
    """Return a run of our session, task by task as `evaluate` does it."""
    lm = SessionLM(session)
    tasks = [list(group) for _, group in groupby(asked, key=lambda request: request.task_name)]
    return lambda: [result for task in tasks for result in lm.loglikelihood(task)]


def predictions(asked: Sequence[Any], results: Results) -> list[int]:
    """Return the most likely choice of each document."""
    scores: dict[tuple[str, int], list[float]] = {}
    for request, (loglikelihood, _) in zip(asked, results, strict=True):
        scores.setdefault((request.task_name, request.doc_id), []).append(loglikelihood)
    return [max(range(len(s)), key=s.__getitem__) for s in scores.values()]


def compare_answers(asked: Sequence[Any], mine: Results, others: Results) -> dict[str, float]:
    """Return how far two runs' log-probabilities are apart, and how many predictions of theirs differ."""
    errors = sorted(abs(a - b) for (a, _), (b, _) in zip(mine, others, strict=True))
    pairs = list(zip(predictions(asked, mine), predictions(asked, others), strict=True))
    return {
        "median nats apart": errors[len(errors) // 2],
        "most nats apart": errors[-1],
        "documents": len(pairs),
        "other predictions": sum(a != b for a, b in pairs),
    }


def compare(asked: Sequence[Any], runs: dict[str, Callable[[], Results]], rounds: int, bound: float | None) -> None:
    """Alternate *runs*, the last of which is ours, check what it says against the first, and print the table."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    results: dict[str, Results] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            cpu, wall, results[name] = timed(run)
            seconds[name].append((cpu, wall))
    mine, first = list(runs)[-1], next(iter(runs))
    error = max(abs(a - b) for (a, _), (b, _) in zip(results[mine], results[first], strict=True))
    other = sum(
        a != b for a, b in zip(predictions(asked, results[mine]), predictions(asked, results[first]), strict=True)
    )
    if bound is not None and (error > bound or other):
        raise AssertionError(f"log-probabilities differ by {error}, {other} predictions differ")
    print(f"{len(asked)} requests, largest difference {error:.1e} nats, {other} predictions differ")
    best = {name: min(pairs) for name, pairs in seconds.items()}
    fastest = min(cpu for name, (cpu, _) in best.items() if name != mine)
    for name, (cpu, wall) in best.items():
        print(json.dumps({"contestant": name, "cpu_s": round(cpu, 1), "wall_s": round(wall, 1)}))
    print(f"CPU of lm-eval's best over ours: {fastest / best[mine][0]:.2f}")


@app.command("float")
def plain(
    data_dir: DataDir,
    vocabulary: int = 32000,
    shots: int = 0,
    limit: int = 40,
    dtype: str = "float32",
    rounds: int = 2,
    batch: Batches = [1, 8, 32],  # noqa: B006
) -> None:
    """A float model of 125M's shape, the same weights on both sides."""
    model = random_llama(vocabulary, getattr(torch, dtype))
    tokenizer = load_tokenizer(open_checkpoint("demo"))
    asked = requests(data_dir, shots, limit)
    runs = {f"lm-eval hf, batch {size}": theirs(model, tokenizer, asked, size) for size in batch}
    with torch.inference_mode():
        runs["bitnet-bench hf"] = ours(HFSession(model, tokenizer, "fp32"), asked)
        compare(asked, runs, rounds, 1e-4 if dtype == "float32" else None)


@app.command()
def model(
    folder: Annotated[Path, typer.Argument(help="A float checkpoint of any family.")],
    data_dir: DataDir,
    shots: int = 0,
    limit: int = 10,
    dtype: str = "bfloat16",
    rounds: int = 2,
    threads: int = 1,
    batch: Batches = [1, 4, 16],  # noqa: B006
) -> None:
    """A real checkpoint, the same weights on both sides."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = load_tokenizer(inspect_folder(folder))
    asked = requests(data_dir, shots, limit)
    runs = {f"lm-eval hf, batch {size}": theirs(opened, tokenizer, asked, size) for size in batch}
    with torch.inference_mode():
        session = HFSession(opened, tokenizer, "fp32")
        runs["bitnet-bench hf"] = ours(session, asked)
        compare(asked, runs, rounds, 1e-3 if dtype == "float32" else None)
    print(f"read as: {session.reader.way}")


WIDE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}
WINDOW: dict[str, Any] = {"sliding_window": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 2048},
    "gpt_neox": WIDE,
    "llama": WIDE,
    "mistral": WIDE | WINDOW,
    "qwen2": WIDE | {"num_key_value_heads": 8},
    "qwen3": WIDE | {"num_key_value_heads": 8},
    "gemma2": WIDE | WINDOW | {"head_dim": 64, "num_key_value_heads": 2},
    "gemma3_text": WIDE | WINDOW | {"head_dim": 64, "num_key_value_heads": 2},
    "gpt_oss": WIDE | WINDOW | {"head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi": WIDE,
    "bloom": {"hidden_size": 512, "n_layer": 8, "n_head": 8},
    "mamba": {"hidden_size": 512, "num_hidden_layers": 8, "state_size": 16},
}
"""Settings of random models of each family."""


@app.command()
def families(
    data_dir: DataDir,
    vocabulary: int = 32000,
    shots: int = 0,
    limit: int = 4,
    rounds: int = 2,
    threads: int = 1,
    batch: Batches = [4, 16],  # noqa: B006
    family: Annotated[list[str], typer.Option(help="Families to measure.")] = [*FAMILIES],  # noqa: B006
) -> None:
    """A random float32 model of every family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(open_checkpoint("demo"))
    asked = requests(data_dir, shots, limit)
    for name in family:
        torch.manual_seed(0)
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = AutoConfig.for_model(name, vocab_size=vocabulary, **ends, **FAMILIES[name])
        opened = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        runs = {f"lm-eval hf, batch {size}": theirs(opened, tokenizer, asked, size) for size in batch}
        with torch.inference_mode():
            session = HFSession(opened, tokenizer, "fp32")
            runs["bitnet-bench hf"] = ours(session, asked)
            print(name)
            compare(asked, runs, rounds, 1e-3)
        print(f"read as: {session.reader.way}", flush=True)


@app.command()
def ternary(
    data_dir: DataDir,
    vocabulary: int = 32000,
    shots: int = 0,
    limit: int = 40,
    rounds: int = 1,
    batch: Batches = [8, 32],  # noqa: B006
) -> None:
    """A ternary model of 125M's shape: transformers' online BitLinear in bfloat16 against the ternary backend."""
    tokenizer = load_tokenizer(open_checkpoint("demo"))
    with tempfile.TemporaryDirectory() as folder:
        masters, packed = Path(folder) / "masters", Path(folder) / "packed"
        random_llama(vocabulary, torch.float32).save_pretrained(masters)
        tokenizer.save_pretrained(masters)
        config = json.loads((masters / "config.json").read_text())
        (masters / "config.json").write_text(json.dumps(config | {"quantization_config": ONLINE}))
        convert_checkpoint(inspect_folder(masters), "packed", packed, lambda *_: None, logits=None)
        checkpoints(masters, packed, data_dir, shots, limit, rounds, batch)


@app.command()
def checkpoints(
    masters: Annotated[Path, typer.Argument(help="A checkpoint of masters, which transformers makes ternary online.")],
    packed: Annotated[Path, typer.Argument(help="The same, packed for the ternary backend.")],
    data_dir: DataDir,
    shots: int = 0,
    limit: int = 40,
    rounds: int = 1,
    batch: Batches = [8],  # noqa: B006
) -> None:
    """A ternary checkpoint of any size: the same comparison."""
    from transformers import AutoModelForCausalLM

    asked = requests(data_dir, shots, limit)
    online = AutoModelForCausalLM.from_pretrained(masters, dtype=torch.bfloat16).eval()
    tokenizer = load_tokenizer(inspect_folder(packed))
    runs = {f"lm-eval hf, batch {size}": theirs(online, tokenizer, asked, size) for size in batch}
    with TernaryBackend().open(inspect_folder(packed), "ternary") as session:
        runs["bitnet-bench ternary"] = ours(session, asked)
        compare(asked, runs, rounds, None)


@app.command("command")
def whole_command(
    folder: Annotated[Path, typer.Argument(help="A float checkpoint of any family.")],
    data_dir: DataDir,
    task: Annotated[list[str], typer.Option(help="Tasks of KoBEST.")] = ["copa", "boolq", "hellaswag"],  # noqa: B006
    limit: int = 24,
    precision: str = "bf16",
    batch: Batches = [4],  # noqa: B006
) -> None:
    """The command `evaluate` beside lm-eval's own, from start to end, on the same rows and prompts."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        mine = ["bitnet_bench", "evaluate", "--backend", "hf", "--suite", "kobest", "--model", str(folder)]
        mine += ["--data-dir", str(data_dir), "--precision", precision, "--limit", str(limit), "--no-cache"]
        mine += [f"--task={name}" for name in task]
        seconds = run_command([*mine, "--out", str(out / "ours")])
        scores = {
            score["task"]: score["value"]
            for score in json.loads((out / "ours" / "record.json").read_text())["scores"]
            if score["metric"] == "accuracy"
        }
        print(json.dumps({"contestant": "bitnet-bench evaluate", "cpu_s": round(seconds, 1), "accuracy": scores}))
        write_lm_eval_tasks(data_dir, task, out / "tasks")
        dtype = {"bf16": "bfloat16", "fp32": "float32"}[precision]
        for size in batch:
            theirs = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={folder},dtype={dtype}"]
            theirs += ["--tasks", *(f"bb_kobest_{name}" for name in task), "--include_path", str(out / "tasks")]
            theirs += ["--limit", str(limit), "--batch_size", str(size), "--device", "cpu"]
            seconds = run_command([*theirs, "--output_path", str(out / f"theirs-{size}")])
            (found,) = (out / f"theirs-{size}").rglob("results_*.json")
            results = json.loads(found.read_text())["results"]
            scores = {name: result["acc,none"] for name, result in results.items()}
            print(json.dumps({"contestant": f"lm_eval, batch {size}", "cpu_s": round(seconds, 1), "accuracy": scores}))


def run_command(arguments: Sequence[str]) -> float:
    """Run a module of Python on one thread, without the hub, and return its CPU seconds."""
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=os.environ | offline, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_lm_eval_tasks(data: Path, tasks: Sequence[str], folder: Path) -> None:
    """Write the suite's definitions for lm-eval's own command, with local rows."""
    folder.mkdir()
    for suite, task in select_tasks(["kobest"], list(tasks)):
        lines = find_definition(suite, task, "default").read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(("dataset_", "training_split"))]
        rows = json.dumps({"data_files": {"test": str((data / "kobest" / task.name / "test.jsonl").resolve())}})
        text = "\n".join([*kept, "dataset_path: json", f"dataset_kwargs: {rows}"])
        (folder / f"{task.name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    app()
