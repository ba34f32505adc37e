"""Evaluation on a GPU: KoBEST against lm-eval's best batch, the `hf` backend's decoding, and the CPU's predictions.

    python benchmarks/gpu_evaluation.py                       # every part, under two minutes on an H200
    python benchmarks/gpu_evaluation.py --part kobest         # one of kobest, decode, exact, predictions
    python benchmarks/gpu_evaluation.py --tiny --device cpu   # does it run at all

The model is a random Llama of the shape of bitnet-b1.58-2B-4T in bfloat16, made on the device. Rows come from
BITNET_BENCH_DATA; without it there are random ones of KoBEST's lengths. A part that fails prints its traceback and
leaves the others.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.hf.tree_rows import TreeRows
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.machine.gpu import find_gpu, why_no_gpu
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.ternary.linear import CodesLinear, find_ternary_targets

sys.path.insert(0, str(Path(__file__).parent))
from evaluation import compare_answers, ours, requests, theirs

Row = dict[str, Any]
ROWS_PER_TASK = 200
SHAPE = {
    "vocab_size": 128_256,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 30,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
    "max_position_embeddings": 4096,
}
TINY = SHAPE | {"vocab_size": 6144, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
KOBEST_LENGTHS = {
    "boolq": (2, (110, 560), (2, 4)),
    "copa": (2, (20, 40), (8, 24)),
    "wic": (2, (80, 160), (2, 4)),
    "hellaswag": (4, (120, 260), (24, 60)),
    "sentineg": (2, (20, 50), (3, 5)),
}
"""Choices, and the least and most characters of a context and of a choice."""


def synthetic_requests(rows: int) -> list[Any]:
    """Return requests over random syllables in the lengths of KoBEST."""
    from lm_eval.api.instance import Instance

    rng = random.Random(0)

    def text(limits: tuple[int, int]) -> str:
        return "".join(rng.choice("가나다라마바사아자차카타파하 은는이가을를에서") for _ in range(rng.randint(*limits)))

    made = []
    for task, (choices, context, choice) in KOBEST_LENGTHS.items():
        for document in range(rows):
            asked = "질문: " + text(context).strip() + "\n답:"
            for index in range(choices):
                arguments = (asked, " " + text(choice).strip() + str(index))
                made.append(Instance("loglikelihood", {}, arguments, index, (task, document, 1)))
    return made


def random_llama(shape: dict[str, int], device: str) -> Any:
    """Return a random Llama in bfloat16, made on *device*."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(tie_word_embeddings=True, **shape), dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def finish(device: str) -> float:
    """Return the time when the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def kobest(shape: dict[str, int], device: str, rows: int, batches: tuple[int, ...], rounds: int) -> Iterator[Row]:
    """Yield the seconds of KoBEST for lm-eval's `hf` at each of *batches* and for ours, alternating."""
    data = os.environ.get("BITNET_BENCH_DATA")
    asked = requests(Path(data), 0, rows) if data else synthetic_requests(rows)
    tokenizer = load_tokenizer(open_checkpoint("demo"))
    model = random_llama(shape, device)
    with torch.inference_mode():
        session = HFSession(model, tokenizer, "bf16")
        runs = {f"lm-eval hf, batch {size}": theirs(model, tokenizer, asked, size) for size in batches}
        runs["ours"] = ours(session, asked)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        answers: dict[str, Any] = {}
        for name in runs:  # what is done only once
            few = asked[:16] + asked[-16:]
            (ours(session, few) if name == "ours" else theirs(model, tokenizer, few, 16))()
        for _ in range(rounds):
            for name, run in runs.items():
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                began = finish(device)
                answers[name] = run()
                seconds[name].append(finish(device) - began)
                peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
                yield {"part": "kobest", "who": name, "s": round(seconds[name][-1], 3), "peak_GB": round(peak / 1e9, 2)}
        yield from _kobest_parts(session, asked, device)
    best = {name: min(found) for name, found in seconds.items()}
    first = next(iter(runs))
    yield {
        "part": "kobest",
        "requests": len(asked),
        "rows": "BITNET_BENCH_DATA" if data else "synthetic",
        "tokens_per_batch": session.budget,
        "over lm-eval's best": round(min(s for name, s in best.items() if name != "ours") / best["ours"], 2),
        **compare_answers(asked, answers["ours"], answers[first]),
    }
    yield {
        "part": "kobest",
        "who": "lm-eval against itself at another batch",
        **compare_answers(asked, answers[list(runs)[-2]], answers[first]),
    }


