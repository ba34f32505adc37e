"""Decide whether the code of a suite may run: a suite that is a folder of somebody's is a program.

Suites of installed packages were trusted when they were installed. One in a folder runs its code only after the user
said so for exactly these files; prompts are templates in a sandbox and need no trust.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.definitions import FUNCTION_TAG, Definition, examine_definition
from bitnet_bench.evaluation.harness_tasks import find_harness_folder
from bitnet_bench.files import exists, is_file, write_whole
from bitnet_bench.questions import ASK

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite

STATE_VARIABLE = "BITNET_BENCH_STATE"
TRUST_FILE = "trusted-suites.json"
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll")
MAX_SUITE_FILES = 10_000
"""Number of files and folders up to which the folder of a suite is looked through."""
MAX_SUITE_BYTES = 1 << 30
"""Size of all files of a suite up to which its digest is computed."""
MAX_DEFINITION_BYTES = 8 << 20
"""Size of all definitions of a suite up to which they are looked through."""
SMALLER_HINT = "Give rows by `data_dir`, and keep only the files of the suite in its folder."
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
DATASET_FORMATS = ("json", "csv", "parquet", "text")
"""Values of `dataset_path` that read files in which nothing but text and numbers can be."""
DATASET_SETTINGS = ("revision", "name", "split", "data_files", "data_dir")
"""Keys of `dataset_kwargs` that choose rows; others choose how a file is decoded."""
MAX_FILES_NAMED = 5
_log = logging.getLogger(__name__)
_trusted_here: set[str] = set()
"""Digests of the suites that this process was told to trust, should the state folder not be writable."""


def require_trust(suite: Suite) -> None:
    """Raise BenchError if *suite* brings code that the user has not trusted; on a terminal, the user is asked."""
    code = list_code(suite)
    if not code or is_trusted(suite):
        return
    problem = f"The suite {suite.name} in {suite.folder} brings code of its own: {_name_some(code)}."
    if (ask := ASK.get()) and ask(f"{problem} Run it, now and as long as no file of the suite changes?"):
        _remember(suite, compute_suite_digest(suite))
        return
    raise BenchError(
        problem,
        "Read that code. If you trust it, give `trust_suite`: it is remembered until a file of the suite changes.",
    )


def refuse_code(suite: Suite, what: str) -> None:
    """Raise BenchError if *suite* brings code, trusted or not: *what* runs none."""
    if code := list_code(suite):
        raise BenchError(
            f"The suite {suite.name} in {suite.folder} brings code of its own ({_name_some(code)}), and "
            f"{what} runs none.",
            "Install the suite as a package, or leave it out.",
        )


def trust_suites(suites: Sequence[Suite]) -> None:
    """Remember that the code of *suites* may run until one of their files changes."""
    for suite in suites:
        if list_code(suite):
            _remember(suite, compute_suite_digest(suite))


def list_code(suite: Suite) -> list[str]:
    """Return what in *suite* would run code, as file names with reasons; [] for a suite of an installed package."""
    if is_installed(suite.folder):
        return []
    folder = suite.folder.resolve()
    found = {f"{task.module} (`module`)": None for task in suite.tasks if task.module}
    definitions, unreadable = _examine_definitions(suite)
    fields = {file: part for one in definitions for file, part in one.parts.items()}
    tagged = {file for one in definitions for file, names in one.functions.items() if names}
    for file in _list_files(suite, definitions):
        name = _name_file(file, folder)
        if file.suffix in CODE_SUFFIXES:
            found[name] = None
        reasons = [f"`{FUNCTION_TAG}`"] if file in tagged else []
        reasons += _list_settings(fields.get(file, {}))
        found |= {f"{name} ({why})": None for why in reasons}
    return [*found, *(f"{_name_file(file, folder)} (cannot be read)" for file in unreadable)]


def is_installed(path: Path) -> bool:
    """Return whether *path* is below a folder of an installed package of suites, or of lm-eval's own tasks."""
    path = path.resolve()
    return any(path.is_relative_to(place.resolve()) for place in (*plugins.find_task_folders(), find_harness_folder()))


def compute_suite_digest(suite: Suite) -> str:
    """Return the digest of all files of *suite*, and of those elsewhere that its tasks include or load."""
    return _digest_files(suite, _list_files(suite))


