"""Find the checkpoint that a name means: the embedded pair, a folder, or a model of the hub."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

EMBEDDED = {"demo": "ternary", "demo-fp16": "fp16"}


def open_checkpoint(model: str) -> Checkpoint:
    """Return what *model* is: `demo`, `demo-fp16`, a folder, or a hub id (downloaded, safetensors only)."""
    from bitnet_bench.checkpoints.inspect import inspect

    if model in EMBEDDED:
        return inspect(Path(__file__).parents[1] / "demo" / EMBEDDED[model], source=model)
    if Path(model).exists():
        return inspect(Path(model))
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BenchError(
            f"There is no checkpoint {model}.", "Give a folder, a hub id such as ORG/NAME, or `demo` / `demo-fp16`."
        )
    path = _download(model)
    return inspect(path, source=model, revision=path.name)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise BenchError(
            f"{model} is neither a folder here nor to be had from the hub: {str(error).splitlines()[0]}",
            "Check the name, the network, and `hf auth login` for a gated model.",
        ) from error
