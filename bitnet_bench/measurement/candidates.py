"""Choose what is measured: which checkpoints, on which backends, at which precisions, and where the costs are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitnet_bench.checkpoints.locate import EMBEDDED_CHECKPOINTS, open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.files import exists, is_file
from bitnet_bench.machine.runtime_choice import AUTO, find_own_precision
from bitnet_bench.runs.choices import Precision, ReadAs
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.runs.twins import TWIN_SUFFIX, find_twin, is_run

_log = logging.getLogger(__name__)
FLOAT_PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16")
TERNARY_BACKENDS = ("ternary", "ternary-int8-head")
"""Backends that run ternary weights only; a float twin that is measured with them runs in `hf`."""


class CostTarget(NamedTuple):
    """A checkpoint, and the run folder whose record gains its costs, if any."""

    model: str
    out: Path | None
    read_as: ReadAs | None = None
    """What the run read the weights as; None for a checkpoint that is named itself."""


class Candidate(NamedTuple):
    """A checkpoint to measure, with its precision and backend."""

    model: str
    precision: Precision
    out: Path | None = None
    """The run folder whose record gains the cost, if any."""
    backend: str | None = None
    """Backend to measure with; None for the one that the call names."""
    opened: Checkpoint | None = None
    """Checkpoint behind *model*, if it is known, so that its weights need not be read again."""

    @property
    def cost_target(self) -> CostTarget:
        """Return where the costs of the candidate are kept."""
        return CostTarget(self.model, self.out)


def find_cost_target(name: str) -> CostTarget:
    """Return what *name* refers to; for a run folder its checkpoint, and the folder as the place of the costs."""
    if not is_run(name):
        return CostTarget(name, None)
    checkpoint = load_record(Path(name)).checkpoint
    if checkpoint.is_served:
        raise BenchError(
            f"The model of the run {name} is on a server, whose costs are not measured here.",
            "The run's `serving` has its times; measure the checkpoint itself where it is.",
        )
    if checkpoint.is_gguf:  # its folder in the cache may be there without the file
        return CostTarget(checkpoint.source, Path(name), checkpoint.read_as)
    here = checkpoint.source not in EMBEDDED_CHECKPOINTS and exists(Path(checkpoint.path))
    if not here and checkpoint.source not in EMBEDDED_CHECKPOINTS and checkpoint.revision is None:
        raise BenchError(
            f"The checkpoint of the run {name} is gone: {checkpoint.path}.",
            "Put it back, or measure it where it is now and name the run folder with `out`.",
        )
    return CostTarget(checkpoint.path if here else checkpoint.source, Path(name), checkpoint.read_as)


def add_twin(names: Sequence[str]) -> list[str]:
    """Return *names*; if they are a single run folder, add the twin that is found next to it."""
    named = list(dict.fromkeys(names))
    twin = find_twin(Path(named[0])) if len(named) == 1 and is_run(named[0]) else None
    if twin is None:
        return named
    try:
        find_cost_target(str(twin))
    except BenchError as error:
        _log.warning("The twin %s is not measured. %s", twin, error.problem)
        return named
    return [*named, str(twin)]


def make_candidates(
    models: Sequence[str],
    precisions: Sequence[Precision],
    out: Path | None,
    *,
    backends: Sequence[str | None] = (None,),
    baselines: Sequence[str] = (),
    against_floats: bool = False,
    tokenizer: str | None = None,
    read_as: ReadAs | None = None,
) -> list[Candidate]:
    """Pair models with backends and precisions; by default ternary ones run as ternary, float ones as FP16 and BF16.

    A model is a checkpoint, whose costs go to *out*, or a run folder, whose own record gains the costs of its
    checkpoint. BF16 is measured in addition to FP16 because many CPUs have no fast FP16: against FP16 alone, ternary
    would look better than it is. *against_floats* adds both for a model that is measured in neither: of its twin, or of
    its own weights as dense floats. *baselines* are models of any kind, run in `hf`. *read_as* is for models that are
    named themselves; a run folder's record says what its weights were read as.
    """
    paired: list[Candidate] = []
    places = [find_cost_target(model) for model in models]
    asked = dict.fromkeys(baselines) | {
        place.model: place.read_as or (None if place.out else read_as) for place in places
    }
    opened = {model: open_checkpoint(model, tokenizer, kind) for model, kind in asked.items()}
    for model, own, _ in places:
        ternary = opened[model].is_ternary
        ran = backends if ternary else dict.fromkeys(map(_choose_float_backend, backends))
        for backend in ran:
            own_precision = None if ternary else find_own_precision(opened[model], backend)
            floats = (own_precision,) if own_precision else FLOAT_PRECISIONS
            default: Sequence[Precision] = ("ternary",) if ternary else floats
            paired += [Candidate(model, precision, out or own, backend) for precision in precisions or default]
    for model in baselines:
        default = ["ternary"] if opened[model].is_ternary else FLOAT_PRECISIONS
        paired += [Candidate(model, precision, None, "hf") for precision in default]
    here = {one.precision for one in paired if one.backend in (None, AUTO, "hf")}
    for precision in [p for p in FLOAT_PRECISIONS if against_floats and p not in here]:
        first = places[0]
        twin = f"{first.model}{TWIN_SUFFIX}"
        float_twin = twin if twin in EMBEDDED_CHECKPOINTS or is_file(Path(twin) / "config.json") else None
        dense = Candidate(first.model, precision, out or first.out, "hf-dense")
        paired.append(Candidate(float_twin, precision, None, "hf") if float_twin else dense)
    return [one._replace(opened=opened.get(one.model)) for one in paired]


def _choose_float_backend(backend: str | None) -> str | None:
    """Return the backend for a float checkpoint: `hf` where *backend* runs ternary weights only."""
    return "hf" if backend in TERNARY_BACKENDS else backend
