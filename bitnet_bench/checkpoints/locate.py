"""Find the checkpoint that a name stands for: the embedded pair, a folder, or a model of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

EMBEDDED_CHECKPOINTS = {"demo": "ternary", "demo-fp16": "fp16"}
DOWNLOAD_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja")
"""Patterns of the files that are downloaded for a model of the hub."""


def open_checkpoint(model: str) -> Checkpoint:
    """Return the checkpoint *model*: `demo`, `demo-fp16`, a folder, or a hub id (downloaded, safetensors only)."""
    from bitnet_bench.checkpoints.inspect import inspect_folder

    if model in EMBEDDED_CHECKPOINTS:
        return inspect_folder(Path(__file__).parents[1] / "demo" / EMBEDDED_CHECKPOINTS[model], source=model)
    if _exists(model):
        return inspect_folder(Path(model))
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BenchError(
            f"There is no checkpoint {model}.", "Give a folder, a hub id such as ORG/NAME, or `demo` / `demo-fp16`."
        )
    path = _download(model)
    return inspect_folder(path, source=model, revision=path.name)


def load_config(model: str) -> dict[str, Any]:
    """Return the config.json of *model*, named as for `open_checkpoint`; for a hub id nothing else is downloaded."""
    if model in EMBEDDED_CHECKPOINTS or _exists(model) or model.count("/") != 1 or model.startswith((".", "/", "~")):
        return read_config(Path(open_checkpoint(model).path))
    return read_config(_download(model, ["config.json"]))


def _exists(model: str) -> bool:
    """Return whether *model* is the path of something; False for a name that no path can have."""
    try:
        return Path(model).exists()
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        raise BenchError(
            f"{model} cannot be read: {error.strerror}.", "Check the permissions of its folder."
        ) from error


def _download(model: str, patterns: Sequence[str] = DOWNLOAD_PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except list_hub_errors() as error:
        raise BenchError(
            f"{model} is neither a folder here nor to be had from the hub: {str(error).splitlines()[0]}",
            "Check the name, the network, and `hf auth login` for a gated model.",
        ) from error
