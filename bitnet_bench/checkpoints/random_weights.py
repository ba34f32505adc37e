"""Generate the weights of a model of a given shape, so that the shape can be measured without a download.

A checkpoint of random codes has the speed and the size of a trained one; its text is noise.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bitnet_bench.checkpoints.building import build_outline, list_table_names, list_ternary_shapes, list_tied_tensors
from bitnet_bench.checkpoints.config import get_quantization, read_config
from bitnet_bench.checkpoints.converting import copy_small_files, create_folder, write_checkpoint
from bitnet_bench.checkpoints.detect import LLAMA_NORM_EPS
from bitnet_bench.checkpoints.layouts import check_row_counts
from bitnet_bench.checkpoints.locate import EMBEDDED_CHECKPOINTS, open_checkpoint
from bitnet_bench.checkpoints.shape import ModelShape, compute_shape
from bitnet_bench.checkpoints.streaming import GIGABYTE, SHARD_BYTES, SHARD_GIGABYTES
from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.files import exists
from bitnet_bench.protocols import Progress, ProgressDisplay, no_display
from bitnet_bench.runs.choices import Format
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.groups import GROUP_SIZES, canonical_scales

PRESETS_DIR = Path(__file__).parent / "presets"
CODE_OF_BYTE = np.array([-1] * 88 + [0] * 80 + [1] * 88, dtype=np.int8)
"""Code of each random byte; 80 of 256 are 0: absmean gives 31 % for normal weights, P(|w| < gamma / 2) = erf(0.282)."""
GAMMA_PER_STD = math.sqrt(2 / math.pi)
"""Mean |w| of normal weights with standard deviation 1."""
CHUNK_VALUES = 1 << 24


class RandomWeights:
    """A ternary model of the shape of a config.json whose tensors are generated on access.

    A tensor depends only on the seed and its name, so that every format gets the same model.
    """

    inner_norm_kind: Literal["plain", "learned"] | None
    inner_norm_eps: float | None

    def __init__(self, config: dict[str, Any], seed: int, group_size: int | None = None) -> None:
        """Generate from *seed*; with *group_size*, scales of groups, in embedding and head too, and no int8 inputs."""
        self.config = config
        self.group_size, self.quantizes_activations = group_size, group_size is None
        self.ternary_tables = list_table_names(config) if group_size else ()
        self._seed = seed
        quant = get_quantization(config)
        self.inner_norm_kind = "learned" if quant.get("use_rms_norm") else None
        self.inner_norm_eps = quant.get("rms_norm_eps", LLAMA_NORM_EPS) if self.inner_norm_kind else None
        self._std = float(config.get("initializer_range") or 0.02)
        self._dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "bfloat16")

    @cached_property
    def ternary(self) -> dict[str, tuple[int, int]]:
        """Shape (rows, columns) of every ternary layer, by module name."""
        tables = {name: self._shapes[f"{name}.weight"] for name in self.ternary_tables}
        return list_ternary_shapes(self.config) | {name: (rows, columns) for name, (rows, columns) in tables.items()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        model = build_outline(self.config)
        tied = list_tied_tensors(model)
        return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}

    @cached_property
    def floats(self) -> tuple[str, ...]:
        """Names of all tensors that do not belong to a ternary layer."""
        return tuple(name for name in self._shapes if name.rpartition(".")[0] not in self.ternary)

    def dtype_and_shape(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return (dtype, shape) of a float tensor."""
        return self._dtype, self._shapes[name]

    def tensor(self, name: str) -> Tensor:
        """Return normal values for a matrix, ones for a norm and zeros for a bias."""
        dtype, shape = self.dtype_and_shape(name)
        if len(shape) < 2:
            return torch.zeros(shape, dtype=dtype) if name.endswith(".bias") else torch.ones(shape, dtype=dtype)
        random = self._make_generator(name)
        values = torch.empty(shape, dtype=dtype)
        flat = values.view(-1)
        for begin in range(0, flat.numel(), CHUNK_VALUES):
            part = flat[begin : begin + CHUNK_VALUES]
            part.copy_(torch.from_numpy(random.standard_normal(part.numel(), dtype=np.float32)).mul_(self._std))
        return values

    def codes(self, module: str) -> tuple[Tensor, Tensor]:
        """Return (codes, gamma) with the distribution that absmean gives to normal weights."""
        drawn = self._make_generator(module).integers(0, 256, self.ternary[module], dtype=np.uint8)
        codes, gamma = torch.from_numpy(CODE_OF_BYTE[drawn]), self._std * GAMMA_PER_STD
        if not self.group_size:
            return codes, torch.tensor(gamma, dtype=torch.float32)
        shape = codes.shape[0], codes.shape[1] // self.group_size
        spread = self._make_generator(f"{module} scales").uniform(0.5, 1.5, shape) * gamma
        return codes, canonical_scales(codes, torch.from_numpy(spread).half().float())

    def scale_dtype(self, module: str) -> torch.dtype:
        """Return float16, in which the scales of groups are generated."""
        return torch.float16

    def bias(self, module: str) -> Tensor | None:
        """Return zeros if the layer has a bias, else None."""
        return torch.zeros(self.ternary[module][0]) if f"{module}.bias" in self._shapes else None

    def inner_norm(self, module: str) -> Tensor | None:
        """Return ones if there is a learned norm inside the layer, else None."""
        return torch.ones(self.ternary[module][1], dtype=self._dtype) if self.inner_norm_kind else None

    def _make_generator(self, name: str) -> np.random.Generator:
        key = hashlib.sha256(f"{self._seed}:{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:16], "little"))


def list_presets() -> dict[str, str]:
    """Return the source of every preset, by preset name."""
    return {file.stem: str(_read_json(file)["source"]) for file in sorted(PRESETS_DIR.glob("*.json"))}


def read_preset_config(name: str) -> dict[str, Any]:
    """Return config.json of the published model *name*; UsageError if there is no such preset."""
    known = sorted(file.stem for file in PRESETS_DIR.glob("*.json"))
    if name not in known:
        raise UsageError(
            f"There is no preset {name!r}.", f"{did_you_mean(name, known)} There are: {', '.join(known)}.".lstrip()
        )
    config: dict[str, Any] = _read_json(PRESETS_DIR / f"{name}.json")["config"]
    return config


def _read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def find_shape(model: str) -> ModelShape:
    """Return the shape of *model* without downloading it; raise BenchError if it is not known."""
    try:
        if exists(Path(model)) or model in EMBEDDED_CHECKPOINTS:
            return compute_shape(read_config(Path(open_checkpoint(model).path)))
        for name, source in list_presets().items():
            if model == source or model.startswith(f"{source}-"):  # a sister repository: -bf16, -gguf
                return compute_shape(read_preset_config(name))
    except KeyError as error:
        raise BenchError(f"{model} is no Llama-like model: its config.json has no {error}.") from error
    raise BenchError(f"{model} is not here, and its size is not known.", "`bitnet-bench pull` brings it.")


def find_published_format(config: dict[str, Any]) -> Format:
    """Return the format that the quantization_config of a published config.json names, else autobitlinear."""
    quant = get_quantization(config)
    if quant.get("quantization_mode") == "online":
        return "masters"
    return "bitlinear" if quant and quant.get("linear_class", "bitlinear") == "bitlinear" else "autobitlinear"


def write_random_checkpoint(
    config: dict[str, Any],
    seed: int,
    form: Format | None,
    out: Path,
    tokenizer: Path,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> Format:
    """Write a random checkpoint of the shape of *config* to the new folder *out*, and return its format.

    *form* None uses `find_published_format`. The small files of the folder *tokenizer* are copied next to the weights.
    """
    form = form or find_published_format(config)
    source = RandomWeights(config, seed, GROUP_SIZES[0] if form == "grouped" else None)
    if form in ("float", "tinyllama"):
        raise BenchError(f"Random weights are not written as {form}.", "Choose another format.")
    check_row_counts(source.ternary, form)
    with create_folder(out) as folder:
        write_checkpoint(source, form, folder, shard_bytes, progress)
        if form == find_published_format(config) and get_quantization(config):
            (folder / "config.json").write_text(
                json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        copy_small_files(tokenizer, folder)
    return form


def create_from_preset(
    preset: str,
    out: Path,
    *,
    seed: int = 0,
    form: Format | None = None,
    shard_gigabytes: float = SHARD_GIGABYTES,
    steps: ProgressDisplay = no_display,
) -> Checkpoint:
    """Write a random checkpoint of a published shape to *out*, in its published format or in *form*.

    It gets the tokenizer of the embedded pair, because the published tokenizers would need a download.
    """

    tokenizer = Path(__file__).parents[1] / "demo" / EMBEDDED_CHECKPOINTS["demo"]
    with steps(f"init {preset}") as progress:
        write_random_checkpoint(
            read_preset_config(preset), seed, form, out, tokenizer, progress, int(shard_gigabytes * GIGABYTE)
        )
    return open_checkpoint(str(out))
