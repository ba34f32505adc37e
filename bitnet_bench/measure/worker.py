"""The process in which one checkpoint is measured: `python -m bitnet_bench.measure.worker`.

It reads one JSON line that says what to open, answers with a line of what that took, and then answers each
further line with one round. Rounds are asked for one at a time, so that contestants alternate.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.ports import Session
from bitnet_bench.records import Checkpoint

SEED = 0
SHORTEST_ROUND_S = 0.5


def main() -> None:
    """Serve one contestant until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    task = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(task["threads"])
    backend = pkgutil.resolve_name(task["backend"])()
    meter = pkgutil.resolve_name(task["meter"])()
    checkpoint = Checkpoint.model_validate(task["checkpoint"])
    if hasattr(backend, "prepare"):
        backend.prepare(checkpoint)
    torch.ones(64, 64) @ torch.ones(64, 64)  # starts the thread pool
    baseline = _reset_peak()
    started = time.perf_counter()
    with backend.open(checkpoint, task["precision"]) as session:
        load_s = time.perf_counter() - started
        weights, kv_per_token = session.footprint()
        prompts = _prompts(session, task["batch"], task["prompt_tokens"])
        _round(session, prompts, task["new_tokens"], meter)
        _say(answers, {"load_s": load_s, "resident_weight_bytes": weights, "kv_per_token": kv_per_token})
        for _ in sys.stdin:
            reading = _round(session, prompts, task["new_tokens"], meter)
            _say(answers, {**reading, "peak_bytes": _peak() - baseline})


def _say(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _prompts(session: Session, batch: int, length: int) -> list[list[int]]:
    """Return seeded random ids: what a dense model computes does not depend on them."""
    rng = random.Random(SEED)
    size = len(session.tokenizer)
    return [[rng.randrange(size) for _ in range(length)] for _ in range(batch)]


def _round(session: Session, prompts: list[list[int]], new_tokens: int, meter: Any) -> dict[str, Any]:
    """Time prefill and *new_tokens* - 1 decoding steps (the first new token is prefill's), again and again.

    A round lasts `SHORTEST_ROUND_S` at least, so that a tiny model is not lost in the clock's and the counters'
    grain; the readings are means over its repetitions.
    """
    busy, wall = _busy(), time.perf_counter()
    prefill = decode = 0.0
    repetitions = 0
    meter.start()
    while prefill + decode < SHORTEST_ROUND_S:
        started = time.perf_counter()
        state = session.prefill(prompts)
        first = time.perf_counter()
        session.decode(state, new_tokens - 1)
        decode += time.perf_counter() - first
        prefill += first - started
        repetitions += 1
    energy = meter.stop()
    return {
        "prefill_s": prefill / repetitions,
        "decode_s": decode / repetitions,
        "repetitions": repetitions,
        "energy": energy.model_dump(mode="json"),
        "foreign_s": _busy() - busy,
        "core_s": (time.perf_counter() - wall) * (os.cpu_count() or 1),
    }


def _busy() -> float:
    """Return the CPU seconds that processes other than this one have used since boot."""
    import psutil

    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(times.user + times.system - own.user - own.system)


def _reset_peak() -> int:
    """Set the peak of resident memory back to what is resident now, where Linux allows, and return that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or _peak()


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:  # the parent shows the last line
        print(error.problem, error.hint, file=sys.stderr)
        sys.exit(1)
