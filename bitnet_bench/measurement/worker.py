"""Measure one candidate in a process: `python -m bitnet_bench.measurement.worker`.

The process reads a `messages.MeasuringTask`, answers with the time and memory of opening, and then answers each further
line, a `messages.Request` for a probe, a warm-up or a round of some batch. Rounds are requested one at a time, so that
candidates alternate.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from bitnet_bench import plugins
from bitnet_bench.errors import NotFiniteError
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.measurement import gpu_readings, machine_state
from bitnet_bench.measurement.gpu_readings import CudaReadings, GpuReadings, NoGpu
from bitnet_bench.measurement.messages import (
    MeasuringTask,
    OpenResult,
    ProbeResult,
    Request,
    claim_stdout,
    parse_request,
    run_process,
    send_reply,
)
from bitnet_bench.measurement.peak_memory import PeakMemory, read_device_peak
from bitnet_bench.measurement.readings import Round
from bitnet_bench.protocols import EnergySource, InferenceBackend, Session

PROMPT_SEED = 0
SHORTEST_ROUND_S = 0.5
MIN_PROBE_S, MIN_PROBE_GROWTH, SLOW_PROBE_S = 0.25, 2.0, 1.0
"""Seconds that a probe must take, the least ratio of a prompt's time to one token's, and the seconds above which a
probe is not repeated."""
MIN_PROBED_TOKENS = 16
"""Least tokens of a prompt from which a longer one is extrapolated: with fewer, noise would be taken for their cost."""
SLOW_TOKEN_S = 0.005
"""Seconds of a token above which reading the clock after each token takes less than a thousandth of its time."""


def main() -> None:
    """Serve one candidate until standard input ends."""
    replies = claim_stdout()
    task = parse_request(sys.stdin.readline(), MeasuringTask)
    import torch

    torch.set_num_threads(task.threads)
    backend: InferenceBackend = plugins.create_backend(task.backend).configured(task.options)
    meter = plugins.create_meter(task.meter)
    backend.prepare(task.checkpoint)
    torch.ones(64, 64) @ torch.ones(64, 64)  # starts the thread pool
    used_before = _read_used_bytes()  # the CUDA context exists from here on, and is not counted for the candidate
    memory = PeakMemory()
    baseline = memory.read()
    started = time.perf_counter()
    with plugins.open_session(backend, task.checkpoint, task.precision) as session:
        send_reply(replies, _describe_opened(session, time.perf_counter() - started, memory))
        gpu: GpuReadings = CudaReadings(session) if session.device == "cuda" else NoGpu()
        contests: dict[int, _BatchWorker] = {}
        for line in sys.stdin:
            request = parse_request(line, Request)
            contest = contests.setdefault(request.batch, _BatchWorker(session, task, request.batch, meter, gpu))
            send_reply(
                replies, _answer_request(request, contest, lambda one: one.warm_up(memory, baseline, used_before))
            )


def _describe_opened(session: Session, load_s: float, memory: PeakMemory) -> OpenResult:
    weights, kv_per_token = session.footprint()
    return OpenResult(
        load_s=load_s,
        resident_weight_bytes=weights,
        kv_per_token=kv_per_token,
        resident_by_kind=session.weights_by_kind(),
        memory_method=memory.method,
    )


def _answer_request(
    request: Request, contest: _BatchWorker, warm_up: Callable[[_BatchWorker], Round]
) -> ProbeResult | Round:
    match request.do:
        case "probe":
            return ProbeResult(run_s=contest.probe())
        case "warm up":
            return warm_up(contest)
        case "round":
            return contest.round()


def _read_used_bytes() -> int | None:
    """Return the used bytes of the GPU that this process may use, its own context included; None without a GPU."""
    gpu = find_gpu()
    return gpu.total_bytes - gpu.free_bytes if gpu else None


class _BatchWorker:
    """One batch of one candidate."""

    def __init__(
        self, session: Session, task: MeasuringTask, batch: int, meter: EnergySource, gpu: GpuReadings
    ) -> None:
        self._session, self._meter, self._gpu = session, meter, gpu
        self._new = task.new_tokens
        self._threads = task.threads
        self._prompts = _make_prompts(session, batch, task.prompt_tokens, task.texts)
        self._token_s = 0.0
        """Seconds of the last token, as far as they are known: slow tokens are timed one by one."""

    def probe(self) -> float:
        """Return the seconds of one run, from prompts and answers that are doubled until they take long enough."""
        prefill, decode = self._probe_prefill(), self._probe_decode()
        self._token_s = decode
        return prefill + decode * (self._new - 1)

    def _probe_prefill(self) -> float:
        whole = len(self._prompts[0])
        self._time_prompt(1)  # one-time work
        one, length = self._time_prompt(1), 1
        seconds = one
        while length < whole and (length < MIN_PROBED_TOKENS or seconds < max(MIN_PROBE_S, MIN_PROBE_GROWTH * one)):
            length = min(max(MIN_PROBED_TOKENS, 2 * length), whole)
            seconds = self._time_prompt(length)
        slope = max(0.0, seconds - one) / max(1, length - 1)  # one token reads all weights, too
        return one + slope * (whole - 1)

    def _time_prompt(self, length: int) -> float:
        """Return the seconds of a prompt, the better of two tries: a busy machine may slow one of them."""
        prompts = [prompt[:length] for prompt in self._prompts]
        found: list[float] = []
        while len(found) < 2 and sum(found) < SLOW_PROBE_S:
            started = time.perf_counter()
            self._session.prefill(prompts)
            found.append(time.perf_counter() - started)
        return min(found)

    def _probe_decode(self) -> float:
        """Return the seconds of one token: the median of those that fit into `MIN_PROBE_S`, but of at least three."""
        state = self._session.prefill([prompt[:1] for prompt in self._prompts])
        if not isinstance(self._gpu, NoGpu) and self._new > 2:
            state = self._session.decode(state, 1)  # captures a graph
        found: list[float] = []
        while len(found) < self._new - 1 and (sum(found) < MIN_PROBE_S or len(found) < 3) and sum(found) < SLOW_PROBE_S:
            started = time.perf_counter()
            state = self._session.decode(state, 1)
            found.append(time.perf_counter() - started)
        return statistics.median_low(found)

    def warm_up(self, memory: PeakMemory, baseline: int, used_before: int | None) -> Round:
        """Return the warm-up round with the peak of memory above *baseline*; on a GPU the peak of torch's allocator.

        It is a whole round, so that a candidate that is too slow for another one has been timed.
        """
        self._gpu.reset_peak()
        with memory.watch_peak():
            found = self.round()
        on_device, used = read_device_peak(), self._gpu.used_bytes()
        taken = None if used is None or used_before is None else max(0, used - used_before)
        peak = memory.read() - baseline if on_device is None else on_device
        return found.model_copy(update={"peak_bytes": peak, "card_bytes": taken})

    def round(self) -> Round:
        """Time prefill and the new tokens after the first, repeatedly, and then each token by itself.

        A round lasts at least `SHORTEST_ROUND_S`, so that a tiny model exceeds the resolution of the clock and the
        counters. Its times are means over its repetitions, in which tokens are decoded in one call; single tokens are
        timed in a separate repetition, or in all of them if they are slow.
        """
        pace = machine_state.measure_pace(self._threads)
        before, gpu_before = machine_state.read_moment(), self._gpu.read_state()
        prefill = decode = 0.0
        on_gpu: list[tuple[float | None, float | None]] = []
        repetitions = 0
        tokens: list[float] = []
        self._gpu.wait()
        self._meter.start()
        metered = time.perf_counter()
        while prefill + decode < SHORTEST_ROUND_S:
            first, rest, each, events = self._run_once(stepwise=self._token_s > SLOW_TOKEN_S)
            on_gpu.append(events)
            prefill, decode, repetitions, tokens = prefill + first, decode + rest, repetitions + 1, each or tokens
            self._token_s = decode / repetitions / (self._new - 1)
        self._gpu.wait()
        metered = time.perf_counter() - metered
        energy = self._meter.stop()
        if not tokens:
            tokens = self._run_once(stepwise=True)[2]
        after, gpu_after = machine_state.read_moment(), self._gpu.read_state()
        return Round(
            prefill_s=prefill / repetitions,
            decode_s=decode / repetitions,
            token_s=tuple(tokens),
            prompt_tokens=len(self._prompts[0]),
            new_tokens=self._new,
            repetitions=repetitions,
            metered_s=metered,
            energy=energy,
            pace_s=max(pace, machine_state.measure_pace(self._threads)),
            **machine_state.diff_moments(before, after, os.cpu_count() or 1),
            **gpu_readings.diff_moments(gpu_before, gpu_after),
            gpu_prefill_s=_mean_known([first for first, _ in on_gpu]),
            gpu_decode_s=_mean_known([rest for _, rest in on_gpu]),
            # read at the end: a graph may have been captured during the round, or capturing it may have failed
            runtime=self._session.describe_runtime(),
        )

    def _run_once(self, stepwise: bool) -> tuple[float, float, list[float], tuple[float | None, float | None]]:
        """Return the seconds of prefill, of all tokens after the first, and of each of them if *stepwise*.

        These are wall-clock times; the last element holds the GPU's own times of both.
        """
        clock = time.perf_counter
        self._gpu.begin()
        started = clock()
        state = self._session.prefill(self._prompts)
        first = clock() - started
        on_gpu = self._gpu.elapsed_s()
        self._gpu.begin()
        marks = [clock()]
        if stepwise:
            for _ in range(self._new - 1):
                state = self._session.decode(state, 1)
                marks.append(clock())
        else:
            state = self._session.decode(state, self._new - 1)
            marks.append(clock())
        self._check_tokens(state)
        each = [b - a for a, b in pairwise(marks)] if stepwise else []
        return first, marks[-1] - marks[0], each, (on_gpu, self._gpu.elapsed_s())

    def _check_tokens(self, state: Any) -> None:
        """Raise NotFiniteError if the last tokens could not be chosen; NaN in the cache stays until then."""
        tokens = getattr(state, "tokens", None)  # the state of a backend outside this package may have none
        if tokens is not None and bool((tokens < 0).any()):
            raise NotFiniteError(0, self._session.precision)


def _mean_known(seconds: Sequence[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return sum(known) / len(known) if known else None


def _make_prompts(session: Session, batch: int, length: int, texts: Sequence[str]) -> list[list[int]]:
    """Return *batch* prompts of one length: *texts* in order, or seeded random ids.

    The work of a dense model does not depend on ids, so that random ones time it as well.
    """
    if not texts:
        rng = random.Random(PROMPT_SEED)
        size = len(session.tokenizer)
        return [[rng.randrange(size) for _ in range(length)] for _ in range(batch)]
    rows = [list(session.tokenizer(texts[i % len(texts)]).input_ids) for i in range(batch)]
    shortest = min(length, *map(len, rows))
    return [row[-shortest:] for row in rows]


if __name__ == "__main__":
    run_process(main)
