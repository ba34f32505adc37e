"""Time from a file of rows to the first optimizer step of `finetune`, and the peak memory of all its processes.

python benchmarks/rows.py write rows.jsonl --megabytes 1000          # rows of words without meaning, always the same
python benchmarks/rows.py time rows.jsonl --model demo               # cold, then warm
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

WORDS, SYLLABLES = 50_000, 1_200
SAMPLED_EVERY_S = 0.1
SHARES_EVERY = 20
"""Samples of resident memory between two of proportional shares, which cost more."""


def write_rows(file: Path, megabytes: float) -> int:
    """Write rows {"instruction", "output"} of made-up Korean words, the frequent ones as frequent as in a language."""
    rng = random.Random(7)
    syllables = [chr(0xAC00 + rng.randrange(11_172)) for _ in range(SYLLABLES)]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(WORDS)]
    shares = list(itertools.accumulate(1 / (place + 3) for place in range(WORDS)))
    rows = written = 0
    with file.open("wb") as stream:
        while written < megabytes * 1e6:
            asked, said = (" ".join(rng.choices(words, cum_weights=shares, k=rng.randint(a, b))) for a, b in SIZES)
            row = {"instruction": f"{asked} {rows}?", "output": f"{said}다."}
            written += stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            rows += 1
    return rows


SIZES = ((4, 24), (8, 56))
"""Fewest and most words of a question, and of its answer."""


class TreeMeter(threading.Thread):
    """Samples the memory of a process with all its children: resident, without shared pages, and by shares.

    A share counts a page that n processes map as 1/n in each, so that the sum is what the machine gives.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self.peak_bytes = self.peak_own_bytes = self.peak_share_bytes = 0

    def run(self) -> None:
        """Sample until the process has ended."""
        for sample in itertools.count():
            try:
                tree = [self._root, *self._root.children(recursive=True)]
                resident = [process.memory_info() for process in tree]
                shares = [one.memory_full_info().pss for one in tree] if sample % SHARES_EVERY == 0 else [0]
            except psutil.NoSuchProcess:
                if not self._root.is_running():
                    return
                continue
            if not self._root.is_running() or self._root.status() == psutil.STATUS_ZOMBIE:
                return
            self.peak_bytes = max(self.peak_bytes, sum(one.rss for one in resident))
            self.peak_own_bytes = max(self.peak_own_bytes, sum(one.rss - one.shared for one in resident))
            self.peak_share_bytes = max(self.peak_share_bytes, sum(shares))
            time.sleep(SAMPLED_EVERY_S)


def time_first_step(file: Path, model: str, max_length: int, cache: Path, options: list[str]) -> dict[str, float]:
    """Return seconds to the first optimizer step, CPU seconds of the whole command, and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bitnet_bench", "finetune", "--data", str(file), "--model", model]
        command += ["--out", f"{folder}/out", "--max-length", str(max_length), "--max-steps", "1", "--batch-size", "4"]
        before = os.times()
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_DATASETS_CACHE": str(cache)},
        )
        meter = TreeMeter(process.pid)
        meter.start()
        seconds = float("nan")
        assert process.stderr is not None
        for line in process.stderr:
            print(f"  {time.monotonic() - started:6.1f} s  {line}", end="", file=sys.stderr)
            if re.match(r"fine-tune \w+: 1/1\b", line):
                seconds = time.monotonic() - started
        process.wait()
        after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    found = {"first_step_s": round(seconds, 1), "cpu_s": round(cpu, 1), "status": process.returncode}
    peaks = {"peak_mib": meter.peak_bytes, "peak_without_shared_mib": meter.peak_own_bytes}
    peaks["peak_of_shares_mib"] = meter.peak_share_bytes
    return {**found, **{name: size >> 20 for name, size in peaks.items()}}


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("write", "time"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--megabytes", type=float, default=25)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--runs", type=int, default=2, help="the first is cold, the others are warm")
    given, options = parser.parse_known_args()
    if given.part == "write":
        print(f"{write_rows(given.file, given.megabytes):,} rows")
        return
    with tempfile.TemporaryDirectory(dir=given.file.parent) as cache:
        for run in range(given.runs):
            load = os.getloadavg()[0]
            found = time_first_step(given.file, given.model, given.max_length, Path(cache), options)
            kind = "warm" if run else "cold"
            print(json.dumps({"run": kind, "model": given.model, "load_before": round(load, 2), **found}), flush=True)


if __name__ == "__main__":
    main()
