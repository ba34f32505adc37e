"""The commands that say what this machine has: runtimes, and what it can run and measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bitnet_bench.cli.loading import TO_READ, load_libraries
from bitnet_bench.cli.option_names import OptionName, name_options
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import DASH, make_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.cli.doctor import Finding

RUNTIME_OPTIONS = {"libllama": OptionName("--libllama"), "bitnetcpp_dir": OptionName("--bitnetcpp-dir")}
"""Options of other commands that findings about this machine name."""


def backends(as_json: Json = False) -> None:
    """Say which runtimes this machine has."""
    from bitnet_bench.plugins import list_backends

    found = list_backends()
    if as_json:
        print_json(found)
        return
    show_backends(found)


def show_backends(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the backends, and how to get those that are not installed."""
    show(backends_table(found))
    for backend in found:
        if not backend["installed"]:
            names = {**RUNTIME_OPTIONS, "backend": OptionName("--backend")}
            missing = name_options(f"{backend['runtime']} {backend['hint']}", names)
            print_text(f"{backend['name']}: {missing}")


def doctor(as_json: Json = False) -> None:
    """Say what this machine can run and measure."""
    load_libraries(TO_READ)
    from bitnet_bench.cli.doctor import diagnose
    from bitnet_bench.evaluation.select import DATA_DIR_VARIABLE

    findings = diagnose(DATA_DIR_VARIABLE)
    if as_json:
        print_json([finding.model_dump() for finding in findings])
        return
    show(doctor_table(findings))


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Return the findings about this machine, one per row."""
    told = [name_options(f"{f.found}\n→ {f.remedy}" if f.remedy else f.found, RUNTIME_OPTIONS) for f in findings]
    rows = [["ok" if f.ok else "--", f.what, text] for f, text in zip(findings, told, strict=True)]
    made = make_table("This machine", ["", "what", "found, and what to do"], rows, numbers_from=99)
    for i, finding in enumerate(findings):
        made.paint("", i, "green" if finding.ok else "yellow")
    return made


def backends_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the backends, one per row, with what computes on this machine."""
    rows = [
        [
            backend["name"],
            "yes" if backend["installed"] else "no",
            "yes" if backend["runs"] else "no",
            "yes" if backend["trains"] else "no",
            backend["runtime"] if backend["installed"] else DASH,
            backend["summary"],
        ]
        for backend in found
    ]
    columns = ["backend", "installed", "runs", "trains", "with", "what it is"]
    made = make_table("Backends", columns, rows, numbers_from=99, optional=("with",))
    for i, backend in enumerate(found):
        made.paint("installed", i, "green" if backend["installed"] else "yellow")
    return made
