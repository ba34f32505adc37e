"""Former module names that other packages import, for one release; `bitnet_bench.__path__` makes them importable."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def find_moved(module: str, name: str, places: dict[str, str], names: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return what the former *module* called *name* from where it is now, with a warning that names the new place.

    *names*: former names that have changed, and what they are now.
    """
    if name not in places:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    now = names.get(name, name)
    warnings.warn(
        f"{module} is removed in the next release: import {now} from {places[name]}.", DeprecationWarning, stacklevel=3
    )
    return getattr(import_module(places[name]), now)
