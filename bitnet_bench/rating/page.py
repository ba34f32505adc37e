"""Render a rating sheet: one page that needs no network and no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.rating.ratings import MAX_POINT, MIN_POINT, RATING_KIND, RATING_SCALES
from bitnet_bench.reports.html_page import make_csp_source, make_environment

if TYPE_CHECKING:
    from bitnet_bench.rating.sheet import SheetItem

PAGE_DIR = Path(__file__).parent


def render_sheet(sheet: str, items: Iterable[SheetItem]) -> str:
    """Return the page's text. Model outputs are in it as JSON only, which the script shows as text."""
    from markupsafe import Markup

    style, script = ((PAGE_DIR / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {make_csp_source(style)}; script-src {make_csp_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    asked = {
        "kind": RATING_KIND,
        "sheet": sheet,
        "scales": RATING_SCALES,
        "points": list(range(MIN_POINT, MAX_POINT + 1)),
        "items": [{**item._asdict(), "turns": [turn._asdict() for turn in item.turns]} for item in items],
    }
    page: str = (
        make_environment(PAGE_DIR)
        .get_template("page.html.j2")
        .render(policy=policy, style=Markup(style), script=Markup(script), asked=Markup(_escape_json(asked)))
    )
    return page


def _escape_json(value: object) -> str:
    """Return JSON without a character that can begin a tag, comment or entity in HTML."""
    text = json.dumps(value)  # all non-ASCII characters are escaped, including a lone surrogate
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
