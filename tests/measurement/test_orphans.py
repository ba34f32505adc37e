"""A process that measures ends with `measure`, however that ends: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bitnet_bench.measurement.child import PARITY_COMMAND, WORKER_COMMAND
from bitnet_bench.measurement.lifeline import PARENT_VARIABLE, PIPE_VARIABLE

DEADLINE_S = 60.0

PARENT = """
import signal, sys, time
from bitnet_bench.measurement.child import CandidateProcess
from bitnet_bench.measurement.lifeline import end_orderly_on_sigterm
from bitnet_bench.measurement.messages import ParityTask
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.protocols import NO_OPTIONS

task = ParityTask(checkpoint=open_checkpoint("demo"), precision="ternary", backend="x:Y", options=NO_OPTIONS, threads=1)
child = CandidateProcess("x", task, 600.0, (sys.executable, "-P", "-c", sys.argv[1]))
with end_orderly_on_sigterm():
    try:
        child.open()
    finally:
        child.close()
        print("closed", flush=True)
"""
WORKER = """
import os, subprocess, sys, time
from bitnet_bench.measurement.messages import run_process
def work():
    {also}
    print(os.getpid(), file=open({pids!r} + "/worker", "w"))
    while True:
        time.sleep(0.05)
run_process(work)
"""
CHILD_OF_WORKER = """
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(sleeper.pid, file=open({pids!r} + "/sleeper", "w"))
"""


def wait_until_gone(pid: int) -> None:
    """Wait until no process has this id, or only one that nobody has waited for."""
    ends = time.monotonic() + DEADLINE_S
    while time.monotonic() < ends:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} goes on computing")


def read_pid(file: Path) -> int:
    """Wait until *file* holds a process id, and return it."""
    ends = time.monotonic() + DEADLINE_S
    while time.monotonic() < ends:
        if file.is_file() and file.read_text(encoding="utf-8").strip():
            return int(file.read_text(encoding="utf-8"))
        time.sleep(0.02)
    raise AssertionError(f"{file} was not written")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that waits for a worker, which computes forever and has started one of its own."""
    also = CHILD_OF_WORKER.format(pids=str(tmp_path)).strip()
    worker = WORKER.format(pids=str(tmp_path), also=also)
    process = subprocess.Popen([sys.executable, "-c", PARENT, worker], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_worker_ends_when_its_parent_is_killed(started: subprocess.Popen[str], tmp_path: Path) -> None:
    """SIGKILL leaves the parent no time to do anything."""
    worker = read_pid(tmp_path / "worker")
    started.kill()
    wait_until_gone(worker)
    os.kill(read_pid(tmp_path / "sleeper"), signal.SIGKILL)


def test_a_worker_has_ended_when_its_parent_ends_by_sigterm(started: subprocess.Popen[str], tmp_path: Path) -> None:
    """It is killed and waited for, with what it started; the parent then ends by that signal."""
    worker, sleeper = (read_pid(tmp_path / name) for name in ("worker", "sleeper"))
    started.terminate()
    assert started.stdout is not None
    assert started.stdout.read() == "closed\n"
    assert not psutil.pid_exists(worker)
    assert started.wait(DEADLINE_S) == -signal.SIGTERM
    wait_until_gone(sleeper)


def test_where_the_kernel_sends_nothing_the_pipe_ends_a_worker(tmp_path: Path) -> None:
    """As on macOS: what the worker has started ends too."""
    also = CHILD_OF_WORKER.format(pids=str(tmp_path)).strip()
    worker = (
        "import bitnet_bench.processes\nbitnet_bench.processes.ctypes = None\n"  # what asks the kernel
        + WORKER.format(pids=str(tmp_path), also=also)
    )
    with subprocess.Popen([sys.executable, "-c", PARENT, worker], stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        pids = [read_pid(tmp_path / name) for name in ("worker", "sleeper")]
        parent.kill()
        for pid in pids:
            wait_until_gone(pid)


@pytest.mark.parametrize("command", [WORKER_COMMAND, PARITY_COMMAND])
def test_a_worker_whose_parent_ended_before_it_began_ends_at_once(command: tuple[str, ...]) -> None:
    """Its parent is another process than the one that is named, and its standard input never ends."""
    reading, writing = os.pipe()
    environment = {**os.environ, PARENT_VARIABLE: "1", PIPE_VARIABLE: str(reading)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=(reading,), env=environment, start_new_session=True
    )
    try:
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        for end in (reading, writing):
            os.close(end)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_measure_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    """The command itself, killed while a candidate is loaded or timed."""
    words = ("measure", "demo", "--backend", "hf", "--no-floats", "--budget", "300s", "--meter", "none")
    command = [sys.executable, "-m", "bitnet_bench", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + DEADLINE_S
    children: list[psutil.Process] = []
    while not children and time.monotonic() < ends and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    assert children, "no worker was started"
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == -number
    for child in children:
        wait_until_gone(child.pid)
