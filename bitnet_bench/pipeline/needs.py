"""Say what a step of a recipe occupies: what the recipe says, else a rough size of its model."""

from __future__ import annotations

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.locate import find_local_folder
from bitnet_bench.checkpoints.shape import compute_shape
from bitnet_bench.errors import BenchError
from bitnet_bench.pipeline.recipe import StepNeeds
from bitnet_bench.pipeline.step_estimate import PROCESS_BYTES
from bitnet_bench.sweeps.graph import Needs, StepKind

PARAMETER_BYTES = {"finetune": 16, "search": 16, "evaluate": 4, "measure": 4}
"""Bytes of a parameter: float32 weights, and in training a gradient and two moments as well."""


def choose_needs(kind: StepKind, said: StepNeeds, parameters: int, gpus: int) -> Needs:
    """Return what a step occupies: what the recipe says, else by the *parameters* of its models.

    *gpus* is the number of GPUs of this machine: with any, a step that runs a model takes one.
    """
    runs_model = kind in PARAMETER_BYTES
    estimate = PROCESS_BYTES + PARAMETER_BYTES.get(kind, 0) * parameters if parameters or not runs_model else 0
    processes = said.processes or 1
    return Needs(
        cpus=said.cpus or 1,
        gpus=said.gpus if said.gpus is not None else (processes if gpus and runs_model else 0),
        memory_bytes=said.memory_bytes if said.memory_bytes is not None else estimate,
        processes=processes,
        exclusive=kind == "measure",
    )


def count_parameters(model: str) -> int:
    """Return the parameters of *model* if it is a folder here; 0 if its size cannot be told without opening it."""
    folder = find_local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return 0
    try:
        return compute_shape(read_config(folder)).parameters
    except (BenchError, KeyError):
        return 0
