"""Let lists and tables render on the site where they follow a paragraph without an empty line, as on GitHub."""

from __future__ import annotations

import re

BLOCK = re.compile(r"(?:[-*] |\d+\. |\|)")
"""How an item of a list or a row of a table begins."""
NO_PARAGRAPH = re.compile(r"(?:\s|[-*] |\d+\. |\||#|>|<|$)")
"""How a line begins that is not text of a paragraph."""
FENCE = "```"


def on_page_markdown(markdown: str, **_context: object) -> str:
    """Return a page with an empty line before each list and table; mkdocs calls this by its name."""
    lines: list[str] = []
    in_code = False
    for line in markdown.split("\n"):
        follows_text = bool(lines) and not NO_PARAGRAPH.match(lines[-1]) and not lines[-1].startswith(FENCE)
        if not in_code and BLOCK.match(line) and follows_text:
            lines.append("")
        in_code ^= line.lstrip().startswith(FENCE)
        lines.append(line)
    return "\n".join(lines)
