"""Costs of different machines stand in no table together, unless the reader asks for it, and then the page says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitnet_bench.comparison import compare
from bitnet_bench.reports.board_page import make_caveats
from bitnet_bench.reports.board_tables import ranking_table
from bitnet_bench.reports.cost_section import cost_section
from bitnet_bench.reports.named_runs import NamedRun, name_runs
from bitnet_bench.reports.pareto_section import pareto_section
from bitnet_bench.reports.sections import Facts, Group, Paragraph, Section, Switch, Table
from bitnet_bench.reports.summary import Summary, make_summary
from bitnet_bench.reports.write_board import make_view
from bitnet_bench.runs.jobs import BoardOptions
from bitnet_bench.runs.machines import Neighbour, Neighbours, make_machine
from bitnet_bench.runs.records import Cost
from bitnet_bench.runs.run import LoadedRun

HERE = make_machine("EPYC (avx2)", 64, 2**38, node="a")
AWAY = make_machine("Xeon (avx2 amx_int8)", 32, 2**38, node="b")


def make_pair(make_results: Any, make_cost: Any, **fields: Any) -> list[LoadedRun]:
    """Return a ternary run measured HERE, and its twin with a cost that has *fields*."""
    good = {"s:t": [1.0, 0.0] * 30}
    return [
        make_results("a", good, costs=(make_cost(machine=HERE),)),
        make_results("b", good, precision="fp16", costs=(make_cost("fp16", 50.0, **fields),)),
    ]


def summarize(runs: tuple[NamedRun, ...]) -> Summary:
    """Return the first screen about two runs."""
    pair = runs[0], runs[1]
    return make_summary(runs, (pair, compare(runs[0].results, runs[1].results)))


def list_tables(section: Section) -> list[Table]:
    """Return the tables that are seen without opening a group."""
    return [block for block in section.blocks if isinstance(block, Table)]


def list_sentences(section: Section) -> list[str]:
    """Return the paragraphs of a section."""
    return [block.text.en for block in section.blocks if isinstance(block, Paragraph)]


APART, TOGETHER = "are not compared in one table", "costs of different machines are compared"


def test_costs_of_two_machines_have_a_table_each(make_results: Any, make_cost: Any) -> None:
    """With the machine above it, and the option that would put them together."""
    section = cost_section(name_runs(make_pair(make_results, make_cost, machine=AWAY)))
    assert [len(table.headings) for table in list_tables(section)] == [2, 2]
    said = list_sentences(section)
    assert any(APART in text and "--across-machines" in text for text in said)
    assert "Machine: EPYC (avx2) × 64, 256 GiB" in said
    assert "Machine: Xeon (avx2 amx_int8) × 32, 256 GiB" in said


def test_costs_of_two_machines_share_a_table_if_told_and_the_page_says_so(make_results: Any, make_cost: Any) -> None:
    runs = name_runs(make_pair(make_results, make_cost, machine=AWAY), across_machines=True)
    section = cost_section(runs)
    assert [len(table.headings) for table in list_tables(section)] == [3]
    assert any(TOGETHER in text for text in list_sentences(section))
    shown = summarize(runs)
    assert "decode 2" in shown.cost.en
    assert any(TOGETHER in note.en for note in shown.notes)


def test_the_first_screen_compares_no_costs_of_two_machines(make_results: Any, make_cost: Any) -> None:
    """Neither in its sentence nor in its table, whose other row says why it has none."""
    shown = summarize(name_runs(make_pair(make_results, make_cost, machine=AWAY)))
    assert "decode" not in shown.cost.en
    assert "decode" not in shown.headline.en
    assert any(APART in note.en for note in shown.notes)
    first, other = shown.table.rows
    assert first.cells[5].kind == "measured"
    assert [cell.small[0].en for cell in other.cells[3:]] == ["measured on another machine"] * 4


def test_machines_of_one_kind_are_compared_and_counted(make_results: Any, make_cost: Any) -> None:
    """Two nodes of a cluster are alike; that they are two is said."""
    sibling = HERE.model_copy(update={"node": "c"})
    runs = name_runs(make_pair(make_results, make_cost, machine=sibling))
    section = cost_section(runs)
    assert [len(table.headings) for table in list_tables(section)] == [3]
    assert "Measured on 2 machines of one kind." in list_sentences(section)
    assert "decode 2" in summarize(runs).cost.en


def test_costs_that_do_not_say_where_are_of_the_machine_of_their_record(make_results: Any, make_cost: Any) -> None:
    """Records of before are compared with those of today on the same machine, and with no other."""
    old, new = make_pair(make_results, make_cost)
    here = old.record.environment.machine
    own = replace(old, record=old.record.model_copy(update={"costs": (make_cost(machine=here),)}))
    assert len(list_tables(cost_section(name_runs([own, new])))) == 1
    assert len(list_tables(cost_section(name_runs([old, new])))) == 2


def test_quality_is_drawn_against_the_costs_of_one_machine(make_results: Any, make_cost: Any) -> None:
    runs = make_pair(make_results, make_cost, machine=AWAY)
    runs.append(make_results("c", {"s:t": [1.0] * 60}, costs=(make_cost(speed=70.0, machine=HERE),)))

    def count_points(across: bool) -> int:
        section = pareto_section(name_runs(runs, across))
        switch = next(block for block in section.blocks if isinstance(block, Switch))
        assert any((TOGETHER if across else APART) in text for text in list_sentences(section))
        return switch.charts[0][1].description.en.count("; ") + 1

    assert count_points(False) == 2
    assert count_points(True) == 3


def test_a_leaderboard_has_the_costs_of_the_machine_of_most_runs(make_results: Any, make_cost: Any) -> None:
    """The others have a dash that says why, and cannot be sorted among them."""
    runs = make_pair(make_results, make_cost, machine=AWAY)
    runs.append(make_results("c", {"s:t": [1.0] * 60}, costs=(make_cost(speed=70.0, machine=HERE),)))
    placed = [(Path(run.record.name), run) for run in runs]
    apart = make_view(placed, BoardOptions())
    by_name = {row.cells[0].sort: row.cells[-1] for row in ranking_table(apart).rows}
    assert by_name["b"].sort is None
    assert by_name["b"].small[0].en == "measured on another machine"
    assert by_name["a"].sort is not None
    assert any(APART in text.en for text in make_caveats(apart))
    together = make_view(placed, BoardOptions(across_machines=True))
    assert all(row.cells[-1].sort is not None for row in ranking_table(together).rows)
    assert any(TOGETHER in text.en for text in make_caveats(together))


def test_neighbours_are_among_the_details_of_a_cost(make_results: Any, make_cost: Any) -> None:
    busy, on_gpu = Neighbour(name="gcc", pid=7, cores=1.5), Neighbour(name="train", pid=8, cores=0.0, gpu_bytes=2**30)
    around = Neighbours(load_before=0.5, load_after=2.0, busy=(busy,), on_gpu=(on_gpu,))
    section = cost_section(name_runs(make_pair(make_results, make_cost, machine=HERE, neighbours=around)))
    details = next(block for block in section.blocks if isinstance(block, Group))
    facts = next(block for block in details.blocks if isinstance(block, Facts))
    said = {label.en: cell for label, cell in facts.items}["Other processes meanwhile"]
    assert said.text.en == "load 0.50 → 2.00, gcc (7) 1.50 cores, GPU: train (8) 0.00 cores, 1 GiB"
    assert said.small[0].en == "B hf FP16"


def test_a_cost_of_before_is_written_again_unchanged(make_cost: Any) -> None:
    """Its seal would break otherwise."""
    before = make_cost().model_dump(mode="json")
    assert not {"machine", "neighbours"} & before.keys()
    assert Cost.model_validate(before).model_dump(mode="json") == before
    today = make_cost(machine=HERE, neighbours=Neighbours(load_before=None, load_after=None))
    assert Cost.model_validate_json(today.model_dump_json()) == today
