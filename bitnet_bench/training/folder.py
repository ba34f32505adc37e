"""The folder of a run that is under way: whose it is, and the steps that were saved whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole

STATE = ".trainer"
"""Where a run keeps what it needs to go on; removed when it is finished."""
COMPLETE = "complete"
"""A saved step without this file was cut off while it was written."""


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Take *out* for a run of *settings*, or refuse: it may hold the same run unfinished, and nothing else."""
    mark = out / STATE / "job.json"
    if mark.is_file():
        theirs = json.loads(mark.read_text(encoding="utf-8"))
        differing = [name for name in settings if theirs.get(name) != settings[name]]
        if differing:
            raise BenchError(
                f"{out} holds an unfinished run with another {', '.join(differing)}.",
                "Give the settings it was started with to go on, another --out, or delete the folder.",
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise BenchError(f"{out} is not empty.", "Give another --out, or delete the folder.")
    write_whole(mark, json.dumps(settings, ensure_ascii=False, indent=1))


def last_complete(state: Path) -> Path | None:
    """Return the newest whole saved step, after removing those that were cut off."""
    saved = sorted(state.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]))
    for folder in saved:
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    whole = [folder for folder in saved if folder.exists()]
    return whole[-1] if whole else None
