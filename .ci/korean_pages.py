"""Say which Korean pages follow an older state of their English page; the site says it on those pages, too.

A page in docs/ko names in its front matter the English page that it follows, and the digest of that page's text when
it was translated. `python .ci/korean_pages.py` lists the pages whose English page has changed since, and
`python .ci/korean_pages.py --done data.md` notes that docs/ko/data.md was brought up to date.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
KOREAN = "ko"
DIGITS = 16
FRONT_MATTER = re.compile(r"---\nfollows: (?P<follows>\S+)\ndigest: (?P<digest>\w+)\n---\n\n")
CURRENT = "> 이 문서는 [영어 문서]({link})를 옮긴 것입니다.\n\n"
STALE = (
    '!!! warning "영어 문서가 이 번역 뒤에 바뀌었습니다"\n'
    "    이 문서는 [영어 문서]({link})의 이전 버전을 옮긴 것입니다. 다른 점이 있으면 영어 문서를 따르세요.\n\n"
)


def digest_page(page: Path) -> str:
    """Return the beginning of the sha256 of a page's text."""
    return hashlib.sha256(page.read_text(encoding="utf-8").encode()).hexdigest()[:DIGITS]


def list_stale_pages(docs: Path = DOCS) -> list[str]:
    """Return the Korean pages whose English page is not the one that they were translated from."""
    return [page.name for page in sorted((docs / KOREAN).glob("*.md")) if is_stale(docs, read_front_matter(page))]


def read_front_matter(page: Path) -> Mapping[str, str]:
    """Return the English page that a Korean page follows, and its digest."""
    found = FRONT_MATTER.match(page.read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{page} does not begin with `follows` and `digest`; see {Path(__file__).name}.")
    return found.groupdict()


def is_stale(docs: Path, meta: Mapping[str, Any]) -> bool:
    """Return whether the English page has changed since the digest in *meta* was noted."""
    return digest_page(docs / meta["follows"]) != str(meta["digest"])


def note_translation(name: str, docs: Path = DOCS) -> None:
    """Write the digest of the English page as it is now into the Korean page *name*."""
    page = docs / KOREAN / name
    text, follows = page.read_text(encoding="utf-8"), name
    if found := FRONT_MATTER.match(text):
        text, follows = text[found.end() :], found["follows"]
    page.write_text(f"---\nfollows: {follows}\ndigest: {digest_page(docs / follows)}\n---\n\n{text}", encoding="utf-8")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page of the site with a line that links the English page (a hook of MkDocs)."""
    if "follows" not in page.meta:
        return markdown
    frame = STALE if is_stale(Path(config["docs_dir"]), page.meta) else CURRENT
    title, _, rest = markdown.lstrip().partition("\n")
    return f"{title}\n\n{frame.format(link='../' + page.meta['follows'])}{rest.lstrip()}"


def main() -> None:
    """List stale pages, or note that some are up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--done", nargs="+", default=[], metavar="PAGE")
    for name in parser.parse_args().done:
        note_translation(name)
    for name in list_stale_pages():
        print(f"docs/{KOREAN}/{name} follows an older docs/{read_front_matter(DOCS / KOREAN / name)['follows']}")


if __name__ == "__main__":
    sys.exit(main())
