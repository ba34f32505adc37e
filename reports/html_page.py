"""What every self-contained page needs: an environment for its template, and names for the scripts that it inlines."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_environment(folder: Path, finalize: Callable[[Any], Any] | None = None) -> Any:
    """Return a jinja environment for the templates in *folder* that escapes all values; *finalize* sees them before."""
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
    """Return what a Content-Security-Policy calls the inlined *text*."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
