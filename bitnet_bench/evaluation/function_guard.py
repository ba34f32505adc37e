"""Check each `!function` at the moment that lm-eval loads it: what no scan of a suite found does not run either."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.definitions import FUNCTION_TAG, find_module
from bitnet_bench.evaluation.suites import Suite
from bitnet_bench.evaluation.trust import is_installed, is_trusted, is_trusted_code

OWN_PACKAGES = ("bitnet_bench", "lm_eval")
"""Packages that are installed even if no list of distributions names them, as after an editable install."""
_guarded: ContextVar[tuple[Suite, bool] | None] = ContextVar("guarded", default=None)


@contextmanager
def guard_functions(suite: Suite, may_run: bool = True) -> Iterator[None]:
    """Within the block, let lm-eval load only functions of *suite* that are trusted; none of a folder if not *may_run*.

    Functions of installed packages of suites are loaded in any case.
    """
    _put_guard()
    token = _guarded.set((suite, may_run))
    try:
        yield
    finally:
        _guarded.reset(token)


@cache
def _put_guard() -> None:
    """Put the check before the one function by which lm-eval loads what a `!function` names."""
    from lm_eval.tasks import _yaml_loader

    load = _yaml_loader._import_func_in_yml

    def load_checked(qual: str, base_dir: Path) -> Any:
        if guarded := _guarded.get():
            _check_function(*guarded, qual, base_dir)
        return load(qual, base_dir)

    _yaml_loader._import_func_in_yml = load_checked


def _check_function(suite: Suite, may_run: bool, function: str, folder: Path) -> None:
    if is_installed(suite.folder):
        return
    file = find_module(folder / "any.yaml", function)
    if file.exists():
        allowed = is_installed(file) or (may_run and is_trusted_code(suite, file))
    else:
        top = function.partition(".")[0]
        allowed = _is_nowhere(top) or (_is_package(top) and (is_installed(folder) or (may_run and is_trusted(suite))))
    if not allowed:
        raise BenchError(
            f"`{FUNCTION_TAG} {function}` in {folder} is not run: it is not among the trusted code of the suite "
            f"{suite.name}.",
            "Put its Python file into the folder of the suite, read it, and give `trust_suite`.",
        )


@cache
def _is_package(module: str) -> bool:
    return module in OWN_PACKAGES or module in sys.stdlib_module_names or module in packages_distributions()


def _is_nowhere(module: str) -> bool:
    """Return whether Python finds no such top-level *module*: lm-eval then says so, and nothing runs."""
    try:
        return find_spec(module) is None
    except ValueError:  # no name, or a module that was made by hand
        return False