def _kobest_parts(session: Any, asked: list[Any], device: str) -> Iterator[Row]:
    """Yield where our seconds go: text to ids, and the passes alone."""

    class Ids:
        """Keeps what a session is asked."""

        tokenizer, max_length = session.tokenizer, session.max_length

        def loglikelihood(self, pairs: Any, part: Any) -> Iterator[Any]:
            """Answer nothing."""
            asked_ids.append(pairs)
            yield [(i, (0.0, False)) for i in range(len(pairs))]

    asked_ids: list[Any] = []
    tasks = [list(group) for _, group in groupby(asked, key=lambda request: request.task_name)]
    began = time.perf_counter()
    for task in tasks:
        SessionLM(Ids()).loglikelihood(task)  # type: ignore[arg-type]
    yield {"part": "kobest", "who": "ours, text to ids", "s": round(time.perf_counter() - began, 3)}
    began = finish(device)
    passes = [list(session.loglikelihood(pairs)) for pairs in asked_ids]
    seconds = finish(device) - began
    yield {"part": "kobest", "who": "ours, passes", "s": round(seconds, 3), "batches": sum(map(len, passes))}
    batched, hidden = [], session.hidden
    session.hidden = lambda batch, places: (batched.append((batch, places)), hidden(batch, places))[1]
    for pairs in asked_ids:
        list(session.loglikelihood(pairs))
    session.hidden = hidden
    session.read_prefix(())
    began = finish(device)
    for batch, places in batched:
        hidden(batch, places)
    yield {"part": "kobest", "who": "ours, hidden states", "s": round(finish(device) - began, 3)}
    began = finish(device)
    for batch, places in batched:
        layout = TreeRows.from_trees(batch, 0, session._model.config.hidden_size)
        layout.find_indices(places)
        layout.find_seen(session._model.device)
    yield {"part": "kobest", "who": "ours, rows and masks", "s": round(finish(device) - began, 3)}


def decode(shape: dict[str, int], device: str, new: int) -> Iterator[Row]:
    """Yield tokens/s of the `hf` backend's decoding, eager and in a graph, with the same tokens."""
    for held in ("bf16", "ternary"):
        model = random_llama(shape, device)
        if held == "ternary":
            _make_ternary(model)
        yield from _decode(model, held, device, new)


def _make_ternary(model: Any) -> None:
    """Put random codes into the place of every layer but the head."""
    for name, layer in find_ternary_targets(model).items():
        codes = torch.randint(-1, 2, layer.weight.shape, dtype=torch.int8, device=layer.weight.device)
        model.set_submodule(name, CodesLinear(codes, torch.tensor(0.02, device=codes.device), None))


def _decode(model: Any, held: Any, device: str, new: int) -> Iterator[Row]:
    tokenizer = load_tokenizer(open_checkpoint("demo"))
    rng = random.Random(0)
    with torch.inference_mode():
        for batch in (1, 16):
            prompts = [[rng.randrange(6000) for _ in range(512)] for _ in range(batch)]
            written: dict[str, list[int]] = {}
            for name in ("eager", "graph"):
                session = HFSession(model, tokenizer, held)
                session.uses_slots = name == "graph"
                session.decode(session.prefill(prompts), new)  # captures, where it does
                prefills, decodes = [], []
                for _ in range(3):
                    began = finish(device)
                    state = session.prefill(prompts)
                    read = finish(device)
                    state = session.decode(state, new)
                    prefills.append(read - began)
                    decodes.append(finish(device) - read)
                written[name] = state.tokens.tolist()
                yield {
                    "part": "decode",
                    "who": f"{held} {name}, batch {batch}",
                    "weights_GB": round(session.footprint()[0] / 1e9, 2),
                    "prefill tokens/s": round(512 * batch / min(prefills)),
                    "tokens/s": round(new * batch / min(decodes), 1),
                    "runtime": session.describe_runtime(),
                }
            same = sum(a == b for a, b in zip(written["eager"], written["graph"], strict=True))
            yield {
                "part": "decode",
                "who": f"{held} batch {batch}",
                "rows with the same last token": f"{same} of {batch}",
            }


def exact(device: str) -> Iterator[Row]:
    """Yield whether an int8 layer gives the CPU's bits, and its time in both products that are exact."""
    torch.manual_seed(0)
    for rows, columns, tokens in ((2560, 2560, 1), (13824, 2560, 1), (2560, 6912, 64), (2560, 2560, 4096)):
        codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8)
        x = torch.randn(tokens, columns)
        layer = CodesLinear(codes, torch.tensor(0.37), None)
        wanted = layer(x)
        layer, x = layer.to(device), x.to(device)
        row: Row = {"part": "exact", "shape": f"{rows}x{columns}", "tokens": tokens}
        row["equal bits"] = bool((layer(x).cpu() == wanted).all())
        q = torch.randint(-128, 128, (max(32, tokens), columns), dtype=torch.int8, device=device)
        held = layer.codes

        def by_bf16(q: Any = q, held: Any = held, tokens: int = tokens) -> Any:
            return torch.mm(q[:tokens].bfloat16(), held.bfloat16().t(), out_dtype=torch.float32)

        def by_int8(q: Any = q, held: Any = held) -> Any:
            return torch._int_mm(q, held.t())

        if device == "cuda":
            row |= {"bf16 µs": _microseconds(by_bf16), "int8 µs (32 rows at least)": _microseconds(by_int8)}
        yield row


