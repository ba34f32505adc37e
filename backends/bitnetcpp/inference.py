"""Score, generate and time through the HTTP interface of a `llama-server`.

Its own clock times the phases, its stream times single tokens, and the tokens that it says it read are compared with
those that it was given.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.backends.session import Row, RuntimeSession, in_budget
from bitnet_bench.errors import BenchError
from bitnet_bench.gguf.gate import compare_runtime
from bitnet_bench.gguf.layout import ACTIVATIONS
from bitnet_bench.gguf.reading import GgufFile
from bitnet_bench.records import Checkpoint, Precision, RuntimeParity
from bitnet_bench.ternary.loading import load_tokenizer

START_S = 300.0
ANSWER_S = 600.0
LONGEST = 4096
"""Tokens of context that the server is given at most."""
REBUILD = "Build bitnet.cpp again, or use --backend ternary or llamacpp."


def version(server: Path) -> str:
    """Return the build's name with its version and the time of its file, which kept comparisons depend on."""
    try:
        ended = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{server} does not run: {error}.", REBUILD) from error
    lines = (ended.stdout + ended.stderr).splitlines()
    said = next((line.partition(":")[2].strip() for line in lines if line.startswith("version")), "of no version")
    return f"bitnet.cpp ({said}, built {int(server.stat().st_mtime)})"


@contextmanager
def open_session(
    server: Path, checkpoint: Checkpoint, file: GgufFile, precision: Precision
) -> Iterator[BitnetCppSession]:
    """Start *server* on *file*, and end it afterwards; BenchError with its own last words if it does not come up."""
    tokenizer = load_tokenizer(checkpoint)
    context = min(int(file.fields[f"{file.architecture}.context_length"]), LONGEST)
    with running(server, file.path, context) as address:
        yield BitnetCppSession(address, file, tokenizer, precision, context)


def compare(server: Path, checkpoint: Checkpoint, file: GgufFile, precision: Precision) -> RuntimeParity:
    """Compare what *server* computes from *file* with *checkpoint*."""

    def logits(prompts: Sequence[Sequence[int]]) -> Tensor:
        with open_session(server, checkpoint, file, precision) as session:
            return torch.cat([session.logits([ids], [(0, i) for i in range(len(ids))]) for ids in prompts])

    computes = ACTIVATIONS["bitnet.cpp"].get(file.architecture)
    return compare_runtime(checkpoint, precision, version(server), logits, None, computes)


