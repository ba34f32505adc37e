"""A SLURM cluster of two nodes of one core each on this machine, for tests that need a real `sbatch`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
START_S = 60.0
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10
"""


def find_missing() -> str:
    """Return why no cluster can be started here; "" if one can."""
    if os.geteuid() != 0:
        return "slurmd must be started by root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)" if missing else ""


@contextmanager
def start_slurm() -> Iterator[dict[str, str]]:
    """Start a cluster and yield the variables by which its commands find it; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    host = socket.gethostname().split(".")[0]
    (folder / "state").mkdir()
    for node in ("n1", "n2"):
        (folder / f"spool-{node}").mkdir()
    told = CONFIGURATION.format(host=host, folder=folder, ports=_find_ports())
    (folder / "slurm.conf").write_text(told, encoding="utf-8")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file", "log-file")]
    try:
        _start(["munged", "--force", *munge, f"--seed-file={folder}/munge.seed"], environment)
        _start(["slurmctld", "-c"], environment)
        for node in ("n1", "n2"):
            _start(["slurmd", "-N", node], environment)
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=os.environ | environment, timeout=30, check=False)
        time.sleep(1)
        for pid in [*folder.glob("slurmd-*.pid"), *folder.glob("slurmctld.pid"), *folder.glob("munge.pid")]:
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=os.environ | environment, check=True, timeout=START_S)


def _find_ports() -> tuple[int, int, int]:
    """Return a free port, and two that follow each other."""
    while True:
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            first = two.getsockname()[1]
            with suppress(OSError, OverflowError):
                three.bind(("127.0.0.1", first + 1))
                return one.getsockname()[1], first, first + 1


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        said = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if said.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.2)
    logs = "\n".join(file.read_text(errors="replace")[-2000:] for file in folder.glob("*.log"))
    raise RuntimeError(f"The nodes did not come up: {logs}")
