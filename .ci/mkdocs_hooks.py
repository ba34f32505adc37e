"""Let lists and tables render on the site where they follow a paragraph without an empty line, as on GitHub."""

from __future__ import annotations

import re

BLOCK = re.compile(r"(?:[-*] |\d+\. |\|)")
"""How an item of a list or a row of a table begins."""
NO_TEXT = re.compile(r"(?:#|>|<|\s*$)")
"""How a line begins after which a list or a table renders as it stands."""
FENCE = "```"


def on_page_markdown(markdown: str, **_context: object) -> str:
    """Return a page with an empty line before each list and table; mkdocs calls this by its name."""
    lines: list[str] = []
    in_code = in_block = False
    for line in markdown.split("\n"):
        begins = not in_code and bool(BLOCK.match(line))
        if begins and not in_block and lines and not NO_TEXT.match(lines[-1]):
            lines.append("")
        in_code ^= line.lstrip().startswith(FENCE)
        in_block = begins or (in_block and bool(line.strip()))
        lines.append(line)
    return "\n".join(lines)
