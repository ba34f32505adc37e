"""Render runs as one HTML file that needs nothing else: no network, no second file, no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_bench.records import Example, RunRecord
from bitnet_bench.reports.charts import Chart, charts
from bitnet_bench.reports.costs import CostTable, cost_tables
from bitnet_bench.reports.environment import FactList, facts
from bitnet_bench.reports.pairs import PairView, pair_view, pairs
from bitnet_bench.reports.runs import NamedRun, named
from bitnet_bench.reports.samples import PER_TASK, TaskSamples, samples
from bitnet_bench.reports.scores import ScoreTable, score_table
from bitnet_bench.reports.summary import Summary, summary
from bitnet_bench.reports.visible import visible

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """Everything that the template shows, already in words."""

    runs: tuple[NamedRun, ...]
    summary: Summary
    charts: tuple[Chart, ...]
    scores: ScoreTable
    pairs: tuple[PairView, ...]
    costs: tuple[CostTable, ...]
    samples: tuple[TaskSamples, ...]
    samples_per_task: int
    environments: tuple[FactList, ...]


class HTMLReport:
    """Shows runs side by side in Korean: verdict, scores, paired differences, costs, samples and environment."""

    summary = "one self-contained HTML file"

    def render(self, runs: Sequence[tuple[RunRecord, Sequence[Example]]]) -> str:
        """Return the file's text; BenchError if there is no run, or a run has a number that is not finite."""
        style, script = _read("report.css"), _read("report.js")
        policy = (
            f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; "
            "base-uri 'none'; form-action 'none'"
        )
        template = _environment().get_template("report.html.j2")
        text: str = template.render(page=_page(named(runs)), policy=policy, style=_ours(style), script=_ours(script))
        return text


def _page(runs: tuple[NamedRun, ...]) -> Page:
    paired = pairs(runs)
    return Page(
        runs=runs,
        summary=summary(runs, paired),
        charts=charts(runs),
        scores=score_table(runs),
        pairs=tuple(pair_view(pair) for pair in paired if pair.tasks),
        costs=cost_tables(runs),
        samples=samples(runs),
        samples_per_task=PER_TASK,
        environments=tuple(facts(run) for run in runs),
    )


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Make what a record says visible before it is escaped; `_ours` and escaped text pass as they are."""
    return visible(value) if type(value) is str else value


def _ours(text: str) -> Any:
    """Mark the stylesheet or the script, which are part of this package, as not to be escaped."""
    from markupsafe import Markup

    return Markup(text)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what a Content-Security-Policy calls the inlined *text*."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
