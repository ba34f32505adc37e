"""How long a report over many examples takes to build and to use: made-up runs, real Chromium.

python benchmarks/report.py --tasks 20 --rows 20000 --runs 3 --work /tmp/report-benchmark
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.folder import RECORD_FILE, save_record, save_samples
from bitnet_bench.runs.records import Checkpoint, Environment, Example, RunRecord, Score

CHOICES = ("아니오", "예")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")


def main() -> None:
    """Make runs, build the report in a process of its own, and use it in Chromium; print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    folders = [_made(given.work / f"run-{i}", i, given.tasks, given.rows) for i in range(given.runs)]
    out = given.work / "report.html"
    found = _built(folders, out)
    if shutil.which("chromium") and shutil.which("chromedriver"):
        found |= _used(out)
    print(json.dumps(found, indent=1))


def _made(out: Path, number: int, tasks: int, rows: int) -> Path:
    if (out / RECORD_FILE).is_file():
        return out
    chance = random.Random(number)
    scores, samples = [], {}
    for i in range(tasks):
        task = f"made:task{i:02d}"
        examples = [_example(task, doc, chance.random() < 0.55 + 0.02 * number) for doc in range(rows)]
        samples[task] = save_samples(out, task, examples)
        for key in ("macro_f1", "accuracy"):
            measure = load_metric(key)
            value, error = measure.value(examples), measure.stderr(examples)
            primary, signature = key == "macro_f1", measure.signature()
            scores.append(
                Score(task=task, metric=key, value=value, stderr=error, n=rows, signature=signature, primary=primary)
            )
    data = {task: task.encode().hex().ljust(64, "0") for task in samples}
    save_record(out, _record(out, number, tuple(scores), samples, data))
    return out


def _example(task: str, doc: int, right: bool) -> Example:
    target = doc % 2
    output = target if right else 1 - target
    prompt = f"지문: {doc}번째 문단은 어느 마을에서 열린 장터를 다룬다. 질문: 사람들은 아침부터 모였는가? 답변:"
    fields: dict[str, Any] = {"target_choice": target, "output_choice": output, "choices": CHOICES}
    logs = tuple(-0.5 if i == output else -1.5 for i in range(2))
    words = {"target": CHOICES[target], "output": CHOICES[output], "correct": float(right)}
    return Example(task=task, doc_id=doc, prompt=prompt, loglikelihoods=logs, **fields, **words)


def _record(
    out: Path, number: int, scores: tuple[Score, ...], samples: dict[str, str], data: dict[str, str]
) -> RunRecord:
    from bitnet_bench.machine.environment import read_environment

    here: Environment = read_environment()
    checkpoint = Checkpoint(
        source=out.name,
        path=str(out),
        architecture="LlamaForCausalLM",
        format="float" if number else "autobitlinear",
        dtype="bfloat16",
        sha256=str(number) * 64,
        weight_bytes={"linear": 8000} if number else {"ternary": 1000},
        parameters=4000,
        ternary_parameters=0 if number else 4000,
    )
    return RunRecord(
        name=out.name,
        checkpoint=checkpoint,
        backend="hf",
        precision="bf16" if number else "ternary",
        scores=scores,
        samples=samples,
        data=data,
        environment=here,
    )


def _built(folders: list[Path], out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bitnet_bench", "report", *map(str, folders), "--out", str(out)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "build_wall_s": wall,
        "build_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "build_peak_mb": after.ru_maxrss / 1000,
        "file_mb": out.stat().st_size / 1e6,
    }


def _used(out: Path) -> dict[str, float]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.set_script_timeout(60)
        browser.get(out.as_uri())
        ready = browser.execute_script("return performance.getEntriesByType('navigation')[0].domInteractive")
        found = {"interactive_ms": float(ready), "table_ms": float(browser.execute_async_script(TABLE))}
        for name, value in (("search", "777"), ("outcome", "to-wrong"), ("task", "3"), ("outcome", "all")):
            found[f"filter_{name}_{value}_ms"] = float(browser.execute_script(FILTER, name, value))
        return found
    finally:
        browser.quit()


TABLE = """const done = arguments[0], began = performance.now();
document.querySelector('.samples').scrollIntoView();
const look = () => document.querySelectorAll('#rows tbody tr').length ? done(performance.now() - began)
  : requestAnimationFrame(look);
look();"""
FILTER = """const e = document.getElementById(arguments[0]), began = performance.now();
e.value = arguments[1];
e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change', {bubbles: true}));
return performance.now() - began;"""


if __name__ == "__main__":
    main()
