"""One measurement at a time runs on a machine, and its costs say on which machine, and what else computed there."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.machine.gpu_processes import UNKNOWN_BYTES, read_gpu_models, read_gpu_processes
from bitnet_bench.machine.identity import read_machine, read_node
from bitnet_bench.measurement.exclusive import LOCK_FILE, find_lock_folder, hold_machine
from bitnet_bench.measurement.neighbours import NeighbourWatch, ProcessTime, Sight, read_sight
from bitnet_bench.runs.machines import Neighbour, make_machine


def measure_elsewhere(folder: Path, held: Any, end: Any) -> None:
    """Hold the machine in a process of its own until it is told to end."""
    with hold_machine(folder):
        held.set()
        end.wait(60)


def test_a_measurement_waits_for_another_one_and_says_which(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on as soon as the other has ended, and reports for how long it waited."""
    fork = multiprocessing.get_context("fork")
    held, end = fork.Event(), fork.Event()
    other = fork.Process(target=measure_elsewhere, args=(tmp_path, held, end))
    other.start()
    assert held.wait(60)
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 102.0:
            end.set()
            other.join(60)

    with hold_machine(tmp_path, sleep, lambda: now[0]) as waited_s:
        assert waited_s == 2.0
    assert f"Process {other.pid} measures on this machine. Waiting until it has ended." in caplog.text
    assert len(caplog.records) == 1, "it is said once"


def test_a_measurement_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held, end = fork.Event(), fork.Event()
    other = fork.Process(target=measure_elsewhere, args=(tmp_path, held, end))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join(60)

    def sleep(_: float) -> None:
        raise AssertionError("there is nothing to wait for")

    with hold_machine(tmp_path, sleep) as waited_s:
        assert waited_s == 0.0
    with hold_machine(tmp_path, sleep):
        pass  # and it is free again after a block


def test_every_user_of_the_machine_can_lock_the_same_file(tmp_path: Path) -> None:
    """Whatever the umask of the first one is; and a link that somebody put there is not followed."""
    before = os.umask(0o077)
    try:
        with hold_machine(tmp_path):
            assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / LOCK_FILE).symlink_to(tmp_path / "precious")
    with pytest.raises(BenchError, match="cannot be opened"), hold_machine(tmp_path / "trap"):
        pass
    assert not (tmp_path / "precious").exists()


def test_the_folder_of_locks_is_the_first_that_all_users_can_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first that this user can write to: root would choose another one than everybody else."""
    closed, open_ = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0o755)
    open_.mkdir()
    open_.chmod(0o1777)
    monkeypatch.setenv("BITNET_BENCH_MACHINE_LOCKS", str(closed))
    assert find_lock_folder((open_,)) == closed, "what the environment says comes first"
    monkeypatch.delenv("BITNET_BENCH_MACHINE_LOCKS")
    assert find_lock_folder((tmp_path / "none", closed, open_)) == open_
    with pytest.raises(BenchError, match="no folder for a lock"):
        find_lock_folder((closed,))


def see(time_s: float, load: float, gpu: Mapping[int, int | None] = {}, **cpu_s: tuple[int, float, float]) -> Sight:
    """Return a sight of processes, given as name=(id, start, CPU seconds)."""
    found = {pid: ProcessTime(name, started, used) for name, (pid, started, used) in cpu_s.items()}
    return Sight(time_s, load, found, gpu)


def test_processes_that_compute_beside_a_measurement_are_named_with_their_share() -> None:
    """Also one that came and went between the first look and the last; what they did before does not count."""
    sights = [
        see(1000, 0.5, old=(7, 10.0, 500.0), idle=(8, 10.0, 90.0)),
        see(1010, 1.5, old=(7, 10.0, 505.0), idle=(8, 10.0, 90.1), guest=(9, 1002.0, 8.0), reused=(8, 1009.0, 0.0)),
        see(1020, 2.5, old=(7, 10.0, 510.0)),
    ]
    waiting = iter(sights)
    watch = NeighbourWatch(read=lambda: next(waiting))
    for _ in sights:
        watch.look()
    found = watch.summarize(3.04)
    assert found.busy == (Neighbour(name="old", pid=7, cores=0.5), Neighbour(name="guest", pid=9, cores=0.4))
    assert (found.load_before, found.load_after, found.waited_s) == (0.5, 2.5, 3.0)
    assert found.on_gpu == ()


def test_processes_on_a_gpu_are_noted_before_during_and_after() -> None:
    """With the most memory that each held; one that no process list has is another container's."""
    sights = [
        see(0, 0.0, {7: 100, 5: None}, trainer=(7, 0.0, 0.0)),
        see(10, 0.0, {7: 300}, trainer=(7, 0.0, 20.0)),
        see(20, 0.0, {11: 50}, trainer=(7, 0.0, 20.0), late=(11, 15.0, 0.0)),
    ]
    waiting = iter(sights)
    watch = NeighbourWatch(read=lambda: next(waiting))
    for _ in sights:
        watch.look()
    assert watch.summarize().on_gpu == (
        Neighbour(name="trainer", pid=7, cores=1.0, gpu_bytes=300),
        Neighbour(name="a process of another container", pid=5, cores=0.0),
        Neighbour(name="late", pid=11, cores=0.0, gpu_bytes=50),
    )


