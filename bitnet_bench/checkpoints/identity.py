"""Digest and copy the files next to the weights of a checkpoint: tokenizer, chat template and configuration."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = "chat_template"
"""Key of tokenizer_config.json that may hold the chat template."""
TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
TOKENIZER_PATTERNS = (
    "tokenizer*",
    "*.model",
    "*.jinja",
    "merges.txt",
    "vocab.*",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Patterns of the files of a folder that are its tokenizer and its chat template."""
TEMPLATE_FILES = ("chat_template.*", "additional_chat_templates/*")
CONFIGURATION_FILES = ("config.json", "generation_config.json")


def digest_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of the tokenizer, the chat template and the configuration in *folder*, by these names.

    Weights are not read, and files of other programs in the folder are ignored.
    """
    settings = _read_json(folder / "tokenizer_config.json")
    template = settings.pop(TEMPLATE, None)
    return {
        "tokenizer": _digest(folder, TOKENIZER_FILES, settings),
        "chat template": _digest(folder, TEMPLATE_FILES, template),
        "configuration": _digest(folder, CONFIGURATION_FILES, None),
    }


def copy_files(source: Path, folder: Path, patterns: Sequence[str]) -> None:
    """Copy the files in *source* whose names match one of *patterns* into *folder*."""
    for file in _files(source, patterns):
        shutil.copyfile(file, folder / file.name)


def _digest(folder: Path, patterns: Sequence[str], settings: Any) -> str:
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in _files(folder, patterns):
        content = file.read_bytes()
        found.update(f"{file.relative_to(folder).as_posix()} {len(content)} ".encode() + content)
    return found.hexdigest()


def _files(folder: Path, patterns: Sequence[str]) -> Iterable[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in *file*, or its text under the key "text" if it is not one; {} if there is no file."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # whoever uses the file says what is wrong with it
        found = None
    return found if isinstance(found, dict) else {"text": text}
