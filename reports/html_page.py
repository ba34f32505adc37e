"""Set up self-contained pages: an environment for their templates, and hashes of the scripts that they inline."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitnet_bench.reports.assets import ASSETS_DIR
from bitnet_bench.reports.sections import Chart
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.shared_paths import shorten_paths
from bitnet_bench.wording import Count, get_text


class ChartRegistry:
    """Numbers the charts in the order in which the template shows them."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []

    def register_chart(self, chart: Chart) -> int:
        """Return the number by which the script finds *chart*."""
        self.specs.append(dict(chart.specs))
        return len(self.specs) - 1


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


def _format_script_json(value: Any) -> str:
    """Return JSON that cannot end its script element; a lone surrogate becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").encode("utf-8", "replace").decode()


def _prepare_environment(folder: Path, keep_paths: bool) -> Any:
    """Return a jinja environment for pages of sections, in which text from records is visible and paths are short."""
    made = make_environment(folder, _make_strings_visible if keep_paths else _make_strings_shareable)
    made.tests["a"] = lambda block, kind: type(block).__name__ == kind
    return made


def _make_strings_visible(value: Any) -> Any:
    """Make text from records visible before it is escaped; markup (`_mark_safe`) and escaped text pass unchanged."""
    return make_visible(value) if type(value) is str else value


def _make_strings_shareable(value: Any) -> Any:
    """Shorten paths in text from records as well."""
    return make_visible(shorten_paths(value)) if type(value) is str else value


def _mark_safe(text: str) -> Any:
    """Mark text of this package as markup that is not escaped."""
    from markupsafe import Markup

    return Markup(text)


def render_page(
    template: str,
    page: Any,
    title: str,
    *,
    style: str,
    scripts: Sequence[str],
    keep_paths: bool,
    make_data: Callable[[ChartRegistry], Any],
) -> str:
    """Return a page of sections that needs nothing else, and whose policy lets its own scripts run alone.

    *title* is a key of the catalogue. *make_data* gives what the scripts read; it is called when the template has
    placed all charts.
    """
    policy = (
        f"default-src 'none'; style-src {make_csp_source(style)}; "
        f"script-src {' '.join(map(make_csp_source, scripts))}; base-uri 'none'; form-action 'none'"
    )
    charts = ChartRegistry()
    text: str = (
        _prepare_environment(ASSETS_DIR, keep_paths)
        .get_template(template)
        .render(
            page=page,
            policy=policy,
            style=_mark_safe(style),
            scripts=[_mark_safe(script) for script in scripts],
            title=title,
            say=get_text,
            count=Count,
            place=charts.register_chart,
            data=lambda: _mark_safe(_format_script_json(make_data(charts))),
        )
    )
    return text