def test_this_process_and_its_children_are_no_neighbours() -> None:
    fork = multiprocessing.get_context("fork")
    end = fork.Event()
    child = fork.Process(target=end.wait, args=(60,))
    child.start()
    found = read_sight()
    end.set()
    child.join()
    assert not {os.getpid(), child.pid} & found.processes.keys()
    assert os.getppid() in found.processes


class FakeDriver:
    """NVML of a machine with two GPUs, the second of which runs two processes."""

    def nvmlInit_v2(self) -> int:  # noqa: N802 - the driver's name, like those below
        """Succeed."""
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        """Write 2."""
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:  # noqa: N802
        """Write a handle that tells the index."""
        device._obj.value = index + 1
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, _: Any) -> int:  # noqa: N802
        """Write the name of a GPU."""
        text.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, count: Any, infos: Any) -> int:  # noqa: N802
        """Write two processes of the second GPU, one of whose memory is not known."""
        count._obj.value = 0 if device.value == 1 else 2
        infos[0].pid, infos[0].used_bytes = 41, 2**30
        infos[1].pid, infos[1].used_bytes = 42, UNKNOWN_BYTES
        return 0


def test_the_driver_lists_gpus_and_who_computes_on_them() -> None:
    """By structures of the sizes that the driver writes: 24 bytes a process."""
    from bitnet_bench.machine.gpu_processes import _ProcessInfo

    assert ctypes.sizeof(_ProcessInfo) == 24
    assert read_gpu_models(FakeDriver()) == ["NVIDIA H100 80GB HBM3"] * 2
    assert read_gpu_processes(FakeDriver()) == {41: 2**30, 42: None}


def test_machines_of_one_kind_have_one_id_whatever_they_are_called(tmp_path: Path) -> None:
    """Nodes of a cluster differ in some MiB of memory and in their number of GPUs in sight, and are of one kind."""
    h100 = make_machine("EPYC (avx2)", 64, 2**40, ["H100"], node="a")
    assert h100.id == make_machine("EPYC (avx2)", 64, 2**40 + 2**21, ["H100"] * 8, node="b").id
    for other in (
        make_machine("EPYC (avx2 avx512f)", 64, 2**40, ["H100"]),
        make_machine("EPYC (avx2)", 32, 2**40, ["H100"]),
        make_machine("EPYC (avx2)", 64, 2**39, ["H100"]),
        make_machine("EPYC (avx2)", 64, 2**40, ["H200"]),
        make_machine("EPYC (avx2)", 64, 2**40),
    ):
        assert other.id != h100.id
    own = tmp_path / "machine-id"
    assert read_node((own,)) is None
    own.write_text("0123456789abcdef\n")
    found = read_node((tmp_path / "none", own))
    assert found is not None
    assert found not in own.read_text(), "the identity itself is not published"
    assert read_machine().id == read_machine().id