def _digest_files(suite: Suite, files: Sequence[Path]) -> str:
    folder = suite.folder.resolve()
    digest = hashlib.sha256()
    size = 0
    for file in files:
        status = file.stat()
        size += status.st_size
        if size > MAX_SUITE_BYTES:
            raise BenchError(
                f"The suite {suite.name} in {folder} has more than {MAX_SUITE_BYTES >> 20:,} MiB.", SMALLER_HINT
            )
        content = _hash_file(file, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        digest.update(f"{_name_file(file, folder)}\0{content}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def is_trusted_code(suite: Suite, file: Path) -> bool:
    """Return whether *file* is one of the files of *suite* that are trusted now."""
    files = _list_files(suite)
    return file.resolve() in {one.resolve() for one in files} and _is_known(_digest_files(suite, files))


def is_trusted(suite: Suite) -> bool:
    """Return whether the user trusted *suite* as its files are now."""
    return _is_known(compute_suite_digest(suite))


def _is_known(digest: str) -> bool:
    return digest in _trusted_here | _read_trusted().keys()


@contextmanager
def leave_no_bytecode() -> Iterator[None]:
    """Import modules without writing caches of them: a new file in a suite would need the user's trust again."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _list_files(suite: Suite, definitions: Sequence[Definition] | None = None) -> list[Path]:
    """Return the files in the folder of *suite*, and those elsewhere that its tasks include or load, in order.

    Code files beside a module elsewhere count too: it can import them. *definitions* are those of the tasks, if known.
    """
    folder = suite.folder.resolve()
    found = set(_walk_folder(suite, folder))
    modules = {(folder / task.module).resolve() for task in suite.tasks if task.module}
    for definition in _examine_definitions(suite)[0] if definitions is None else definitions:
        found |= definition.parts.keys()
        modules |= definition.list_modules()
    outside = {module for module in modules if is_file(module) and not module.is_relative_to(folder)}
    found |= outside
    for place in {module.parent for module in outside if not is_installed(module)}:
        with os.scandir(place) as entries:
            beside = [Path(entry.path) for entry in islice(entries, MAX_SUITE_FILES + 1)]
        if len(beside) > MAX_SUITE_FILES:
            raise _refuse_size(suite, place)
        found |= {file for file in beside if file.suffix in CODE_SUFFIXES and file.is_file()}
    return sorted(found)


def _walk_folder(suite: Suite, folder: Path) -> Iterator[Path]:
    """Yield the files below *folder*, in linked folders too; BenchError if they are too many."""
    seen: set[Path] = set()
    count = 0
    for place, inner, names in os.walk(folder, followlinks=True):
        inner.sort()
        real = Path(place).resolve()
        if real in seen:  # a link to a folder that is looked through already, or around this one
            inner.clear()
            continue
        seen.add(real)
        count += len(inner) + len(names)
        if count > MAX_SUITE_FILES:
            raise _refuse_size(suite, folder)
        yield from (file for name in names if (file := Path(place, name)).is_file())


def _refuse_size(suite: Suite, place: Path) -> BenchError:
    problem = f"The suite {suite.name} cannot be looked through: {place} has more than {MAX_SUITE_FILES:,} files."
    return BenchError(problem, SMALLER_HINT)


def _examine_definitions(suite: Suite) -> tuple[list[Definition], list[Path]]:
    """Return the definitions of the tasks of *suite*, and the files of those that cannot be read.

    YAML that no task reaches is data. The names of prompts lead to lm-eval's own definitions, which are installed.
    """
    definitions: list[Definition] = []
    unreadable: list[Path] = []
    sizes: dict[Path, int] = {}
    for file in (suite.folder.resolve() / name for task in suite.tasks for name in task.definitions.values()):
        if not exists(file):
            continue
        try:
            found = examine_definition(file)
        except BenchError:
            unreadable.append(file)
            continue
        sizes |= {part: part.stat().st_size for part in found.parts}
        if sum(sizes.values()) > MAX_DEFINITION_BYTES:
            raise BenchError(
                f"The definitions of the suite {suite.name} have more than {MAX_DEFINITION_BYTES >> 20} MiB.",
                "Make several suites of it.",
            )
        definitions.append(found)
    return definitions, unreadable


def _name_file(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _list_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the settings in a task's YAML that load something that may be code."""
    found = []
    metrics = config.get("metric_list")
    if any(isinstance(one, dict) and one.get("hf_evaluate") for one in (metrics if isinstance(metrics, list) else ())):
        found.append("`hf_evaluate`")
    arguments = config.get("dataset_kwargs")
    if arguments and (not isinstance(arguments, dict) or not arguments.keys() <= set(DATASET_SETTINGS)):
        found.append("`dataset_kwargs`")
    path = config.get("dataset_path")
    is_hub_id = isinstance(path, str) and HUB_ID.fullmatch(path) and not exists(Path(path))
    if path is not None and path not in DATASET_FORMATS and not is_hub_id:
        found.append("`dataset_path`")
    return found


@lru_cache(maxsize=2 * MAX_SUITE_FILES)  # of a smaller one, a listing in order would find nothing again
def _hash_file(file: Path, modified: int, changed: int, size: int) -> str:
    """Return the sha256 of *file*; the other parameters say whether it is still the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _name_some(code: Sequence[str]) -> str:
    more = f" and {len(code) - MAX_FILES_NAMED} more" if len(code) > MAX_FILES_NAMED else ""
    return ", ".join(code[:MAX_FILES_NAMED]) + more


def find_trust_file() -> Path:
    """Return the file with the suites that are trusted: in $BITNET_BENCH_STATE, else in the user's state folder."""
    if os.environ.get(STATE_VARIABLE):
        return Path(os.environ[STATE_VARIABLE]) / TRUST_FILE
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "bitnet-bench" / TRUST_FILE


def _read_trusted() -> dict[str, str]:
    """Return the folders of trusted suites by digest; {} if nothing can be read."""
    try:
        found = json.loads(find_trust_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(suite: Suite, digest: str) -> None:
    _trusted_here.add(digest)
    try:
        known = _read_trusted()
        if digest not in known:
            write_whole(find_trust_file(), json.dumps({**known, digest: str(suite.folder)}, indent=1) + "\n")
    except (BenchError, OSError, RuntimeError) as error:
        _log.warning("That the suite %s is trusted is not remembered: %s", suite.name, str(error).splitlines()[0])
