"""A leaderboard ranks what is comparable, says what is not, averages what is whole, and joins twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.comparison.board import make_board, select_scores
from bitnet_bench.comparison.board_twins import compare_twins, join_twins
from bitnet_bench.comparison.board_values import Board, BoardColumn
from bitnet_bench.comparison.comparing import compare
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.runs.jobs import BoardOptions
from bitnet_bench.runs.records import Environment, Score
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.wording import load_catalogue

GOOD, FAIR, BAD = ([1.0] * right + [0.0] * (100 - right) for right in (90, 86, 40))


def board_of(*runs: LoadedRun, **options: Any) -> Board:
    """Return the leaderboard of *runs*, whose keys are their names, without twins."""
    chosen = BoardOptions(**options)
    records = select_scores({run.record.name: run.record for run in runs}, chosen)
    return make_board(records, {name: f"runs/{name}" for name in records}, [], chosen)


def column_of(board: Board, task: str) -> BoardColumn:
    return next(column for column in board.columns if column.task == task)


def ranks(column: BoardColumn) -> dict[str, Any]:
    return {score.run: score.rank for score in column.scores}


def with_settings(run: LoadedRun, **settings: Any) -> LoadedRun:
    record = run.record.model_copy(update={"settings": {**run.record.settings, **settings}})
    return LoadedRun(record, run.examples)


def with_version(run: LoadedRun, version: str) -> LoadedRun:
    environment: Environment = run.record.environment
    packages = {**environment.packages, "bitnet-bench": version}
    return LoadedRun(
        run.record.model_copy(update={"environment": environment.model_copy(update={"packages": packages})})
    )


def reasons(column: BoardColumn, run: str) -> list[str]:
    return [one.en for score in column.scores if score.run == run for one in score.differs]


def test_runs_that_cannot_be_told_apart_share_ranks(make_results: Any) -> None:
    """90 and 86 of 100 are level; 40 is not. The order is that of the scores."""
    board = board_of(
        make_results("bad", {"s:t": BAD}), make_results("fair", {"s:t": FAIR}), make_results("good", {"s:t": GOOD})
    )
    column = board.columns[0]
    assert ranks(column) == {"good": (1, 2), "fair": (1, 2), "bad": (3, 3)}
    assert [score.run for score in column.scores] == ["good", "fair", "bad"]
    assert (column.scores[0].value, column.scores[0].n, column.metric) == (90.0, 100, "accuracy")
    assert column.scores[0].low == pytest.approx(84.1, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"shots": 5}, "shots 5 (ranked: 0)"),
        ({"prompts": "lm-eval"}, "prompts lm-eval (ranked: default)"),
        ({"chat_template": True}, "chat template on (ranked: off)"),
        ({"temperature": 0.7}, "temperature 0.7 (ranked: 0.0)"),
        ({"answer": "generate"}, "answer generate (ranked: none)"),
    ],
)
def test_other_settings_are_not_ranked_together(settings: Any, reason: str, make_results: Any) -> None:
    """The group with more runs is ranked; the best score of the other one is below it, with the reason."""
    odd = with_settings(make_results("odd", {"s:t": GOOD}), **settings)
    column = board_of(odd, make_results("a", {"s:t": BAD}), make_results("b", {"s:t": BAD})).columns[0]
    assert ranks(column) == {"a": (1, 2), "b": (1, 2), "odd": None}
    assert [score.run for score in column.scores][-1] == "odd"
    assert reasons(column, "odd") == [reason]


def test_settings_that_decide_no_score_are_no_obstacle(make_results: Any) -> None:
    """Where rows were read, which tasks else were run, the seed without examples, a default that a record lacks."""
    settings = {"data_dir": "/data", "tasks": ["s:t", "s:u"], "seed": 7, "limit": 500, "prompts": "default"}
    other = with_settings(make_results("b", {"s:t": BAD}), **settings)
    lacking = make_results("c", {"s:t": BAD})
    lacking.record.settings.pop("shots")
    column = board_of(make_results("a", {"s:t": BAD}), other, lacking).columns[0]
    assert set(ranks(column).values()) == {(1, 3)}


def test_the_seed_counts_where_examples_are_drawn(make_results: Any) -> None:
    """Other shots are another prompt."""
    a, b = (with_settings(make_results(name, {"s:t": BAD}), shots=3, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    assert reasons(board_of(a, b).columns[0], "b") == ["seed 1 (ranked: 0)"]


def test_other_rows_metrics_and_versions_are_told(make_results: Any) -> None:
    """Each with its reason, against the runs that are ranked."""
    same = [make_results(name, {"s:t": GOOD}) for name in ("a", "b", "c")]
    rows = make_results("rows", {"s:t": GOOD}, data={"s:t": "0" * 64})
    limited = with_settings(make_results("limited", {"s:t": GOOD[:50]}, data={"s:t": "1" * 64}), limit=50)
    fewer = make_results("fewer", {"s:t": GOOD[:50]}, data={"s:t": "2" * 64})
    metric = make_results("metric", {"s:t": GOOD}, metrics=("macro_f1", "accuracy"))
    suite = make_results("suite", {"s:t": GOOD}, suites={"s": "2"})
    old = with_version(make_results("old", {"s:t": GOOD}), "0.0.9")
    unknown = make_results("unknown", {"s:t": GOOD}, data={})
    column = board_of(*same, rows, limited, fewer, metric, suite, old, unknown).columns[0]
    assert {run for run, rank in ranks(column).items() if rank} == {"a", "b", "c"}
    assert reasons(column, "rows") == ["rows sha256 00000000… (ranked: sha256 733a7400…)"]
    assert reasons(column, "limited") == ["limit 50 (ranked: none)"]
    assert reasons(column, "fewer") == ["rows 50 (ranked: 100)"]
    assert reasons(column, "metric") == ["metric macro_f1 (ranked: accuracy)"]
    assert reasons(column, "suite") == ["suite s version 2 (ranked: 1)"]
    assert reasons(column, "old") == ["bitnet-bench 0.0.9 (ranked: 0.1.0)"]
    assert reasons(column, "unknown") == ["no digest of its rows, so nobody knows whether they are the same"]


def test_an_unknown_suite_version_of_another_suite_is_no_obstacle(make_results: Any) -> None:
    """A column asks for its own suite alone."""
    a = make_results("a", {"s:t": GOOD, "r:t": GOOD}, suites={"s": "1", "r": "1"})
    b = make_results("b", {"s:t": GOOD, "r:t": GOOD}, suites={"s": "1", "r": "2"})
    board = board_of(a, b)
    assert ranks(column_of(board, "s:t")) == {"a": (1, 2), "b": (1, 2)}
    assert reasons(column_of(board, "r:t"), "b") == ["suite r version 2 (ranked: 1)"]


def test_rows_without_a_digest_are_never_ranked_with_others(make_results: Any) -> None:
    """Two such runs may be of other rows."""
    column = board_of(*(make_results(name, {"s:t": GOOD}, data={}) for name in "ab")).columns[0]
    assert ranks(column) == {"a": (1, 1), "b": None}
    assert reasons(column, "b")


def test_a_tie_of_groups_goes_to_more_rows(make_results: Any) -> None:
    """One run on 100 rows is ranked rather than one on 10."""
    few = make_results("few", {"s:t": GOOD[:10]}, data={"s:t": "1" * 64})
    column = board_of(few, make_results("many", {"s:t": GOOD})).columns[0]
    assert ranks(column) == {"many": (1, 1), "few": None}


def test_a_score_without_a_standard_error_has_no_rank(make_results: Any) -> None:
    """One example gives none; it stands where its value is."""
    run = make_results("a", {"s:t": GOOD})
    bare = [s.model_copy(update={"stderr": None}) for s in run.record.scores]
    run = LoadedRun(run.record.model_copy(update={"scores": tuple(bare)}))
    column = board_of(run, make_results("b", {"s:t": BAD})).columns[0]
    assert ranks(column) == {"a": None, "b": (1, 1)}
    assert (column.scores[0].low, column.scores[0].differs) == (None, ())


def test_a_mean_needs_all_tasks(make_results: Any) -> None:
    """A run that lacks one has no mean, and is said to lack it; it is not averaged over what it has."""
    whole = [make_results(name, {"s:t": GOOD, "s:u": BAD}) for name in ("a", "b")]
    mean = board_of(*whole, make_results("half", {"s:t": GOOD})).means[0]
    assert [(score.run, score.value, score.rank) for score in mean.scores] == [("a", 65.0, (1, 2)), ("b", 65.0, (1, 2))]
    assert [(one.run, one.lacks) for one in mean.missing] == [("half", ("s:u",))]
    # of independent tasks: sqrt(var(t) + var(u)) / 2
    column = {c.task: c.scores[0].stderr for c in board_of(*whole).columns}
    assert mean.scores[0].stderr == pytest.approx(((column["s:t"] ** 2 + column["s:u"] ** 2) ** 0.5) / 2)


def test_the_mean_over_all_suites_is_first(make_results: Any) -> None:
    """Each task counts as much as any other, whatever the size of its suite."""
    run = make_results("a", {"s:t": GOOD, "r:t": BAD, "r:u": BAD})
    means = board_of(run).means
    assert [(mean.suite, mean.scores[0].value) for mean in means] == [
        (None, pytest.approx(170 / 3)),
        ("s", 90.0),
        ("r", 40.0),
    ]


def test_a_mean_of_scores_under_other_conditions_is_not_ranked(make_results: Any) -> None:
    """One task with other prompts is enough, and the reason is that of the task."""
    same = [make_results(name, {"s:t": BAD, "s:u": BAD}) for name in ("a", "b")]
    odd = make_results("odd", {"s:t": GOOD, "s:u": GOOD}, data={**same[0].record.data, "s:u": "9" * 64})
    mean = board_of(odd, *same).means[0]
    assert [(score.run, score.rank) for score in mean.scores] == [("a", (1, 2)), ("b", (1, 2)), ("odd", None)]
    assert [one.en for one in mean.scores[-1].differs] == ["rows sha256 99999999… (ranked: sha256 733a7500…)"]


def test_a_metric_that_is_not_in_points_is_in_no_mean(make_results: Any) -> None:
    """Bits per byte rank from the least, and the mean says that it leaves them out."""

    def add_bits(run: LoadedRun, value: float) -> LoadedRun:
        bits = Score(
            task="s:bits", metric="bits_per_byte", value=value, stderr=0.01, n=10, signature="b", primary=True,
            limits=(0.0, None), lower_is_better=True,
        )  # fmt: skip
        data = {**run.record.data, "s:bits": "b" * 64}
        return LoadedRun(run.record.model_copy(update={"scores": (*run.record.scores, bits), "data": data}))

    board = board_of(*(add_bits(make_results(name, {"s:t": GOOD}), bits) for name, bits in (("a", 2.0), ("b", 1.0))))
    assert ranks(column_of(board, "s:bits")) == {"b": (1, 1), "a": (2, 2)}
    assert (board.means[0].tasks, board.means[0].left_out) == (("s:t",), ("s:bits",))
    assert board.means[0].scores[0].value == 90.0


def test_filters_choose_suites_and_tasks(make_results: Any) -> None:
    """A task by its whole name, or in any suite."""
    run = make_results("a", {"s:t": GOOD, "s:u": GOOD, "r:t": GOOD})

    def chosen(**options: Any) -> list[str]:
        return [column.task for column in board_of(run, **options).columns]

    assert chosen(suites=("s",)) == ["s:t", "s:u"]
    assert chosen(tasks=("t",)) == ["s:t", "r:t"]
    assert chosen(tasks=("s:u", "r:t")) == ["s:u", "r:t"]
    assert chosen(suites=("r",), tasks=("t",)) == ["r:t"]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"suites": ("kobset",)}, "No run has the suite 'kobset'.", "Did you mean kobest? There are: kobest."),
        ({"tasks": ("boolk",)}, "No run has the task 'boolk'.", "Did you mean boolq?"),
        ({"categories": ("역사",)}, "No run has the category '역사'.", "The runs have none."),
    ],
)
def test_a_filter_of_nothing_names_what_there_is(options: Any, message: str, hint: str, make_results: Any) -> None:
    """It is wrong use, and not an empty table."""
    with pytest.raises(UsageError) as raised:
        board_of(make_results("a", {"kobest:boolq": GOOD}), **options)
    assert raised.value.problem == message
    assert hint in raised.value.hint


def test_filters_that_leave_no_score_are_an_error(make_results: Any) -> None:
    """Both names are there, but not together."""
    with pytest.raises(BenchError, match="No run has a score on what was chosen"):
        board_of(make_results("a", {"s:t": GOOD, "r:u": GOOD}), suites=("s",), tasks=("u",))


def test_categories_are_columns_of_their_own(make_results: Any) -> None:
    """Values as recorded, without what is not: no interval, no rank, no mean."""

    def with_parts(name: str, **parts: float) -> LoadedRun:
        run = make_results(name, {"s:t": GOOD, "s:u": GOOD})
        scores = [s.model_copy(update={"parts": parts if s.task == "s:t" else {}}) for s in run.record.scores]
        return LoadedRun(run.record.model_copy(update={"scores": tuple(scores)}))

    runs = (with_parts("a", history=50.0, law=60.0), with_parts("b", history=70.0))
    board = board_of(*runs, categories=("history", "law"))
    assert [(column.task, column.category, column.n) for column in board.columns] == [
        ("s:t", "history", None),
        ("s:t", "law", None),
    ]
    assert [(s.run, s.value, s.low, s.rank) for s in board.columns[0].scores] == [
        ("b", 70.0, None, None),
        ("a", 50.0, None, None),
    ]
    assert board.means == ()


def test_a_category_is_found_by_its_name_alone(make_results: Any) -> None:
    """Records call it by its kind, too."""
    run = make_results("a", {"s:t": GOOD})
    parts = {"category=history": 50.0, "subject=law": 60.0}
    scores = tuple(s.model_copy(update={"parts": parts}) for s in run.record.scores)
    board = board_of(LoadedRun(run.record.model_copy(update={"scores": scores})), categories=("law",))
    assert [(column.category, column.scores[0].value) for column in board.columns] == [("law", 60.0)]


def test_a_category_with_rows_and_error_is_ranked(make_results: Any) -> None:
    """As records have them that count the rows of a part."""

    def with_counts(name: str, value: float) -> LoadedRun:
        run = make_results(name, {"s:t": GOOD})
        fields = {"parts": {"law": value}, "part_counts": {"law": 40}, "part_errors": {"law": 5.0}}
        scores = tuple(s.model_copy(update=fields) for s in run.record.scores)
        return LoadedRun(run.record.model_copy(update={"scores": scores}))

    column = board_of(with_counts("a", 90.0), with_counts("b", 50.0), categories=("law",)).columns[0]
    assert ranks(column) == {"a": (1, 1), "b": (2, 2)}
    assert (column.n, column.scores[1].low) == (40, pytest.approx(50 - 1.96 * 5, abs=0.01))


def test_twins_are_joined_by_their_names(make_results: Any) -> None:
    """By folders of one place, or by checkpoints of any; of several the one under the same conditions."""
    runs = {
        "A": make_results("x", {"s:t": BAD}),
        "B": make_results("x-fp16", {"s:t": GOOD}, precision="fp16"),
        "C": with_settings(make_results("x", {"s:t": BAD}), shots=5),
        "D": with_settings(make_results("x-fp16", {"s:t": GOOD}, precision="fp16"), shots=5),
        "E": make_results("alone", {"s:t": BAD}),
    }
    folders = {"A": Path("r/x"), "B": Path("r/x-fp16"), "C": Path("s/five"), "D": Path("t/five-too"), "E": Path("r/e")}
    records = {key: run.record for key, run in runs.items()}
    assert join_twins(folders, records) == {"A": "B", "C": "D"}
    del folders["D"], records["D"]
    assert join_twins(folders, records) == {"A": "B"}  # B was scored otherwise than C
    del folders["A"], records["A"]
    folders["C"] = Path("r/x")
    assert join_twins(folders, records) == {"C": "B"}  # but it is beside C, and named so
    del folders["B"], records["B"]
    assert join_twins(folders, records) == {}


def test_twins_are_compared_row_by_row(make_results: Any) -> None:
    """The numbers are those of `compare`."""
    runs = {"A": make_results("x", {"s:t": BAD}), "B": make_results("x-fp16", {"s:t": GOOD}, precision="fp16")}
    (pair,) = compare_twins(runs, {"A": "B"}, 1.0)
    assert pair.test == "paired"
    assert pair.comparison == compare(runs["A"], runs["B"], 1.0)
    assert pair.mean is not None
    assert (pair.mean.difference, pair.mean.verdict) == (-50.0, "worse")


@pytest.mark.parametrize("paired", [True, False])
def test_twins_without_examples_are_compared_by_standard_errors(paired: bool, make_results: Any) -> None:
    """The same difference, with a wider interval; and without `paired` no example is read."""
    whole = {"A": make_results("x", {"s:t": FAIR}), "B": make_results("x-fp16", {"s:t": GOOD}, precision="fp16")}
    (exact,) = compare_twins(whole, {"A": "B"}, 1.0)
    bare = {key: LoadedRun(run.record, Unreadable() if not paired else {}) for key, run in whole.items()}
    (pair,) = compare_twins(bare, {"A": "B"}, 1.0, paired=paired)
    assert (pair.test, pair.comparison) == ("unpaired", None)
    assert pair.mean is not None
    assert exact.mean is not None
    assert pair.mean.difference == pytest.approx(exact.mean.difference) == pytest.approx(-4.0)
    assert pair.mean.stderr > 1.5 * exact.mean.stderr
    scores = [run.record.scores[0] for run in whole.values()]
    assert pair.mean.stderr == pytest.approx(sum(s.stderr**2 for s in scores) ** 0.5)


class Unreadable(dict[str, Any]):
    """Examples that must not be read."""

    def __getitem__(self, task: str) -> Any:
        raise AssertionError("examples were read")

    def get(self, task: str, default: Any = None) -> Any:
        """Fail, as reading does."""
        return self[task]


def test_twins_under_other_conditions_are_refused_with_the_reason(make_results: Any) -> None:
    """They are still shown side by side."""
    runs = {
        "A": make_results("x", {"s:t": BAD}),
        "B": with_settings(make_results("x-fp16", {"s:t": GOOD}, precision="fp16"), shots=5),
    }
    (pair,) = compare_twins(runs, {"A": "B"}, 1.0)
    assert (pair.test, pair.mean) == ("none", None)
    assert [one.en for one in pair.differs] == ["shots 0 (twin: 5)"]


def test_every_sentence_of_a_leaderboard_is_in_both_languages() -> None:
    """Words that are the same in both are signs or names."""
    same = {key for key, text in load_catalogue().items() if key.startswith("board.") and text.ko == text.en}
    assert same == {"board.column.p"}
