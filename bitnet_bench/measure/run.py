"""Measure contestants in alternating rounds, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.measure.worker import SHORTEST_ROUND_S
from bitnet_bench.ports import Progress
from bitnet_bench.records import Checkpoint, Cost, Measured, Measurement, Precision


@dataclass(frozen=True)
class Contestant:
    """A checkpoint at a precision in a backend, the latter as `module:Class`."""

    checkpoint: Checkpoint
    precision: Precision
    backend: str
    backend_path: str


@dataclass(frozen=True)
class Scenario:
    """What is timed: *batch* prompts of *prompt_tokens*, then *new_tokens* greedy tokens each."""

    prompt_tokens: int = 128
    new_tokens: int = 32
    batch: int = 1
    threads: int = 0
    """0: as many as there are cores to run on."""
    rounds: int = 5


def measure(contestants: Sequence[Contestant], scenario: Scenario, meter: str, progress: Progress) -> list[Cost]:
    """Return the cost of each contestant, in order. *meter* is a `module:Class` (see `ports.Meter`)."""
    threads = scenario.threads or _cores()
    steps = len(contestants) * (1 + scenario.rounds)
    with ExitStack() as stack:
        workers = []
        for i, contestant in enumerate(contestants):
            workers.append(stack.enter_context(_Worker(contestant, scenario, threads, meter)))
            progress(i + 1, steps, f"load {contestant.precision}")
        rounds: list[list[dict[str, Any]]] = [[] for _ in workers]
        for r in range(scenario.rounds):
            for i, worker in enumerate(workers):
                rounds[i].append(worker.round())
                progress(len(workers) * (r + 1) + i + 1, steps, f"round {r + 1}")
    return [
        _cost(contestant, scenario, threads, worker.opened, readings)
        for contestant, worker, readings in zip(contestants, workers, rounds, strict=True)
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One child process; see `bitnet_bench.measure.worker`."""

    def __init__(self, contestant: Contestant, scenario: Scenario, threads: int, meter: str) -> None:
        self._contestant = contestant
        self._task = {
            "checkpoint": contestant.checkpoint.model_dump(mode="json"),
            "precision": contestant.precision,
            "backend": contestant.backend_path,
            "meter": meter,
            "threads": threads,
            "batch": scenario.batch,
            "prompt_tokens": scenario.prompt_tokens,
            "new_tokens": scenario.new_tokens,
        }
        self.opened: dict[str, Any] = {}

    def __enter__(self) -> _Worker:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bitnet_bench.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(self._task["threads"])},
        )
        try:
            self.opened = self._ask(json.dumps(self._task))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def round(self) -> dict[str, Any]:
        """Run one round and return its readings."""
        return self._ask("round")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come says why
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
            raise BenchError(
                f"Measuring {self._contestant.checkpoint.source} at {self._contestant.precision} failed: {last}",
                f"Its process ended with status {self._process.returncode}; a negative one is a signal (-9: memory).",
            )
        reply: dict[str, Any] = json.loads(answer)
        return reply


def _cost(
    contestant: Contestant, scenario: Scenario, threads: int, opened: dict[str, Any], rounds: list[dict[str, Any]]
) -> Cost:
    batch, prompt, new = scenario.batch, scenario.prompt_tokens, scenario.new_tokens
    clock = f"monotonic clock, mean over a round of {SHORTEST_ROUND_S} s or more, after one warm-up round"
    prefill = [r["prefill_s"] for r in rounds]
    decode = [r["decode_s"] / (new - 1) for r in rounds]
    peak = [float(max(r["peak_bytes"] for r in rounds))]
    metrics: dict[str, Measurement] = {
        "load_s": _measured("s", "monotonic clock around opening", [opened["load_s"]]),
        "prefill_s": _measured("s", clock, prefill),
        "prefill_tokens_per_s": _measured("tokens/s", "prompt tokens / time", [batch * prompt / s for s in prefill]),
        "decode_s": _measured("s/token", clock, decode),
        "decode_tokens_per_s": _measured("tokens/s", "batch / time of a token", [batch / s for s in decode]),
        "peak_bytes": _measured("B", "peak resident memory over the process before loading", peak),
        "energy_j": _energy(rounds),
    }  # fmt: skip
    return Cost(
        backend=contestant.backend,
        precision=contestant.precision,
        prompt_tokens=prompt,
        new_tokens=new,
        batch=batch,
        threads=threads,
        weight_bytes=contestant.checkpoint.weight_bytes,
        resident_weight_bytes=opened["resident_weight_bytes"],
        kv_bytes=opened["kv_per_token"] * (prompt + new - 1) * batch,
        metrics=metrics,
        foreign_load=min(1.0, max(0.0, sum(r["foreign_s"] for r in rounds) / sum(r["core_s"] for r in rounds))),
    )


def _measured(unit: str, method: str, readings: list[float]) -> Measured:
    return Measured(unit=unit, method=method, readings=tuple(readings))


def _energy(rounds: list[dict[str, Any]]) -> Measurement:
    """Return joules for one repetition of the scenario; one round without a number leaves the whole without one."""
    from pydantic import TypeAdapter

    parsed = [TypeAdapter[Measurement](Measurement).validate_python(r["energy"]) for r in rounds]
    missing = [reading for reading in parsed if not isinstance(reading, Measured)]
    if missing:
        return missing[0]
    joules = [p.readings[0] / r["repetitions"] for p, r in zip(parsed, rounds, strict=True) if isinstance(p, Measured)]
    return Measured(unit="J", method=f"{parsed[0].method}, per prompt and answer", readings=tuple(joules))  # type: ignore[union-attr]