@contextmanager
def running(server: Path, file: Path, context: int) -> Iterator[str]:
    """Give the address of a server that has loaded *file*."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(torch.get_num_threads())
    command = [str(server), "-m", str(file), "-c", str(context), "-t", threads, "-ngl", "0"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=said, stderr=said)
        try:
            _wait(process, f"http://127.0.0.1:{port}", said)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, said: Any) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if process.poll() is not None:
            said.seek(0)
            last = (said.read().strip().splitlines() or ["no message"])[-1]
            raise BenchError(f"bitnet.cpp ended with status {process.returncode}: {last}", REBUILD)
        if _healthy(address):
            return
        time.sleep(0.1)
    raise BenchError(f"bitnet.cpp did not load its file within {START_S:g} s.", REBUILD)


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # it does not listen yet, or says that it is loading
        return False


@dataclass
class Decoding:
    """Where rows are in decoding: all ids that were read, and the last greedy token of each [B]."""

    rows: list[list[int]]
    tokens: Tensor


class BitnetCppSession(RuntimeSession):
    """A server that has loaded a file; see `bitnet_bench.ports.Session`."""

    def __init__(self, address: str, file: GgufFile, tokenizer: Any, precision: Precision, context: int) -> None:
        self._address, self._file = address, file
        self._vocabulary = int(file.fields[f"{file.architecture}.vocab_size"])
        super().__init__(tokenizer, precision, context, self._vocabulary)

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first; the server answers one after the other."""
        yield from in_budget(sorted(rows, key=len, reverse=True), len, self.budget)

    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Tensor:
        """Return log-probabilities [len(places), V] at (row, position): a request for each of them."""
        return torch.stack([self._next(rows[row][: position + 1]) for row, position in places])

    def prefill(self, batch: Sequence[Sequence[int]]) -> Decoding:
        """Read prompts and choose the first new token of each."""
        rows = [list(prompt) for prompt in batch]
        return Decoding(rows, torch.tensor([self._greedy(row) for row in rows]))

    def decode(self, state: Decoding, steps: int) -> Decoding:
        """Choose *steps* more tokens for every row, one after the other."""
        for _ in range(steps):
            rows = [[*row, token] for row, token in zip(state.rows, state.tokens.tolist(), strict=True)]
            state = Decoding(rows, torch.tensor([self._greedy(row) for row in rows]))
        return state

    def timed(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[float, float, list[float]]:
        """Return the seconds of prefill, of all tokens after the first, and of each of these as they arrived.

        BenchError where the server read or wrote another number of tokens, or for more than one prompt at once, whose
        phases it does not tell apart.
        """
        if len(prompts) != 1:
            raise BenchError("bitnet.cpp is measured with one prompt at a time.", "Use --batch 1.")
        marks, last = [], {}
        request = {"prompt": list(prompts[0]), "n_predict": new_tokens, "ignore_eos": True, "cache_prompt": False}
        for event in self._events(request):
            marks.append(time.perf_counter())
            last = event
        timings = last.get("timings") or {}
        counts = timings.get("prompt_n"), timings.get("predicted_n")
        if counts != (len(prompts[0]), new_tokens):
            raise BenchError(
                f"bitnet.cpp says that it read {counts[0]} and wrote {counts[1]} tokens; {len(prompts[0])} and "
                f"{new_tokens} were asked for.",
                REBUILD,
            )
        each = [b - a for a, b in pairwise(marks[:new_tokens])]
        return timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3, each

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in the file, bytes of key-value cache per token and row, in F16)."""
        fields, name = self._file.fields, self._file.architecture
        values = fields[f"{name}.attention.head_count_kv"] * fields[f"{name}.attention.key_length"]
        return self._file.path.stat().st_size, 2 * 2 * int(values) * int(fields[f"{name}.block_count"])

    def _greedy(self, ids: Sequence[int]) -> int:
        return max(self._probabilities(ids, 1), key=lambda entry: float(entry["logprob"]))["id"]  # type: ignore[no-any-return]

    def _next(self, ids: Sequence[int]) -> Tensor:
        """Return the log-probability of every token [V] after *ids*."""
        found = torch.full((self._vocabulary,), float("-inf"))
        for entry in self._probabilities(ids, self._vocabulary):
            found[entry["id"]] = entry["logprob"]
        if not bool(found.isfinite().all()):
            raise BenchError("bitnet.cpp does not give the probability of every token.", REBUILD)
        return found

    def _probabilities(self, ids: Sequence[int], count: int) -> list[dict[str, Any]]:
        request = {"prompt": list(ids), "n_predict": 1, "n_probs": count, "temperature": -1.0, "cache_prompt": True}
        (*_, last) = self._events({**request, "stream": False})
        try:
            found: list[dict[str, Any]] = last["completion_probabilities"][0]["top_logprobs"]
            return [{"id": int(entry["id"]), "logprob": float(entry["logprob"])} for entry in found]
        except (KeyError, IndexError, TypeError) as error:
            raise BenchError(
                f"bitnet.cpp answered without probabilities by token id: {str(last)[:80]}.",
                "Builds before 2025 give no ids; use a newer one.",
            ) from error

    def _events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what the server answers to *request*, an event a token where it streams."""
        body = json.dumps({"stream": True, "temperature": 0.0, **request}).encode()
        asked = urllib.request.Request(f"{self._address}/completion", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
                if not request.get("stream", True):
                    yield json.load(answer)
                    return
                for line in filter(bytes.strip, answer):
                    if not line.startswith(b"data:"):
                        raise ValueError(line[:80])
                    yield json.loads(line[len(b"data:") :])
        except (OSError, ValueError) as error:
            raise BenchError(f"bitnet.cpp did not answer as llama-server does: {error}.", REBUILD) from error
