"""Shorten paths in what is shared, such as a report or a model card: they name users, customers and projects.

Records keep whole paths, because commands find files by them; what is made of records for others goes through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)
HOME = re.compile(r"(?:/home|/Users|/export/home|[A-Za-z]:/Users)/[^/]+|/(?:var/)?root")
"""Home folders, of this machine or of the one where a record was made."""
KEPT_PARTS = 2
ABSOLUTE_PATH = re.compile(
    r"(?P<quote>[\"'`])(?P<quoted>(?:/|[A-Za-z]:[\\/])(?!/)[^\"'`\n]*)(?P=quote)|"
    r"(?<![\w/.~…\\])"  # neither a part of a relative path, nor behind the slashes of an address
    r"(?P<path>(?:file://|(?<!:)//+|/(?!/)|[A-Za-z]:[\\/])[^\s\"'`<>|,;:()\[\]{}*?]*)"
)
SINGLE_PART = re.compile(r"/[^/\\]*/?")
"""A slash and one name, which is more often a command or a fraction than a path."""


def shorten_path(path: str) -> str:
    """Return an absolute *path* relative to the current folder, else from the home folder, else its last two parts."""
    posix = path.replace("\\", "/")
    here = Path.cwd().as_posix()
    if posix == here:
        return "."
    if here != "/" and posix.startswith(f"{here}/"):
        return posix[len(here) + 1 :]
    own = _find_home()
    home = f"{own}/" if own and f"{posix}/".startswith(f"{own}/") else None
    if home is None and (found := HOME.match(posix)):
        home = f"{found[0]}/" if posix[found.end() : found.end() + 1] in ("", "/") else None
    parts = [part for part in f"{posix}/".removeprefix(home or "/").split("/") if part]
    if home is not None and len(parts) <= KEPT_PARTS:
        return "/".join(["~", *parts])
    return "/".join(["…", *parts[-KEPT_PARTS:]])


def _find_home() -> str | None:
    try:
        home = Path.home().as_posix()
    except RuntimeError:  # there is none
        return None
    return home if home != "/" else None


def shorten_paths(text: str) -> str:
    """Return *text* with every absolute path in it shortened; one that is the whole text may contain spaces."""
    if text.startswith("/") and not text.startswith("//") and "\n" not in text and not re.search(r"\s/|\s-", text):
        return text if SINGLE_PART.fullmatch(text) else shorten_path(text)
    for known, shown in _list_known_folders():
        text = text.replace(f"{known}/", shown)
    return ABSOLUTE_PATH.sub(_shorten_match, text)


def _list_known_folders() -> list[tuple[str, str]]:
    """Return folders that are recognised in text even if their names contain spaces, and what replaces them."""
    here = Path.cwd().as_posix()
    return [(here, "")] if here != "/" and " " in here else []


def _shorten_match(found: re.Match[str]) -> str:
    quote, path = found["quote"] or "", found["quoted"] or found["path"]
    kept = path.rstrip(".")  # the end of a sentence
    plain = re.sub("^(?:file:)?/+", "/", kept)
    if SINGLE_PART.fullmatch(plain):
        return found[0]
    return f"{quote}{shorten_path(plain)}{path[len(kept) :]}{quote}"


def share(value: Any) -> Any:
    """Return a value of JSON with the paths in its texts shortened, keys included."""
    if isinstance(value, str):
        return shorten_paths(value)
    if isinstance(value, Mapping):
        return {share(key): share(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(share(item) for item in value)
    return value


def share_model(model: Model) -> Model:
    """Return *model* with the paths in its texts shortened."""
    return type(model).model_validate(share(model.model_dump()))
