"""Set up self-contained pages: an environment for their templates, and hashes of the scripts that they inline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_environment(folder: Path, finalize: Callable[[Any], Any] | None = None) -> Any:
    """Return a jinja environment for the templates in *folder* that escapes all values after *finalize*."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def make_csp_source(text: str) -> str:
    """Return the source of the inlined *text* in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
