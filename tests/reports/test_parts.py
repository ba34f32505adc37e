"""The parts of a report: pairs, costs, charts, seeds, training, samples, and how numbers are said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bitnet_bench.reports.charts import MAX_CURVE_POINTS, pareto_front, thin_line
from bitnet_bench.reports.cost_section import cost_section, find_main_cost
from bitnet_bench.reports.figures import format_quantity, make_figure_cell
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.pairs import choose_pairs
from bitnet_bench.reports.pareto_section import pareto_section
from bitnet_bench.reports.samples import MAX_TEXT_CHARS, Samples, compute_choice_shares
from bitnet_bench.reports.scores import compute_primary_mean, score_section
from bitnet_bench.reports.sections import Chart, Group, Paragraph, Switch, Table
from bitnet_bench.reports.seeds import find_seed_groups, seed_section
from bitnet_bench.reports.summary import make_summary
from bitnet_bench.reports.training_section import training_section
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, Environment, Example, FinetuneRecord


def trained(checkpoint: Checkpoint, environment: Environment, seed: int = 0) -> FinetuneRecord:
    history = tuple({"step": float(i), "loss": 5.0 / i, "flips": 0.1, "zeros": 0.3} for i in range(1, 20))
    return FinetuneRecord(
        job=FinetuneJob(model="demo", data=("s:t",), out=f"out-{seed}", seed=seed),
        backend="hf",
        base=checkpoint,
        result=checkpoint,
        rows=10,
        dropped_rows=0,
        truncated_rows=0,
        data_sha256="d" * 64,
        steps=19,
        train_loss=0.5,
        history=history,
        train_seconds=3.0,
        resumed_from_step=0,
        environment=environment,
    )


def list_charts(block: Any) -> list[Chart]:
    """Return the charts of a block, those inside it included."""
    if isinstance(block, Group):
        return [chart for inner in block.blocks for chart in list_charts(inner)]
    if isinstance(block, Switch):
        return [chart for _, chart in block.charts]
    return [block] if isinstance(block, Chart) else []


def with_training(run: Any, seed: int) -> Any:
    return replace(run, training=trained(run.record.checkpoint, run.record.environment, seed))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("한글 abc\t1\n", "한글 abc\t1\n"),
        ("가족 👨\u200d👩", "가족 👨\u200d👩"),
        ("\u2067a\u2069\u200b", "⟨U+2067⟩a⟨U+2069⟩⟨U+200B⟩"),
        ("\u2028\ud800\x85", "⟨U+2028⟩\ufffd\ufffd"),
    ],
)
def test_visible_leaves_ordinary_text_alone(text: str, shown: str) -> None:
    """Hangul, tabs, line breaks and emoji joiners pass; what hides or reorders does not."""
    assert make_visible(text) == shown


def test_stages_and_seeds_are_not_mixed(make_results: Any) -> None:
    """Runs pair within their stage and their seed; a run that has neither pairs with any."""
    stages = [("ternary", "before"), ("fp16", "before"), ("ternary", "after"), ("fp16", "after"), ("bf16", None)]
    runs = name_runs(
        [make_results("r", {"s:t": [1.0]}, precision=p, settings={"stage": s} if s else {}) for p, s in stages]
    )
    found = [(a.key, b.key) for a, b in choose_pairs(runs)]
    assert found == [("A", "B"), ("A", "C"), ("D", "C"), ("D", "E")]
    seeds = name_runs(
        [
            with_training(make_results("r", {"s:t": [1.0]}, precision=p), seed)
            for p in ("ternary", "fp16")
            for seed in (0, 1)
        ]
    )
    assert [(a.key, b.key) for a, b in choose_pairs(seeds)] == [("A", "B"), ("C", "D")]


def test_runs_of_one_precision_are_held_against_the_first(make_results: Any) -> None:
    """Without a twin every later run is compared with the first."""
    runs = name_runs([make_results(name, {"s:t": [1.0]}) for name in "xyz"])
    assert [(a.key, b.key) for a, b in choose_pairs(runs)] == [("B", "A"), ("C", "A")]


def test_twins_come_first_and_runs_before_fine_tuning_last(make_results: Any) -> None:
    """The pair that is compared is A and B, whatever the order of the folders; what was before stands at the end."""
    given = [("ternary", "before"), ("fp16", "before"), ("bf16", None), ("fp16", "after"), ("ternary", "after")]
    runs = name_runs(
        [make_results(f"{p} {s}", {"s:t": [1.0]}, precision=p, settings={"stage": s} if s else {}) for p, s in given]
    )
    assert [run.name for run in runs] == ["ternary after", "fp16 after", "bf16 None", "ternary before", "fp16 before"]


def test_names_are_kept_apart(make_results: Any) -> None:
    """Runs of one name get a number, and a name that looks numbered already is not taken twice."""
    runs = name_runs([make_results(name, {}) for name in ("a", "a", "a (2)", "a")])
    assert [run.name for run in runs] == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_a_float_run_is_represented_by_its_fastest_precision(make_results: Any, make_cost: Any) -> None:
    """A run scored at fp32 and measured at fp16 and bf16 is compared at the faster one; ternary never borrows it."""
    costs = (make_cost("fp16", 10.0), make_cost("bf16", 100.0), make_cost("ternary", 900.0))
    narrow, wide = name_runs(
        [
            make_results("a", {"s:t": [1.0]}, precision="fp32", costs=costs),
            make_results("b", {"s:t": [1.0]}, costs=costs[:2]),
        ]
    )
    cost = find_main_cost(wide)
    assert cost is not None
    assert cost.precision == "bf16"
    assert find_main_cost(narrow) is None


def test_what_the_budget_left_out_is_said(make_results: Any, make_cost: Any) -> None:
    """A cost of one round is named as such, and one that was left out stands with its reason."""
    once = make_cost("ternary").model_copy(update={"once_because": "3 rounds exceed it."})
    left_out = {"hf-dense fp16": "One run would take 25 min."}
    run = make_results("a", {"s:t": [1.0]}, costs=(once,), cost_left_out=left_out)
    blocks = cost_section(name_runs([run])).blocks
    said = [block.text.en for block in blocks if isinstance(block, Paragraph)]
    assert any("in one round, without an interval" in text and "A hf ternary" in text for text in said)
    assert "A was left out in hf-dense fp16, for want of time: One run would take 25 min." in said


def test_speeds_of_other_scenarios_are_not_compared(make_results: Any, make_cost: Any) -> None:
    """The line on cost leaves speeds out where the runs were not measured alike, and a note says so."""
    runs = name_runs(
        [
            make_results("a", {"s:t": [1.0]}, costs=(make_cost(),)),
            make_results("b", {"s:t": [1.0]}, precision="fp16", costs=(make_cost("fp16", prompt_tokens=64),)),
        ]
    )
    from bitnet_bench.comparison import compare

    pair = (runs[0], runs[1])
    shown = make_summary(runs, (pair, compare(runs[0].results, runs[1].results)))
    assert "decode" not in shown.cost.en
    assert any("not measured in the same scenario" in note.en for note in shown.notes)


def test_speed_within_the_spread_is_no_claim(make_results: Any, make_cost: Any) -> None:
    """Readings that overlap are called a difference within the spread."""
    from bitnet_bench.comparison import compare

    runs = name_runs(
        [
            make_results("a", {"s:t": [1.0]}, costs=(make_cost(speed=101.0),)),
            make_results("b", {"s:t": [1.0]}, precision="fp16", costs=(make_cost("fp16"),)),
        ]
    )
    shown = make_summary(runs, ((runs[0], runs[1]), compare(runs[0].results, runs[1].results)))
    assert "decode 1.01× faster (within the spread of readings)" in shown.cost.en


def test_the_front_holds_what_nothing_beats() -> None:
    """Of (cost, score) those stay that no cheaper one equals or beats."""
    assert pareto_front([(3, 50), (1, 40), (2, 30), (4, 50), (5, 60)]) == [(1, 40), (3, 50), (5, 60)]


def test_quality_is_drawn_against_what_was_measured(twins: Any) -> None:
    """Memory and latency have a chart; energy, which nobody measured, a sentence."""
    section = pareto_section(name_runs(twins))
    (switch,) = (block for block in section.blocks if isinstance(block, Switch))
    assert [name.en for name, _ in switch.charts] == ["Memory", "Latency"]
    said = [block.text.en for block in section.blocks if isinstance(block, Paragraph)]
    assert any("Energy: not drawn" in words for words in said)


def test_every_backend_and_precision_is_a_point_with_intervals(make_results: Any, make_cost: Any) -> None:
    """A run with three costs has three points; the score has its interval, the cost the range of its readings."""
    costs = (make_cost("fp16", 10.0), make_cost("bf16", 20.0), make_cost("fp16", 30.0, backend="llamacpp"))
    runs = [
        make_results("삼진", {"s:t": [1.0, 0.0]}, costs=(make_cost(),)),
        make_results("실수", {"s:t": [1.0, 1.0]}, precision="fp16", costs=costs),
    ]
    (switch,) = (block for block in pareto_section(name_runs(runs)).blocks if isinstance(block, Switch))
    spec = switch.charts[0][1].specs["ko"]
    values = spec["data"]["values"]
    assert [value["label"] for value in values] == ["A hf 삼진", "B hf FP16", "B hf BF16", "B llamacpp FP16"]
    assert values[1]["low"] == pytest.approx(34.2, abs=0.1), "two of two right are no certainty"
    assert [value["scored"] for value in values] == [True, True, False, True]
    assert values[0]["least"] <= values[0]["cost"] <= values[0]["most"]


def test_a_choice_has_its_probability_among_the_choices(make_results: Any) -> None:
    """exp(-1) and exp(-2) of two choices are 73 and 27 %; an answer to other choices has none."""
    row = Example(task="s:t", doc_id=0, prompt="", target="예", output="예", correct=1.0)
    row = row.model_copy(update={"choices": ("예", "아니오"), "loglikelihoods": (-1.0, -2.0)})
    assert compute_choice_shares(row, ("예", "아니오")) == [0.7311, 0.2689]
    assert compute_choice_shares(row, ("네", "아니오")) == []
    assert compute_choice_shares(row.model_copy(update={"loglikelihoods": ()}), row.choices) == []


def test_charts_are_drawn_by_vega(twins: Any) -> None:
    """Every specification is one that Vega-Lite compiles and draws, in both languages."""
    import vl_convert

    from bitnet_bench.reports.html import ChartRegistry, _make_page
    from bitnet_bench.reports.sections import ReportOptions

    page = _make_page(name_runs([with_training(run, 0) for run in twins]), ReportOptions())
    charts = [chart for section in page.sections for block in section.blocks for chart in list_charts(block)]
    assert len(charts) >= 8
    assert ChartRegistry().register_chart(charts[0]) == 0
    for chart in charts:
        assert "<svg" in vl_convert.vegalite_to_svg({**chart.specs["ko"], "width": 400}, vl_version="6.4")


def test_a_metric_of_which_less_is_better_stands_apart(make_results: Any) -> None:
    """Bits per byte have three decimals and an arrow, and are in no mean and no chart."""
    asked = Example(task="lm:t", doc_id=0, prompt="", target="가", references=("가나다",), output="", correct=0.5)
    row = asked.model_copy(update={"loglikelihoods": (-9.0,)})
    run = make_results("a", {"lm:t": [row, row.model_copy(update={"doc_id": 1})]}, metrics=("bits_per_byte",))
    limits = {"limits": (0.0, None), "lower_is_better": True}
    scores = tuple(s.model_copy(update=limits) for s in run.record.scores)
    (shown,) = name_runs([replace(run, record=run.record.model_copy(update={"scores": scores}))])
    assert compute_primary_mean(shown) is None
    section = score_section([shown])
    assert not any(isinstance(block, Chart) for block in section.blocks)
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows[0].cells[1].text.en == "bits per byte ↓"
    assert table.rows[0].cells[5].text.en.startswith("1.443")


def test_runs_that_differ_in_the_seed_alone_are_a_group(make_results: Any) -> None:
    """Two seeds of one training have a mean and a spread; another learning rate is no seed."""
    runs = [with_training(make_results(f"r{s}", {"s:t": [1.0, float(s)]}), s) for s in (0, 1)]
    other = with_training(make_results("other", {"s:t": [1.0, 1.0]}), 2)
    job = other.training.job.model_copy(update={"learning_rate": 0.5})
    other = replace(other, training=other.training.model_copy(update={"job": job}))
    found = name_runs([*runs, other])
    assert [[run.key for run in group] for group in find_seed_groups(found)] == [["A", "B"]]
    section = seed_section(found)
    assert section is not None
    row = next(block for block in section.blocks if isinstance(block, Table)).rows[0]
    assert [cell.text.en for cell in row.cells[2:]] == ["2", "75.0", "35.4", "50.0 to 100.0"]
    assert seed_section(found[:1]) is None


def test_training_has_curves_and_zeros_by_layer(make_results: Any) -> None:
    """Loss, flips and zeros are drawn from the record, zeros by layer from the checkpoint."""
    (run,) = name_runs([with_training(make_results("a", {"s:t": [1.0]}), 0)])
    section = training_section([run], {"A": {"model.layers.0.self_attn.q_proj": 0.3}})
    assert section is not None
    charts = [chart for block in section.blocks for chart in list_charts(block)]
    assert [chart.title.en for chart in charts] == [
        "Training loss",
        "Share of codes that flipped",
        "Share of zeros",
        "Zeros by layer: A · a",
    ]
    assert training_section(name_runs([make_results("a", {"s:t": [1.0]})]), {}) is None


def test_long_curves_are_thinned_with_their_ends() -> None:
    """A curve of 10,000 steps keeps its first and its last point."""
    line = [(float(i), float(i)) for i in range(10_000)]
    assert len(thin_line(line)) == MAX_CURVE_POINTS
    assert (thin_line(line)[0], thin_line(line)[-1]) == (line[0], line[-1])


def test_samples_that_tell_runs_apart_come_first(make_results: Any) -> None:
    """Where not all rows fit, those on which right and wrong differ are kept, then those that nobody has right."""
    right = [1.0] * 10
    a = make_results("a", {"s:t": [*right[:6], 0.0, 0.0, 0.0, 0.0]})
    b = make_results("b", {"s:t": [*right[:8], 0.0, 0.0]})
    samples = Samples(name_runs([a, b]), 3)
    samples.add("s:t", {"A": a.examples["s:t"], "B": b.examples["s:t"]}, 3)
    assert samples.data(None)["doc"] == [6, 7, 8]
    assert samples.data(None)["total"] == 10


def test_rows_of_other_data_do_not_share_a_line(make_results: Any) -> None:
    """Rows with the same number but another prompt are not put side by side."""
    a = make_results("a", {"s:t": [1.0]})
    rows = [a.examples["s:t"][0].model_copy(update={"prompt": "다른 질문"})]
    samples = Samples(name_runs([a, a]), 10)
    samples.add("s:t", {"A": a.examples["s:t"], "B": rows}, 10)
    assert samples.data(None)["got"] == [[1.0, None], [None, 1.0]]


def test_a_long_output_is_cut_and_counted(make_results: Any) -> None:
    """What is beyond the limit is left out, and its length stands in its place."""
    a = make_results("a", {"s:t": [1.0]})
    rows = [a.examples["s:t"][0].model_copy(update={"output": "가" * (MAX_TEXT_CHARS + 3000)})]
    samples = Samples(name_runs([a]), 10)
    samples.add("s:t", {"A": rows}, 10)
    (output,) = samples.data(None)["outputs"][0]
    assert output == "가" * MAX_TEXT_CHARS + " … (+3,000)"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.0042, "s/token", "4.2 ms/token"),
        (1234.5, "tokens/s", "1,234 tok/s"),
        (1536, "B", "1.5 KiB"),
        (0.0, "J", "0 J"),
    ],
)
def test_quantities_read_well(value: float, unit: str, shown: str) -> None:
    """Quantities have three significant digits and the unit that suits their size."""
    assert format_quantity(value, unit) == shown


def test_a_measured_number_has_its_spread(measured: Any) -> None:
    """Median, number of readings, least and most."""
    cell = make_figure_cell(measured("s", 3.0, 1.0, 2.0))
    assert (cell.text.en, cell.small[0].en, cell.kind) == ("2 s", "3 readings, 1 to 3 s", "measured")
