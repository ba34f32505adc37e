"""Render runs as one HTML file that needs no network and no second file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.comparison.comparing import TaskComparison, assemble_comparison, compare_task
from bitnet_bench.comparison.results import Comparison
from bitnet_bench.reports.assets import (
    read_chart_library,
    read_page_script,
    read_stylesheet,
    read_table_library,
)
from bitnet_bench.reports.cost_section import cost_section
from bitnet_bench.reports.environment_section import environment_section
from bitnet_bench.reports.html_page import ChartRegistry, render_page
from bitnet_bench.reports.judgements import list_judgement_sections
from bitnet_bench.reports.named_runs import NamedRun, name_runs
from bitnet_bench.reports.pairs import Pair, choose_pairs, pair_notices, pair_section
from bitnet_bench.reports.pareto_section import pareto_section
from bitnet_bench.reports.samples import Samples
from bitnet_bench.reports.scores import score_section
from bitnet_bench.reports.sections import ReportOptions, Section
from bitnet_bench.reports.seeds import seed_section
from bitnet_bench.reports.summary import Summary, choose_main_pair, make_summary
from bitnet_bench.reports.training_section import training_section
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.shared_paths import share
from bitnet_bench.wording import LANGUAGES, Text, load_catalogue


@dataclass(frozen=True)
class ReportPage:
    """The content of the template, already as text."""

    language: str
    summary: Summary
    notices: tuple[Notice, ...]
    sections: tuple[Section, ...]
    samples: dict[str, Any]


class HTMLReport:
    """Shows runs next to each other: verdict, scores, paired differences, costs, training, samples and environment."""

    summary = "one self-contained HTML file"

    def render(self, runs: Sequence[LoadedRun], options: ReportOptions | None = None) -> str:
        """Return the file's text; BenchError if there is no run."""
        options = options or ReportOptions()
        page = _make_page(name_runs(runs, options.across_machines), options)
        scripts = [read_chart_library(), *([read_table_library()] if page.samples["doc"] else []), read_page_script()]
        return render_page(
            "report.html.j2",
            page,
            "page.title",
            style=read_stylesheet(),
            scripts=scripts,
            keep_paths=options.keep_paths,
            make_data=lambda charts: _make_script_data(page, charts, options.keep_paths),
        )


def _make_page(runs: tuple[NamedRun, ...], options: ReportOptions) -> ReportPage:
    pairs = choose_pairs(runs)
    compared, samples = _compare_and_collect(runs, pairs, options)
    training = training_section(runs, {run.key: run.results.layers for run in runs})
    sections = (
        score_section(runs),
        pair_section(compared),
        pareto_section(runs),
        cost_section(runs),
        *filter(None, (training, seed_section(runs))),
        *list_judgement_sections(runs),
        *options.sections,
        environment_section(runs),
    )
    notices = dict.fromkeys(
        (*options.unread, *pair_notices(runs), *(notice for run in runs for notice in run.results.notices))
    )
    shown = choose_main_pair(compared)
    data = samples.data(shown[0] if shown else None)
    return ReportPage(options.language, make_summary(runs, shown, len(compared)), tuple(notices), sections, data)


def _compare_and_collect(
    runs: Sequence[NamedRun], pairs: Sequence[Pair], options: ReportOptions
) -> tuple[list[tuple[Pair, Comparison]], Samples]:
    """Compare all pairs and collect samples, with the examples of one task at a time in memory."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.record.finished_tasks))
    samples = Samples(runs, options.samples)
    found: list[dict[str, TaskComparison | list[Text]]] = [{} for _ in pairs]
    for task in tasks:
        examples = {run.key: run.results.examples.get(task, ()) for run in runs}
        for (a, b), ours in zip(pairs, found, strict=True):
            if task in a.primary or task in b.primary:
                one, other = (
                    LoadedRun(run.record, {task: examples[run.key]}, not_finite=run.results.not_finite)
                    for run in (a, b)
                )
                ours[task] = compare_task(one, other, task, options.margin)
        samples.add(task, examples, max(1, options.samples // len(tasks)) if options.samples else 0)
    compared = [
        (pair, assemble_comparison(_rename_run(pair[0]), _rename_run(pair[1]), ours, options.margin))
        for pair, ours in zip(pairs, found, strict=True)
    ]
    return compared, samples


def _rename_run(run: NamedRun) -> LoadedRun:
    return LoadedRun(run.record.model_copy(update={"name": run.name}))


def _make_script_data(page: ReportPage, charts: ChartRegistry, keep_paths: bool) -> dict[str, Any]:
    words = {key: said for key, said in load_catalogue().items() if key.startswith("page.")}
    return {
        "charts": charts.specs if keep_paths else share(charts.specs),
        "samples": page.samples if keep_paths else {**page.samples, "runs": share(page.samples["runs"])},
        "words": {lang: {key: said.in_language(lang) for key, said in words.items()} for lang in LANGUAGES},
    }
