"""Let one measurement run on a machine at a time, whoever starts it.

The lock is in a folder of the machine that all users and all jobs see, and never in one that machines share: `flock` on
NFS is not to be trusted, and another machine is none of its business.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.lifeline import end_orderly_on_sigterm

LOCK_FOLDER_VARIABLE = "BITNET_BENCH_MACHINE_LOCKS"
"""Variable that names another folder, for containers of one machine that share no other."""
LOCK_FOLDERS = (Path("/run/lock"), Path("/dev/shm"), Path("/tmp"))
LOCK_FILE = "bitnet-bench-measure.lock"
POLL_S = 0.5
MAX_HOLDER_BYTES = 200
_log = logging.getLogger(__name__)


@contextmanager
def own_machine() -> Iterator[float]:
    """Measure alone during the block, which SIGTERM ends in order; yield the seconds that it waited for others."""
    with end_orderly_on_sigterm(), hold_machine() as waited_s:
        yield waited_s


@contextmanager
def hold_machine(
    folder: Path | None = None, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Wait until no other measurement runs on this machine, and keep others waiting during the block.

    Yield the seconds that it waited. The lock ends with the process, however that ends.
    """
    file = (find_lock_folder() if folder is None else folder) / LOCK_FILE
    began, told = clock(), False
    while (descriptor := _try_lock(file)) is None:
        if not told:
            _log.warning("%s measures on this machine. Waiting until it has ended.", _read_holder(file))
            told = True
        sleep(POLL_S)
    try:
        yield clock() - began if told else 0.0
    finally:
        os.close(descriptor)


def find_lock_folder(folders: Sequence[Path] = LOCK_FOLDERS) -> Path:
    """Return the folder of this machine's locks: that of the environment, else the first in which any user can write.

    Whether this user can write does not count: two users must choose the same one.
    """
    given = os.environ.get(LOCK_FOLDER_VARIABLE)
    if given:
        return Path(given)
    for folder in folders:
        if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:
            return folder
    raise BenchError(
        f"This machine has no folder for a lock that all users can write to ({', '.join(map(str, folders))}).",
        f"Name one of this machine alone in {LOCK_FOLDER_VARIABLE}.",
    )


def _try_lock(file: Path) -> int | None:
    """Return the open, locked file with this process as its holder; None if another process holds it."""
    descriptor = _open_lock(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == file.stat().st_ino:  # else it was deleted and made again meanwhile
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"Process {os.getpid()}".encode(), 0)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _open_lock(file: Path) -> int:
    """Open a file that every user may lock.

    It is never deleted, and it is not created where it exists: a kernel refuses that in a folder of all users if the
    file is another user's (`fs.protected_regular`).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            descriptor = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask is
            return descriptor
    except FileExistsError:
        return os.open(file, flags)
    except OSError as error:
        raise BenchError(
            f"The lock of this machine's measurements cannot be opened: {file}: {error.strerror}.",
            f"Make it readable and writable for all users, or name a folder of this machine in {LOCK_FOLDER_VARIABLE}.",
        ) from error


def _read_holder(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_HOLDER_BYTES).decode(errors="replace") or "Another process"
    except OSError:
        return "Another process"
