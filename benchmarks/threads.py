"""Time one and two threads of the ternary engine alone and beside busy processes, alternating.

    python benchmarks/threads.py compare CHECKPOINT --neighbours 0 --neighbours 1 --neighbours 2
    python benchmarks/threads.py compare CHECKPOINT --against CHECKOUT      # with another commit's code, in turns
    python benchmarks/threads.py compare CHECKPOINT --against CHECKOUT --rows 32 --prompt 16 --neighbours 0

A busy process adds numbers in a loop, on no core of its own. Every contestant is a process that stays, and is timed in
turns; all of them must choose the same tokens. `--cpu-time` counts the seconds that a contestant's threads ran, on a
machine that others use too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

TREE = Path(__file__).resolve().parent.parent
SPIN_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
"""As the command line sets it before torch is imported."""
app = typer.Typer(add_completion=False)


class Contestant:
    """A process that runs the engine of a checkout and answers requests for timings."""

    def __init__(self, tree: Path, checkpoint: Path) -> None:
        """Start it on the code in *tree*."""
        environment = {**os.environ, **SPIN_ENVIRONMENT, "PYTHONPATH": str(tree)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(checkpoint)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return its answer to *request*."""
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep *count* processes busy."""
    loop = "while True: sum(range(100000))"
    busy = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    time.sleep(0.2 if count else 0.0)
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@app.command()
def serve(checkpoint: Path) -> None:
    """Answer one request a line: read a prompt, choose tokens; for `compare`."""
    import torch

    from bitnet_bench.backends.ternary.inference import open_session
    from bitnet_bench.checkpoints.locate import open_checkpoint

    with open_session(open_checkpoint(str(checkpoint)), "ternary", "stored") as session, torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            torch.set_num_threads(request["threads"])
            clock = time.process_time if request["cpu_time"] else time.perf_counter
            prompts = [
                tuple((7 * i + 3 * row) % 1000 for i in range(request["prompt"])) for row in range(request["rows"])
            ]
            started = clock()
            state = session.prefill(prompts)
            read = clock()
            state = session.decode(state, request["tokens"])
            done = clock()
            answer = {"prefill_s": read - started, "decode_s": done - read, "ids": state.tokens.tolist()}
            print(json.dumps(answer), flush=True)


@app.command()
def compare(
    checkpoint: Path,
    against: Annotated[list[Path], typer.Option(help="A checkout of another commit, built")] = [],  # noqa: B006
    neighbours: Annotated[list[int], typer.Option()] = [0, 1, 2],  # noqa: B006 - Typer's custom
    threads: Annotated[list[int], typer.Option()] = [1, 2],  # noqa: B006
    rounds: int = 5,
    prompt: int = 128,
    tokens: int = 64,
    rows: Annotated[int, typer.Option(help="Sequences that are read and decoded at once")] = 1,
    cpu_time: bool = False,
) -> None:
    """Print tokens a second by contestant, neighbours and threads: median, least and most of the rounds."""
    contestants = {tree.name: Contestant(tree, checkpoint) for tree in (TREE, *against)}
    found: dict[tuple[int, int, str], list[dict[str, Any]]] = defaultdict(list)
    print("load before:", os.getloadavg())
    for number in range(rounds + 1):
        for count in neighbours:
            with busy_processes(count):
                for width in threads:
                    for name, contestant in contestants.items():
                        reading = contestant.ask(
                            threads=width, prompt=prompt, tokens=tokens, rows=rows, cpu_time=cpu_time
                        )
                        if number:  # the first round warms up
                            found[count, width, name].append(reading)
    for contestant in contestants.values():
        contestant.stop()
    if len({tuple(reading["ids"]) for readings in found.values() for reading in readings}) > 1:
        raise AssertionError("contestants chose other tokens")
    print("load after:", os.getloadavg())
    print("| busy processes | threads | code | prefill tokens/s | decode tokens/s |\n| --- | --- | --- | --- | --- |")
    for (count, width, name), readings in found.items():
        rates = [
            _describe_rates(rows * amount, [reading[phase] for reading in readings])
            for phase, amount in (("prefill_s", prompt), ("decode_s", tokens))
        ]
        print(f"| {count} | {width} | {name} | {rates[0]} | {rates[1]} |")


def _describe_rates(amount: int, seconds: list[float]) -> str:
    rates = [amount / one for one in seconds]
    return f"{statistics.median(rates):,.1f} ({min(rates):,.1f} to {max(rates):,.1f})"


if __name__ == "__main__":
    app()
