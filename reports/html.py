"""Render runs as one HTML file that needs nothing else: no network, no second file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.comparison.comparing import Found, assembled, shared_tasks, task_difference
from bitnet_bench.comparison.results import Comparison
from bitnet_bench.reports.assets import FOLDER, chart_library, own_script, style, table_library
from bitnet_bench.reports.cost_section import cost_section, pareto_section
from bitnet_bench.reports.environment_section import environment_section
from bitnet_bench.reports.html_page import make_environment, source
from bitnet_bench.reports.judgements import judgement_section
from bitnet_bench.reports.named_runs import NamedRun, named
from bitnet_bench.reports.pairs import Pair, chosen_pairs, pair_notices, pair_section
from bitnet_bench.reports.samples import Samples
from bitnet_bench.reports.scores import score_section
from bitnet_bench.reports.sections import Chart, ReportOptions, Section
from bitnet_bench.reports.seeds import seed_section
from bitnet_bench.reports.summary import Summary, main_pair, summary
from bitnet_bench.reports.training_section import training_section
from bitnet_bench.reports.visible import visible
from bitnet_bench.runs.run import Notice, Results
from bitnet_bench.wording import LANGUAGES, Said, catalogue, say


@dataclass(frozen=True)
class Page:
    """Everything that the template shows, already in words."""

    language: str
    summary: Summary
    notices: tuple[Notice, ...]
    sections: tuple[Section, ...]
    samples: dict[str, Any]


class HTMLReport:
    """Shows runs side by side: verdict, scores, paired differences, costs, training, samples and environment."""

    summary = "one self-contained HTML file"

    def render(self, runs: Sequence[Results], options: ReportOptions | None = None) -> str:
        """Return the file's text; BenchError if there is no run."""
        options = options or ReportOptions()
        page = _page(named(runs), options)
        scripts = [chart_library(), *([table_library()] if page.samples["doc"] else []), own_script()]
        looks = style()
        policy = (
            f"default-src 'none'; style-src {source(looks)}; script-src {' '.join(map(source, scripts))}; "
            "base-uri 'none'; form-action 'none'"
        )
        charts = Charts()
        text: str = (
            _environment()
            .get_template("report.html.j2")
            .render(
                page=page,
                policy=policy,
                style=_ours(looks),
                scripts=[_ours(script) for script in scripts],
                say=say,
                place=charts.place,
                # called when the template has placed all charts
                data=lambda: _ours(_json(_data(page, charts))),
            )
        )
        return text


class Charts:
    """Numbers the charts in the order in which the template shows them."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []

    def place(self, chart: Chart) -> int:
        """Return the number under which the script finds *chart*."""
        self.specs.append(dict(chart.specs))
        return len(self.specs) - 1


def _page(runs: tuple[NamedRun, ...], options: ReportOptions) -> Page:
    pairs = chosen_pairs(runs)
    compared, samples = _read(runs, pairs, options)
    training = training_section(runs, {run.key: run.results.layers for run in runs})
    sections = (
        score_section(runs),
        pair_section(compared),
        pareto_section(runs),
        cost_section(runs),
        *filter(None, (training, seed_section(runs), judgement_section(runs))),
        *options.sections,
        environment_section(runs),
    )
    notices = dict.fromkeys(
        (*options.unread, *pair_notices(runs), *(notice for run in runs for notice in run.results.notices))
    )
    shown = main_pair(compared)
    data = samples.data(shown[0] if shown else None)
    return Page(options.language, summary(runs, shown, len(compared)), tuple(notices), sections, data)


def _read(
    runs: Sequence[NamedRun], pairs: Sequence[Pair], options: ReportOptions
) -> tuple[list[tuple[Pair, Comparison]], Samples]:
    """Compare all pairs and collect samples, holding the examples of one task at a time."""
    tasks = list(dict.fromkeys(task for run in runs for task in shared_tasks(run.results, run.results)))
    samples = Samples(runs, options.samples)
    found: list[dict[str, Found | list[Said]]] = [{} for _ in pairs]
    for task in tasks:
        examples = {run.key: run.results.examples.get(task, ()) for run in runs}
        for (a, b), ours in zip(pairs, found, strict=True):
            if task in a.primary or task in b.primary:
                one, other = (Results(run.record, {task: examples[run.key]}) for run in (a, b))
                ours[task] = task_difference(one, other, task, options.margin)
        samples.add(task, examples, max(1, options.samples // len(tasks)) if options.samples else 0)
    compared = [
        (pair, assembled(_renamed(pair[0]), _renamed(pair[1]), ours, options.margin))
        for pair, ours in zip(pairs, found, strict=True)
    ]
    return compared, samples


def _renamed(run: NamedRun) -> Results:
    return Results(run.record.model_copy(update={"name": run.name}))


def _data(page: Page, charts: Charts) -> dict[str, Any]:
    words = {key: said for key, said in catalogue().items() if key.startswith("page.")}
    return {
        "charts": charts.specs,
        "samples": page.samples,
        "words": {lang: {key: said.in_(lang) for key, said in words.items()} for lang in LANGUAGES},
    }


def _json(value: Any) -> str:
    """Return JSON that cannot end its script element; a surrogate that stands alone is written as its escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").encode("utf-8", "replace").decode()


def _environment() -> Any:
    made = make_environment(FOLDER, _shown)
    made.tests["a"] = lambda block, kind: type(block).__name__ == kind
    return made


def _shown(value: Any) -> Any:
    """Make what a record says visible before it is escaped; `_ours` and escaped text pass as they are."""
    return visible(value) if type(value) is str else value


def _ours(text: str) -> Any:
    """Mark what is part of this package as not to be escaped."""
    from markupsafe import Markup

    return Markup(text)