def _microseconds(work: Callable[[], Any], times: int = 50) -> float:
    work()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(times):
        work()
    ended.record()
    ended.synchronize()
    return round(1e3 * began.elapsed_time(ended) / times, 1)


def compare_devices(device: str, limit: int) -> Iterator[Row]:
    """Yield the rows of `sample` on which the embedded models answer otherwise on the GPU than on the CPU."""
    cases = [
        ("demo", "hf", "ternary", "bf16"),
        ("demo-fp16", "hf", "fp32", "bf16"),
        ("demo-fp16", "hf", "bf16", "bf16"),
    ]
    cases += [("demo", "ternary", "ternary", "bf16"), ("demo", "ternary", "ternary", "fp32")]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(5) as pool:
        compared = [pool.submit(_compare_case, Path(folder), *case, device, limit) for case in cases]
        for case, row in zip(cases, compared, strict=True):
            try:
                yield row.result()
            except Exception:  # one of them may not run here
                said = traceback.format_exc().strip().splitlines()
                yield {"part": "predictions", "who": " ".join(case), "failed": "\n".join(said[-6:])}


def _compare_case(folder: Path, model: str, backend: str, precision: str, between: str, device: str, limit: int) -> Row:
    out = folder / f"{model}-{backend}-{precision}-{between}"
    found = {}
    for where in ("cpu", device):
        words = ["evaluate", "--suite", "sample", "--model", model, "--backend", backend, "--precision", precision]
        words += ["--no-cache", "--out", str(out / where), *(["--limit", str(limit)] if limit else [])]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if where == "cpu" else {}
        environment = {**os.environ, "BITNET_BENCH_GPU": between, **hidden}
        done = subprocess.run(
            [sys.executable, "-m", "bitnet_bench", *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-500:])
        record = load_record(out / where)
        found[where] = record, load_samples(out / where, list(record.samples))
    (_, wanted), (record, got) = found["cpu"], found[device]
    pairs = list(zip(wanted, got, strict=True))
    other = [f"{b.task}#{b.doc_id}: {a.output!r} -> {b.output!r}" for a, b in pairs if a.output != b.output]
    largest = max(
        (abs(x - y) for a, b in pairs for x, y in zip(a.loglikelihoods, b.loglikelihoods, strict=True)), default=0.0
    )
    return {
        "part": "predictions",
        "who": f"{model} {backend} {precision}",
        "between products": between,
        "rows": len(pairs),
        "other outputs": len(other),
        "largest nats": float(f"{largest:.2g}"),
        "runtime": record.runtime,
        "named": other[:20],
    }


def measure(
    part: str = "all", tiny: bool = False, device: str = "cuda", report: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Return the rows of a part, or of all of them; *report* is told each as it comes."""
    shape = TINY if tiny else SHAPE
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "exact": lambda: exact(device),
        "kobest": lambda: kobest(shape, device, 4 if tiny else ROWS_PER_TASK, (8,) if tiny else (32, 64), 2),
        "decode": lambda: decode(shape, device, 8 if tiny else 64),
        "predictions": lambda: compare_devices(device, 2 if tiny else 0),
    }
    rows = []
    for name, run in parts.items():
        if part not in ("all", name):
            continue
        began = time.perf_counter()
        try:
            for row in run():
                rows.append(row)
                report(row)
        except Exception:  # the others are measured
            rows.append({"part": name, "failed": traceback.format_exc()})
            report(rows[-1])
        rows.append({"part": name, "seconds in all": round(time.perf_counter() - began, 1)})
        report(rows[-1])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def main(
    part: Annotated[str, typer.Option(help="all, exact, kobest, decode or predictions.")] = "all",
    tiny: Annotated[bool, typer.Option("--tiny", help="A model of two layers and few rows.")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    out: Annotated[Path | None, typer.Option(help="A file for the rows, JSON lines.")] = None,
) -> None:
    """Print a row of JSON for everything that was measured."""
    gpu = find_gpu()
    print(gpu.describe() if gpu else f"no GPU: {why_no_gpu()}", f"torch {torch.__version__}", flush=True)
    rows = measure(part, tiny, device, lambda row: print(_shown(row), flush=True))
    if out:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _shown(row: Row) -> str:
    if "failed" in row:
        return f"{row['part']} FAILED\n{row['failed']}"
    return json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    typer.run(main)
