"""Call the mutant that MUTANT names instead of the original; it stands in the mutated tree as `mutation_trampoline`.

With MUTANT unset it notes which functions are called: in this process in `called`, in others in the file CALLED.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

MutantDict = dict[str, Callable[..., Any]]
"""Bodies of one function by name: `_mutmut_orig`, and one a mutant."""

called: set[str] = set()
root_process = os.getpid()
_written: set[str] = set()


def choose_body(bodies: MutantDict, is_classmethod: bool = False) -> Callable[..., Any]:
    """Return a decorator whose function runs one of *bodies*, chosen at each call."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run_chosen(*args: Any, **kwargs: Any) -> Any:
            original = bodies["_mutmut_orig"]
            module, _, name = os.environ.get("MUTANT", "").rpartition(".")
            body = bodies.get(name, original) if module == function.__module__ else original
            if not module:
                _note(f"{function.__module__}.{original.__name__.removesuffix('__mutmut_orig')}")
            return getattr(args[0], body.__name__)(*args[1:], **kwargs) if is_classmethod else body(*args, **kwargs)

        return run_chosen

    return decorate


def _note(function: str) -> None:
    called.add(function)
    file = os.environ.get("CALLED")
    if os.getpid() != root_process and file and function not in _written:
        _written.add(function)
        with open(file, "a", encoding="utf-8") as out:
            out.write(f"{function}\n")
