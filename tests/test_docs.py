"""What the documentation says about the command line is what the command line says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("file", ["README.md", "README.ko.md", *(f"docs/{page.name}" for page in DOCS.glob("*.md"))])
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
