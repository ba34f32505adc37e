"""What the documentation says about the command line is what the command line says."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="runs against the wheel: docs/ is in the source tree only")


def test_the_reference_of_the_command_line_is_generated(tmp_path: Path) -> None:
    """`make docs/cli.md` writes it again."""
    made = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "bitnet_bench.cli", "utils", "docs", "--name", "bitnet-bench"]
    subprocess.run([*command, "--output", str(made)], check=True, capture_output=True, cwd=ROOT)
    assert made.read_text(encoding="utf-8") == (DOCS / "cli.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_menu() -> None:
    """A page that the site does not show is not read."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", menu.split("nav:")[-1]))


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_links_of_the_readme_lead_somewhere(name: str) -> None:
    """Files and folders that it names are in the tree."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "README.ko.md",
        *(f"docs/{page.relative_to(DOCS)}" for page in (*DOCS.glob("*.md"), *DOCS.glob("ko/*.md"))),
    ],
)
def test_commands_in_the_documentation_exist(file: str) -> None:
    """Every `bitnet-bench COMMAND` that is written down is one."""
    known = set(re.findall(r"^## `bitnet-bench ([\w-]+)`", (DOCS / "cli.md").read_text(encoding="utf-8"), re.MULTILINE))
    text = (ROOT / file).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)bitnet-bench +([a-z][\w-]*)", text, re.MULTILINE))
    assert named <= known


def test_examples_of_the_python_api_render() -> None:
    """mkdocstrings knows a section `Examples:`; under another name the prompts become quotations."""
    lines = (ROOT / "bitnet_bench" / "api.py").read_text(encoding="utf-8").splitlines()
    heads = {lines[i - 1].strip() for i, line in enumerate(lines) if ">>>" in line and ">>>" not in lines[i - 1]}
    assert heads == {"Examples:"}


def test_lists_and_tables_after_a_paragraph_render() -> None:
    """The site's hook puts an empty line before them; code, items and rows stay as they are."""
    hook = runpy.run_path(str(ROOT / ".ci" / "mkdocs_hooks.py"))["on_page_markdown"]
    assert (
        hook("Text:\n- a\n  more\n- b\n\nText\n| a |\n| - |\n") == "Text:\n\n- a\n  more\n- b\n\nText\n\n| a |\n| - |\n"
    )
    for same in ("- a\n- b", "```\ntext\n- a\n```", "# Head\n- a", "| a |\n| - |", "1. a\n2. b"):
        assert hook(same) == same
    assert hook("```\nx\n```\n- a") == "```\nx\n```\n\n- a"


KOREAN_PAGES = sorted((DOCS / "ko").glob("*.md"))
each_korean_page = pytest.mark.parametrize("page", KOREAN_PAGES, ids=lambda page: page.stem)


@each_korean_page
def test_a_korean_page_names_the_english_page_that_it_follows(page: Path) -> None:
    """With a digest, so that `make docs` and the page itself can say that the English one has changed since."""
    found = re.match(r"---\nfollows: (\S+\.md)\ndigest: [0-9a-f]{16}\n---\n\n# ", page.read_text(encoding="utf-8"))
    assert found
    assert (DOCS / found[1]).is_file()


@each_korean_page
def test_links_of_a_korean_page_lead_somewhere(page: Path) -> None:
    """Pages, pictures and decisions that it names are in the tree; to a page that is in Korean, to the Korean one."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
    translated = {korean.name for korean in KOREAN_PAGES}
    english = [link for link in links if link.startswith("../") and link.removeprefix("../") in translated]
    assert [link for link in english if f"[영어 문서]({link}" not in page.read_text(encoding="utf-8")] == []


def test_an_english_page_that_changes_makes_its_translation_stale(tmp_path: Path) -> None:
    """Until the translation is noted as done."""
    pages = runpy.run_path(str(ROOT / ".ci" / "korean_pages.py"))
    shutil.copytree(DOCS / "ko", tmp_path / "ko")
    for page in DOCS.glob("*.md"):
        shutil.copy(page, tmp_path)
    pages["note_translation"]("data.md", tmp_path)
    assert "data.md" not in pages["list_stale_pages"](tmp_path)
    (tmp_path / "data.md").write_text("# Data\n", encoding="utf-8")
    assert "data.md" in pages["list_stale_pages"](tmp_path)
    pages["note_translation"]("data.md", tmp_path)
    assert "data.md" not in pages["list_stale_pages"](tmp_path)


def test_words_of_the_korean_pages_are_those_of_the_field() -> None:
    """One word for a thing: 이유, 조건, 스텝, 버전, 라이선스, 모델, 기준."""
    unused = re.compile("까닭|두 팔|걸음|사용 허락|모형|우연 수준|스위트|견주")
    files = [*KOREAN_PAGES, ROOT / "README.ko.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    found = {file.name: unused.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {name: words for name, words in found.items() if words} == {}


def test_the_site_says_which_english_page_a_korean_one_follows() -> None:
    """By a hook of MkDocs, which links it, and warns where it has changed."""
    assert ".ci/korean_pages.py" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "styles.css" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = runpy.run_path(str(ROOT / ".ci" / "korean_pages.py"))
    digest = pages["digest_page"](DOCS / "data.md")
    for noted, said in ((digest, "옮긴 것입니다"), ("0" * len(digest), "바뀌었습니다")):
        page = SimpleNamespace(meta={"follows": "data.md", "digest": noted})
        shown = pages["on_page_markdown"]("# 데이터\n\n첫 문단", page, {"docs_dir": str(DOCS)}, None)
        assert said in shown
        assert "](../data.md)" in shown
