"""Read the weights of a checkpoint of any ternary format, a tensor at a time: codes, scales, and float tensors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.detect import INNER_NORM_SUFFIXES, ScaleDirection, list_ternary_layers
from bitnet_bench.checkpoints.shards import Shards, open_shards
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAYER_SUFFIXES = (".weight", ".weight_scale", ".bias", *INNER_NORM_SUFFIXES)
GET_AGAIN_HINT = "The checkpoint is damaged; get it again."


class Weights:
    """The weights of a checkpoint. Files are opened for one tensor at a time, so that only that one is in memory."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = read_config(Path(checkpoint.path))
        self.shards = open_shards(Path(checkpoint.path))
        self.inner_norm_kind = checkpoint.inner_norm
        self.inner_norm_eps = checkpoint.inner_norm_eps
        self.group_size = checkpoint.group_size
        self.ternary_tables = checkpoint.ternary_tables
        self.quantizes_activations = checkpoint.quantizes_activations

    @cached_property
    def ternary(self) -> dict[str, tuple[int, int]]:
        """Shape (rows, columns) of every ternary layer, by module name."""
        return list_ternary_layers(self.checkpoint.format, self.config, self.shards, self.checkpoint.ternary_tables)

    @cached_property
    def floats(self) -> tuple[str, ...]:
        """Names of all tensors that do not belong to a ternary layer."""
        taken = {f"{module}{part}" for module in self.ternary for part in LAYER_SUFFIXES}
        return tuple(name for name in self.shards.headers if name not in taken)

    def has_tensor(self, name: str) -> bool:
        """Return whether there is a tensor of that name."""
        return name in self.shards.headers

    def tensor(self, name: str) -> Tensor:
        """Return a float tensor as stored, mapped from disk without a copy."""
        return self.shards.tensor(name)

    def dtype_and_shape(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return (dtype, shape) of a float tensor, without reading it."""
        import torch

        header = self.shards.headers[name]
        if header.float_dtype is None:
            raise BenchError(f"{self.shards.locate_tensor(name)} is of dtype {header.dtype}.", "Weights must be float.")
        return getattr(torch, header.float_dtype), header.shape

    def gamma(self, module: str) -> Tensor:
        """Return the float32 scalar that a stored scale multiplies by, or [N, K / G] scales of groups.

        BenchError if it is missing or impossible.
        """
        if self.checkpoint.group_size:
            return self._read_group_scales(module)
        return read_gamma(self.shards, module, self.checkpoint.scale_direction)

    def codes(self, module: str) -> tuple[Tensor, Tensor]:
        """Return (codes, gamma): int8 codes [N, K] of a ternary layer, and the float32 scalar that multiplies.

        With groups, gamma is [N, K / G].
        """
        from bitnet_bench.checkpoints.baked import codes_from_baked
        from bitnet_bench.ternary.packing import unpack
        from bitnet_bench.ternary.panels import from_panels

        if self.checkpoint.format in ("masters", "tinyllama"):
            return self._ternarize_masters(module)
        stored = self.tensor(f"{module}.weight")
        if self.checkpoint.format == "baked":
            return codes_from_baked(stored)
        if self.checkpoint.format == "grouped":
            return self._split_groups(module, stored)
        try:
            packed = self.checkpoint.format == "packed"
            codes = from_panels(stored, *self.ternary[module]) if packed else unpack(stored)
        except ValueError as error:
            raise self.damage_error(f"{module}.weight", error) from error
        return codes, self.gamma(module)

    def _split_groups(self, module: str, stored: Tensor) -> tuple[Tensor, Tensor]:
        from bitnet_bench.ternary.groups import split_into_groups

        found = split_into_groups(stored, self.checkpoint.group_size or 1)
        if found is None:
            raise BenchError(
                f"{self.shards.locate_tensor(f'{module}.weight')} is not ternary in groups any more.", GET_AGAIN_HINT
            )
        return found[0], found[1].float()

    def _read_group_scales(self, module: str) -> Tensor:
        """Return the float32 scales [N, K / G] of a packed layer with groups."""
        name, (rows, columns) = f"{module}.weight_scale", self.ternary[module]
        if not self.checkpoint.has_codes_only:
            return self.codes(module)[1]
        expected = rows, columns // (self.checkpoint.group_size or 1)
        if not self.has_tensor(name) or self.shards.headers[name].shape != expected:
            raise BenchError(
                f"{module} of {self.checkpoint.path} has no scales {list(expected)} of its groups.", GET_AGAIN_HINT
            )
        scales = self.tensor(name).float()
        if not bool((scales.isfinite() & (scales >= 0)).all()):
            raise self.damage_error(name, ValueError("a scale is negative or not finite"))
        return scales

    def scale_dtype(self, module: str) -> torch.dtype:
        """Return the dtype that holds the scales of a layer's groups: float16 if that is exact, else float32."""
        import torch

        stored = self.shards.headers[f"{module}.weight_scale" if self.checkpoint.has_codes_only else f"{module}.weight"]
        if stored.dtype == "F16":
            return torch.float16
        scales = self.gamma(module)
        return torch.float16 if torch.equal(scales.half().float(), scales) else torch.float32

    def _ternarize_masters(self, module: str) -> tuple[Tensor, Tensor]:
        from bitnet_bench.ternary.groups import ternarize_groups
        from bitnet_bench.ternary.quantizer import ternarize

        masters, group = self.tensor(f"{module}.weight"), self.checkpoint.group_size
        codes, gamma = ternarize_groups(masters, group) if group else ternarize(masters)
        if not gamma.isfinite().all():
            raise BenchError(f"{self.shards.locate_tensor(f'{module}.weight')} holds NaN or infinity.", GET_AGAIN_HINT)
        return codes, gamma

    def panels(self, module: str) -> tuple[Tensor, Tensor]:
        """Return (panels, gamma): uint8 [panels, steps, 64] as the CPU kernel reads them, and the scale or scales.

        For format packed these are the memory-mapped bytes of the file, whose codes `inspect` has checked.
        """
        from bitnet_bench.ternary.panels import to_panels

        if self.checkpoint.format == "packed":
            return self.tensor(f"{module}.weight"), self.gamma(module)
        codes, gamma = self.codes(module)
        return to_panels(codes), gamma

    def bias(self, module: str) -> Tensor | None:
        """Return the float32 bias [N] of a ternary layer, which is added after scaling, or None.

        AutoBitLinear scales (W x + b), so format autobitlinear stores bias / gamma; BitLinear adds it after scaling.
        """
        if not self.has_tensor(f"{module}.bias"):
            return None
        bias = self.tensor(f"{module}.bias").float()
        return bias * self.gamma(module) if self.checkpoint.format == "autobitlinear" else bias

    def inner_norm(self, module: str) -> Tensor | None:
        """Return the learned weight [K] of the norm inside a ternary layer, or None if norms are plain or absent."""
        if self.checkpoint.inner_norm != "learned":
            return None
        name = next((f"{module}{part}" for part in INNER_NORM_SUFFIXES if self.has_tensor(f"{module}{part}")), None)
        if name is None:
            raise BenchError(
                f"{module} has no rms_norm.weight or norm.weight in {self.checkpoint.path}.", GET_AGAIN_HINT
            )
        return self.tensor(name)

    def count_zeros(self, module: str) -> int:
        """Return how many codes of a ternary layer are 0, counted in the packed bytes if there are any."""
        from bitnet_bench.ternary.packing import count_codes

        rows, columns = self.ternary[module]
        if not self.checkpoint.has_codes_only:
            return int((self.codes(module)[0] == 0).sum())
        if (counted := self.shards.count_zeros(f"{module}.weight")) is not None:
            return counted
        stored = self.tensor(f"{module}.weight")
        try:
            zeros = count_codes(stored)[1]
        except ValueError as error:
            raise self.damage_error(f"{module}.weight", error) from error
        return zeros - (4 * stored.numel() - rows * columns)  # panels are padded with code 0

    def damage_error(self, name: str, error: Exception) -> BenchError:
        """Return the error for a tensor with impossible values."""
        return BenchError(f"{self.shards.locate_tensor(name)} is damaged: {error}.", GET_AGAIN_HINT)


def read_gamma(shards: Shards, module: str, direction: ScaleDirection | None) -> Tensor:
    """Return the float32 scalar that the integer product of *module* is multiplied by, from its stored scale."""
    name = f"{module}.weight_scale"
    if name not in shards.headers:
        raise BenchError(
            f"{module} is packed but has no weight_scale in {shards.headers[f'{module}.weight'].file}.",
            "The checkpoint is incomplete; get it again.",
        )
    stored = shards.tensor(name).float().flatten()
    gamma = stored.clone() if direction == "multiply" else 1.0 / stored  # a view would keep the file mapped
    if gamma.numel() != 1 or not bool((gamma.isfinite() & (gamma > 0)).all()):
        raise BenchError(
            f"{shards.locate_tensor(name)} is {stored.tolist()[:3]}, and must be one positive number.", GET_AGAIN_HINT
        )
    return gamma[0]
