"""Former module names that other packages import, for one release; `bitnet_bench.__path__` makes them importable."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


def find_moved(module: str, name: str, places: dict[str, str]) -> Any:
    """Return what the former *module* called *name* from where it is now, with a warning that names the new place."""
    if name not in places:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module} is removed in the next release: import {name} from {places[name]}.", DeprecationWarning, stacklevel=3
    )
    return getattr(import_module(places[name]), name)
