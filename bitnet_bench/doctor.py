"""Say what this machine can run and measure, and how to enable the rest."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from bitnet_bench.environment import environment
from bitnet_bench.measure.energy.rapl import RaplMeter
from bitnet_bench.records import Unavailable, Value


class Finding(Value):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(data_variable: str) -> list[Finding]:
    """Return findings about software, arithmetic, energy, Korean tokenizers, data and disk, in that order."""
    import torch

    here = environment()
    vnni = torch.cpu._is_vnni_supported()
    cuda = torch.cuda.is_available()
    meter = RaplMeter()
    meter.start()
    energy = meter.stop()
    data = os.environ.get(data_variable, "")
    free = shutil.disk_usage(Path.cwd()).free
    return [
        Finding(what="software", ok=True, found=", ".join(f"{n} {v}" for n, v in here.packages.items())),
        Finding(what="processor", ok=True, found=f"{here.cpu}, {here.cores} cores, {here.memory_bytes / 1e9:.0f} GB"),
        Finding(
            what="int8 dot products (VNNI)",
            ok=vnni,
            found="yes" if vnni else "no",
            remedy="" if vnni else "Ternary layers run on float32 products: exact, several times slower.",
        ),
        _kernel(),
        Finding(
            what="GPU",
            ok=cuda,
            found=torch.cuda.get_device_name() if cuda else "none",
            remedy="" if cuda else "Everything runs on the CPU.",
        ),
        Finding(
            what="energy counter",
            ok=not isinstance(energy, Unavailable),
            found=energy.reason if isinstance(energy, Unavailable) else "RAPL",
            remedy="Reports show a dash for energy; nothing is modelled." if isinstance(energy, Unavailable) else "",
        ),
        Finding(
            what="Korean morphemes (mecab-ko)",
            ok=find_spec("mecab_ko") is not None,
            found="yes" if find_spec("mecab_ko") else "no",
            remedy="" if find_spec("mecab_ko") else "pip install 'sacrebleu[ko]'",
        ),
        Finding(
            what=f"local data ({data_variable})",
            ok=bool(data) and Path(data).is_dir(),
            found=data or "not set",
            remedy="" if data else "Give --data-dir, or rows come from the hub.",
        ),
        Finding(what="free disk here", ok=free > 2e9, found=f"{free / 1e9:.0f} GB", remedy=""),
    ]


def _kernel() -> Finding:
    from bitnet_bench.ternary import kernel

    what = "ternary CPU kernel"
    if kernel.library() is None:
        remedy = f"Reinstall with a C compiler, or unset {kernel.VARIABLE}; --backend hf runs without it, slower."
        return Finding(what=what, ok=False, found="not built, or turned off", remedy=remedy)
    remedy = "" if kernel.threaded() else "torch's OpenMP library was not found: the kernel runs on one thread."
    return Finding(what=what, ok=kernel.threaded(), found=kernel.current_path(), remedy=remedy)
