"""Shorten paths in what is shared, such as a report or a model card: they name users, customers and projects.

Records keep whole paths, because commands find files by them; what is made of records for others goes through here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)
HOME = re.compile(r"(?:/home|/Users|/export/home|[A-Za-z]:/Users)/[^/]+|/(?:var/)?root")
"""Home folders, of this machine or of the one where a record was made."""
KEPT_PARTS = 2
_ROOTS = "(?:home|root|Users|srv|mnt|media|data|opt|var|tmp|usr|etc|private|Volumes|export|nas|net|workspace|scratch)"
"""Folders at the top of a disk, by which a path is recognised that stands directly behind a Korean word."""
_STOPS = r"\s\"'`<>|,;:()\[\]{}*?"
"""What ends a path that is not in quotes."""
_SPACED = rf"(?:(?<![.…\s])(?: (?!-)[^/\\{_STOPS}]+){{1,4}}[/\\][^{_STOPS}]*)*"
"""Words behind a path that lead to another slash: its folders have spaces in their names."""
_START = r"(?:/(?!/)|[A-Za-z]:[\\/]|\\\\(?=[^\s\\/]+[\\/])|~[\w.-]*[\\/]|\.\.[\\/])"
_CLIMBING = rf"(?:[^/\\{_STOPS}=~…]+[\\/])*?\.\.[\\/][^{_STOPS}]*"
FOREIGN_PATH = re.compile(
    rf"(?P<quote>[\"'`])(?P<head>[\w:.,-]*[=:])?(?P<quoted>{_START}[^\"'`\n]*)(?P=quote)|"
    rf"(?P<path>(?:(?<![^{_STOPS}=]){_CLIMBING}|"  # out of a folder and into others
    r"(?:(?<![\w/.~…\\])"  # neither a part of a relative path, nor behind the slashes of an address
    rf"(?:file://|(?<!:)//+|{_START})|(?<=[가-힣])(?=/{_ROOTS}/)/)(?:[^{_STOPS}]+{_SPACED})?))"
)
ARGUMENT = re.compile(rf"(?s)(?P<head>(?:[^/\\~]*?[=:,])??)(?P<path>{_START}.*)")
NEXT_VALUE = re.compile(rf",(?=(?:[\w:.-]+=)?{_START})")
SINGLE_PART = re.compile(r"(?:/|\.\.[\\/])[^/\\]*/?")
"""A slash and one name, which is more often a command or a fraction than a path; or a neighbour of this folder."""


SYSTEM_FOLDERS = ("/sys/", "/proc/")
"""Folders of the system itself, the same on every machine."""


def shorten_path(path: str) -> str:
    """Return *path* relative to the current folder, else from the home folder, else its last two parts."""
    posix = path.replace("\\", "/")
    if posix.startswith(SYSTEM_FOLDERS) and "/../" not in posix:
        return path
    if not posix.startswith("/") and (posix.startswith("~") or "../" in posix):
        user, _, below = posix.partition("/") if posix.startswith("~") else ("", "", posix)
        parts = [part for part in below.split("/") if part not in ("", ".", "..")]
        return posix if user and len(parts) <= KEPT_PARTS else "/".join(["…", *parts[-KEPT_PARTS:]])
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
    """Return *text* with every path in it shortened that is absolute, or leads out of the current folder.

    One that is the whole text, or in quotes, may contain any spaces, and another where the words lead to a slash.
    """
    if text.startswith("/") and not text.startswith("//") and "\n" not in text and not re.search(r"\s/|\s-", text):
        return text if SINGLE_PART.fullmatch(text) else shorten_path(text)
    here = Path.cwd().as_posix()
    if " " in here:  # the pattern ends a path at a space
        text = text.replace(f"{here}/", "")
    return FOREIGN_PATH.sub(_shorten_match, text)


def _shorten_match(found: re.Match[str]) -> str:
    quote, path = found["quote"] or "", found["quoted"] or found["path"]
    head = found["head"] or ""
    if head.endswith(":") and path.startswith("//"):
        return found[0]
    kept = path.rstrip(".")  # the end of a sentence
    plain = re.sub("^(?:file:)?/+", "/", kept)
    if SINGLE_PART.fullmatch(plain):
        return found[0]
    return f"{quote}{head}{shorten_path(plain)}{path[len(kept) :]}{quote}"


def shorten_command(command: str) -> str:
    """Return a command line with the paths in each of its arguments shortened, spaces in their names or not."""
    try:
        arguments = shlex.split(command)
    except ValueError:  # it was cut off, or is none
        return shorten_paths(command)
    shortened = list(map(_shorten_argument, arguments))
    return command if shortened == arguments else " ".join(map(_quote, shortened))


def _shorten_argument(argument: str) -> str:
    """Return one argument with its values shortened that are paths, such as that of NAME=PATH,NAME=PATH."""
    shown = []
    for value in NEXT_VALUE.split(argument):
        found = ARGUMENT.fullmatch(value)
        if found is None or "\n" in value:
            shown.append(shorten_paths(value))
        elif SINGLE_PART.fullmatch(found["path"]):
            shown.append(value)
        else:
            shown.append(found["head"] + shorten_path(found["path"]))
    return ",".join(shown)


def _quote(argument: str) -> str:
    """Return *argument* in quotes if a shell would split it or read more into it than a shortened path."""
    return argument if argument and re.fullmatch(r"[\w@%+=:,./~…-]+", argument) else shlex.quote(argument)


def share(value: Any) -> Any:
    """Return a value of JSON with the paths in its texts shortened, keys included."""
    if isinstance(value, str):
        return shorten_paths(value)
    if isinstance(value, Mapping):
        return {
            share(key): shorten_command(item) if key == "command" and isinstance(item, str) else share(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(share(item) for item in value)
    return value


def share_model(model: Model) -> Model:
    """Return *model* with the paths in its texts shortened."""
    return type(model).model_validate(share(model.model_dump()))
