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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.harness_tasks import find_harness_folder
from bitnet_bench.files import write_whole
from bitnet_bench.questions import ASK

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite

STATE_VARIABLE = "BITNET_BENCH_STATE"
TRUST_FILE = "trusted-suites.json"
FUNCTION_TAG = "!function"
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll")
YAML_SUFFIXES = (".yaml", ".yml")
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
    if not code or (digest := compute_suite_digest(suite)) in _trusted_here | _read_trusted().keys():
        return
    problem = f"The suite {suite.name} in {suite.folder} brings code of its own: {_name_some(code)}."
    if (ask := ASK.get()) and ask(f"{problem} Run it, now and as long as no file of the suite changes?"):
        _remember(suite, digest)
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
    folder = suite.folder.resolve()
    if any(folder.is_relative_to(place.resolve()) for place in (*plugins.find_task_folders(), find_harness_folder())):
        return []
    found = {f"{task.module} (`module`)": None for task in suite.tasks if task.module}
    for file in _list_files(suite):
        name = _name_file(file, folder)
        if file.suffix in CODE_SUFFIXES:
            found[name] = None
        elif file.suffix in YAML_SUFFIXES and file.name != "suite.yaml":
            found |= {f"{name} ({why})": None for why in _list_yaml_code(file)}
    return list(found)


def compute_suite_digest(suite: Suite) -> str:
    """Return the digest of all files of *suite*, and of those that its YAML files include from elsewhere."""
    folder = suite.folder.resolve()
    digest = hashlib.sha256()
    for file in _list_files(suite):
        status = file.stat()
        content = _hash_file(file, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        digest.update(f"{_name_file(file, folder)}\0{content}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@contextmanager
def leave_no_bytecode() -> Iterator[None]:
    """Import modules without writing caches of them: a new file in a suite would need the user's trust again."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _list_files(suite: Suite) -> list[Path]:
    """Return the files in the folder of *suite*, and those that are included from elsewhere, in order."""
    inside = {file for file in suite.folder.resolve().rglob("*") if file.is_file()}
    seen: set[Path] = set()
    waiting = [file for file in inside if file.suffix in YAML_SUFFIXES]
    while waiting:
        file = waiting.pop().resolve()
        if file not in seen and file.is_file():
            seen.add(file)
            waiting += _list_includes(file)
    return sorted(inside | seen)


def _name_file(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _list_includes(file: Path) -> list[Path]:
    config = _read_config(file)
    includes = config.get("include", [])
    named = includes if isinstance(includes, list) else [includes]
    return [file.parent / name for name in named if isinstance(name, str)]


def _list_yaml_code(file: Path) -> list[str]:
    """Return the settings in a task's YAML that run code, or load something that may."""
    found = []
    try:
        tags = {getattr(event, "tag", None) for event in yaml.parse(file.read_text(encoding="utf-8"), yaml.SafeLoader)}
    except (OSError, ValueError, yaml.YAMLError):
        tags = {None}  # it cannot be read for a task either
    if any(tag and tag.startswith("!") for tag in tags):
        found.append(f"`{FUNCTION_TAG}`")
    config = _read_config(file)
    metrics = config.get("metric_list")
    if any(isinstance(one, dict) and one.get("hf_evaluate") for one in (metrics if isinstance(metrics, list) else ())):
        found.append("`hf_evaluate`")
    arguments = config.get("dataset_kwargs")
    if arguments and (not isinstance(arguments, dict) or not arguments.keys() <= set(DATASET_SETTINGS)):
        found.append("`dataset_kwargs`")
    path = config.get("dataset_path")
    is_hub_id = isinstance(path, str) and HUB_ID.fullmatch(path) and not Path(path).exists()
    if path is not None and path not in DATASET_FORMATS and not is_hub_id:
        found.append("`dataset_path`")
    return found


def _read_config(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, in which functions are names; {} if it cannot be read."""

    class Loader(yaml.SafeLoader):
        """YAML loader that runs nothing."""

    Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: FUNCTION_TAG)
    try:
        config = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


@lru_cache(maxsize=4096)
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
