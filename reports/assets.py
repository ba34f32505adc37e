"""Read the scripts and the stylesheet of a page: this package's, and those of installed libraries."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path

ASSETS_DIR = Path(__file__).parent
DEFAULT_EXPORT = re.compile(r"export\{[^}]*?([\w$]+) as default[^}]*\};?")


@cache
def read_chart_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed in one script (vl-convert-python's bundle)."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return _wrap_script(bundle)


@cache
def read_table_library() -> str:
    """Return DataTables as one script without module exports, which an inline script cannot have (itables' bundle)."""
    bundle = (resources.files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    script, count = DEFAULT_EXPORT.subn(r"globalThis.DataTable=\1;", bundle)
    assert count == 1, "itables' bundle has another form"
    return _wrap_script(script)


def read_page_script() -> str:
    """Return the script of the page."""
    return (ASSETS_DIR / "report.js").read_text(encoding="utf-8")


def read_stylesheet() -> str:
    """Return the stylesheet."""
    return (ASSETS_DIR / "report.css").read_text(encoding="utf-8")


def _wrap_script(script: str) -> str:
    """Return a library as one function, without sequences that would end or change a script element."""
    safe = script.replace("</script", r"<\/script").replace("<!--", r"\x3c!--")
    return f"(()=>{{{safe}\n}})();"
