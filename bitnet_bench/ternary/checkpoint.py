"""Say what a checkpoint folder is by looking inside; nothing is guessed from its name.

Formats that are recognised: plain float weights; float masters with an online `quantization_config`, or of
`model_type: bitnet`; 2-bit packed weights of transformers' `bitlinear` (scale divides) and `autobitlinear` (scale
multiplies). Anything else is refused by name. Only safetensors are opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet_bench.errors import BenchError
from bitnet_bench.records import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["multiply", "divide"]
LABEL = "bitnet_bench_precision"
"""Our mark in config.json: an FP16 model of `model_type: bitnet` looks like masters without it."""
FLOAT_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def inspect(path: Path, source: str | None = None, revision: str | None = None) -> Checkpoint:
    """Say what the checkpoint folder *path* holds, from its config and its tensors' headers and codes."""
    config = read_config(path)
    files = weight_files(path)
    tensors = dict(_headers(files))
    packed = sorted(name for name, (dtype, _, _) in tensors.items() if dtype == "U8" and name.endswith(".weight"))
    form, direction = _format(path, config, packed)
    sizes, parameters, ternary = _sizes(tensors, packed, form)
    dtypes = {dtype for dtype, _, _ in tensors.values() if dtype in FLOAT_DTYPES}
    embedding = next((d for n, (d, _, _) in tensors.items() if "embed_tokens" in n), None)
    return Checkpoint(
        source=source or str(path),
        path=str(path),
        revision=revision,
        architecture=(config.get("architectures") or ["unknown"])[0],
        format=form,
        scale_direction=direction,
        dtype=FLOAT_DTYPES.get(embedding or next(iter(sorted(dtypes)), ""), "unknown"),
        sha256=_sha256(files),
        weight_bytes=sizes,
        parameters=parameters,
        ternary_parameters=ternary,
        zero_density=_zero_density(files, packed) if packed else None,
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder as a dict; BenchError if *path* is not a checkpoint."""
    file = path / "config.json"
    if not file.is_file():
        raise BenchError(
            f"{path} is not a checkpoint: it has no config.json.",
            "Give a folder with config.json, *.safetensors and a tokenizer; a hub id; or `demo` / `demo-fp16`.",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not valid JSON: {error}.", "Download or save the checkpoint again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BenchError(f"{file} names no model_type.", "It must be the config.json of a transformers causal LM.")
    return config


def tied_names(model: Any) -> set[str]:
    """Return the tensors of a transformers *model* that are stored under another name only (a tied head)."""
    return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in name order; BenchError if there are none or one is missing."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"{index} is no index of weight files.", "Get the checkpoint again.") from error
        if any(Path(name).name != name for name in names):
            raise BenchError(f"{index} names a file outside its folder.", "Do not use this checkpoint.")
        files = [path / name for name in names]
    else:
        files = sorted(path.glob("*.safetensors"))
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise BenchError(f"{path} lacks {missing[0]}, which its index names.", "Download the checkpoint again.")
    if files:
        return files
    if any(path.glob("*.bin")):
        raise BenchError(
            f"{path} has only pickled weights (*.bin), which can run code when opened.",
            "Convert it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(OUT) writes safetensors.",
        )
    raise BenchError(f"{path} has no *.safetensors file.", "Give the folder that holds the weights.")


def _headers(files: list[Path]) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int]]]:
    """Yield (name, (dtype, shape, bytes)) of every tensor, without reading one."""
    with open_weights(files) as handles:
        for handle in handles:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                yield name, (part.get_dtype(), shape, _bytes(part.get_dtype(), shape))


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = int("".join(c for c in dtype if c.isdigit()) or 8) // 8
    for n in shape:
        size *= n
    return size


@contextmanager
def open_weights(files: list[Path]) -> Iterator[list[Any]]:
    """Open safetensors files; a damaged one becomes a sentence that names it."""
    from safetensors import SafetensorError, safe_open

    handles = []
    for file in files:
        try:
            handles.append(safe_open(file, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise BenchError(
                f"{file} cannot be read as safetensors: {error}.", "The file is damaged or cut off; get it again."
            ) from error
    yield handles


def _format(
    path: Path, config: dict[str, Any], packed: list[str]
) -> tuple[Literal["float", "masters", "packed"], Direction | None]:
    quant = config.get("quantization_config") or {}
    method = quant.get("quant_method")
    if method not in (None, "bitnet"):
        raise BenchError(
            f"{path} is quantized with quant_method {method!r}, which bitnet-bench does not read.",
            "It reads float checkpoints and quant_method 'bitnet'.",
        )
    if quant.get("use_rms_norm"):
        raise BenchError(
            f"{path} normalizes inside BitLinear (use_rms_norm), which is not read yet.",
            "Run it through transformers; its scores there are its own.",
        )
    if kept := [name for name in quant.get("modules_to_not_convert") or [] if "lm_head" not in name]:
        raise BenchError(
            f"{path} keeps {kept[0]} out of quantization (modules_to_not_convert), which is not read yet.",
            "All linear layers but the head would be made ternary here, and its scores would be wrong.",
        )
    if packed:
        if method is None:
            raise BenchError(
                f"{path} has 8-bit weights such as {packed[0]} but no quantization_config.",
                "Which way its scales work cannot be known; restore the quantization_config of its config.json.",
            )
        return "packed", "multiply" if quant.get("linear_class") == "autobitlinear" else "divide"
    if method == "bitnet" and quant.get("quantization_mode", "offline") != "online":
        raise BenchError(
            f"{path} says that its weights are packed, but no tensor of it is 8-bit.",
            'If these are masters, set "quantization_mode": "online" and "linear_class": "autobitlinear".',
        )
    if method == "bitnet" or (config["model_type"] == "bitnet" and config.get(LABEL) != "fp16"):
        return "masters", None
    return "float", None


def _sizes(
    tensors: dict[str, tuple[str, tuple[int, ...], int]], packed: list[str], form: str
) -> tuple[dict[str, int], int, int]:
    """Return bytes by kind, the count of parameters, and the count of those that are ternary."""
    sizes = dict.fromkeys(("ternary", "linear", "embedding", "head", "norm"), 0)
    parameters = ternary = 0
    for name, (_, shape, size) in tensors.items():
        if name.endswith(".weight_scale"):
            sizes["ternary"] += size
            continue
        count = 4 * size if name in packed else _bytes("U8", shape)
        matrix = len(shape) == 2 and "embed" not in name and "lm_head" not in name
        kind = (
            "embedding" if "embed" in name
            else "head" if "lm_head" in name
            else "ternary" if name in packed
            else "linear" if matrix or name.endswith(".bias")
            else "norm"
        )  # fmt: skip
        sizes[kind] += size
        parameters += count
        ternary += count if name in packed or (form == "masters" and matrix) else 0
    return {kind: size for kind, size in sizes.items() if size}, parameters, ternary


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _zero_density(files: list[Path], packed: list[str]) -> float:
    zeros = total = 0
    with open_weights(files) as handles:
        for handle in handles:
            for name in set(packed) & set(handle.keys()):
                codes = read_codes(name, handle.get_tensor(name))
                zeros += int((codes == 0).sum())
                total += codes.numel()
    return zeros / total


def read_codes(name: str, stored: Tensor) -> Tensor:
    """Return the int8 codes [N, K] of a packed tensor [N / 4, K]; BenchError if it holds anything else."""
    from bitnet_bench.ternary.packing import unpack

    try:
        return unpack(stored)
    except ValueError as error:
        raise BenchError(f"{name} is damaged: {error}.", "Get the checkpoint again.") from error
