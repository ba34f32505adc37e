"""Who is measured, what a record gains, and what each number is called: cases written for it, nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.measurement import contest, floors, worker
from bitnet_bench.measurement import measure as measuring
from bitnet_bench.measurement.admission import Admission
from bitnet_bench.measurement.candidates import Candidate, CostTarget, add_twin, find_cost_target, make_candidates
from bitnet_bench.measurement.contest import CandidateOutcome, PreparedCandidate
from bitnet_bench.measurement.costs import CandidateInfo, make_costs
from bitnet_bench.measurement.gpu_readings import NoGpu
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.messages import OpenResult
from bitnet_bench.measurement.readings import Round
from bitnet_bench.measurement.rounds import RoundResults
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.runs.folder import load_record, save_record
from bitnet_bench.runs.records import Cost, Measured, RunRecord, Unavailable

DEMO, FLOAT = open_checkpoint("demo"), open_checkpoint("demo-fp16")
NO_METER = Unavailable(reason="no meter")


def make_run(folder: Path, model: str = "demo", **checkpoint: Any) -> Path:
    opened = open_checkpoint(model).model_copy(update=checkpoint)
    record = RunRecord(
        name=folder.name, checkpoint=opened, backend="hf", precision="ternary", environment=read_environment()
    )
    save_record(folder, record)
    return folder


def named(found: Sequence[Candidate]) -> list[tuple[str, str, Path | None, str | None]]:
    return [(one.model, one.precision, one.out, one.backend) for one in found]


def test_models_run_at_what_they_are() -> None:
    """Ternary ones as ternary, float ones in FP16 and BF16, or at the precisions and backends that are named."""
    assert named(make_candidates(["demo"], [], None)) == [("demo", "ternary", None, None)]
    both = [("demo-fp16", "fp16", None, None), ("demo-fp16", "bf16", None, None)]
    assert named(make_candidates(["demo-fp16"], [], None)) == both
    assert named(make_candidates(["demo", "demo-fp16"], ["fp32"], None)) == [
        ("demo", "fp32", None, None), ("demo-fp16", "fp32", None, None)
    ]  # fmt: skip
    out = Path("here")
    assert named(make_candidates(["demo"], [], out, backends=["hf", "ternary"])) == [
        ("demo", "ternary", out, "hf"), ("demo", "ternary", out, "ternary")
    ]  # fmt: skip


def test_a_float_model_beside_a_ternary_backend_runs_in_hf_once() -> None:
    """Two backends that run ternary weights only are one backend for it; another of its own stays."""
    found = make_candidates(["demo-fp16"], ["fp16"], None, backends=["ternary", "ternary-int8-head", "llamacpp"])
    assert named(found) == [("demo-fp16", "fp16", None, "hf"), ("demo-fp16", "fp16", None, "llamacpp")]


def test_baselines_are_run_in_hf_and_keep_no_costs() -> None:
    """Whatever the backend and the folder of the others."""
    found = make_candidates(["demo"], [], Path("here"), backends=["ternary"], baselines=["demo", "demo-fp16"])
    assert named(found)[1:] == [
        ("demo", "ternary", None, "hf"), ("demo-fp16", "fp16", None, "hf"), ("demo-fp16", "bf16", None, "hf")
    ]  # fmt: skip
    assert all(one.opened is not None and one.opened.source == one.model for one in found)


def test_against_floats_adds_those_that_are_missing(tmp_path: Path) -> None:
    """Of its twin where there is one; else of its own weights as dense floats, whose costs are its own."""
    found = make_candidates(["demo"], [], Path("here"), against_floats=True)
    assert named(found)[1:] == [("demo-fp16", "fp16", None, "hf"), ("demo-fp16", "bf16", None, "hf")]
    found = make_candidates(["demo"], [], None, baselines=["demo-fp16"], against_floats=True)
    assert len(found) == 3
    for entry in Path(DEMO.path).iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    alone = str(tmp_path)
    found = make_candidates([alone], [], Path("here"), against_floats=True)
    assert named(found)[1:] == [(alone, "fp16", Path("here"), "hf-dense"), (alone, "bf16", Path("here"), "hf-dense")]


def test_a_run_folder_is_measured_by_its_checkpoint(tmp_path: Path) -> None:
    """Its own record gains the costs; an embedded model goes by its name, another by its path, or by its hub's name."""
    assert find_cost_target("demo") == CostTarget("demo", None)
    run = make_run(tmp_path / "run")
    assert find_cost_target(str(run)) == CostTarget("demo", run)
    own = make_run(tmp_path / "own", source="mine", path=DEMO.path)
    assert find_cost_target(str(own)) == CostTarget(DEMO.path, own)
    gone = str(tmp_path / "gone")
    hub = make_run(tmp_path / "hub", source="a/b", path=gone, revision="1")
    assert find_cost_target(str(hub)) == CostTarget("a/b", hub)
    lost = make_run(tmp_path / "lost", source="mine", path=gone)
    with pytest.raises(BenchError, match="is gone") as error:
        find_cost_target(str(lost))
    assert gone in error.value.problem
    assert "name the run folder with `out`" in error.value.hint
    assert named(make_candidates([str(run)], [], None)) == [("demo", "ternary", run, None)]
    assert Candidate("demo", "ternary", run).cost_target == CostTarget("demo", run)


def test_a_single_run_is_measured_with_its_twin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Named twice is once; two runs, or what is no run, have nothing added; a twin that is gone is told."""
    mine, twin = make_run(tmp_path / "mine"), make_run(tmp_path / "mine-fp16", "demo-fp16")
    assert add_twin([str(mine), str(mine)]) == [str(mine), str(twin)]
    assert add_twin([str(mine), "demo"]) == [str(mine), "demo"]
    assert add_twin(["demo"]) == ["demo"]
    make_run(tmp_path / "mine-fp16", "demo-fp16", source="x", path=str(tmp_path / "gone"))
    assert add_twin([str(mine)]) == [str(mine)]
    assert f"The twin {twin} is not measured." in caplog.text


def cost(precision: Any = "ternary", **fields: Any) -> Cost:
    metrics = {
        "prefill_s": Measured(unit="s", method="m", readings=(50.0,)),
        "decode_s": Measured(unit="s", method="m", readings=(20.0,)),
        "peak_bytes": Measured(unit="B", method="m", readings=(1e6,)),
        "energy_j": Unavailable(reason="no counter"),
    }
    given = {
        "backend": "any", "precision": precision, "prompt_tokens": 6, "new_tokens": 4, "batch": 1, "threads": 1,
        "weight_bytes": {}, "resident_weight_bytes": 5000, "kv_bytes": 900, "metrics": metrics, "foreign_load": 0.0,
    }  # fmt: skip
    return Cost.model_validate({**given, **fields})


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give a list: what it holds is the outcome of the next measurement; what is asked is added to it."""
    given: list[Any] = []

    def run(ready: Sequence[PreparedCandidate], scenario: Scenario, meter: str, countdown: Any, _: Any) -> list[Any]:
        found, given[:] = list(given), [(ready, scenario, meter, countdown)]
        return found

    monkeypatch.setattr(contest, "measure_in_rounds", run)
    monkeypatch.setattr(floors, "add_floors", lambda measured: [one for one, _ in measured])
    return given


def test_each_record_gains_its_own_costs(outcomes: list[Any], tmp_path: Path) -> None:
    """Two backends of one checkpoint are one record; failures and what was left out have backend and precision."""
    failed = BenchError("It is broken.", "Mend it.")
    outcomes[:] = [
        CandidateOutcome([cost(batch=1), cost(batch=8)]),
        CandidateOutcome([], failed),
        CandidateOutcome([cost("fp16")], None, "No time for batch 8."),
    ]
    contestants = [
        Candidate("demo", "ternary", tmp_path / "a", "hf"),
        Candidate("demo", "ternary", tmp_path / "a", "ternary"),
        Candidate("demo-fp16", "fp16", None, "hf"),
    ]
    ours, theirs = measure(contestants, Scenario(budget_s=50), meter="none", began_s=7.0)
    assert [one.batch for one in ours.costs] == [1, 8]
    assert ours.cost_errors == {"ternary ternary": str(failed)}
    assert theirs.cost_left_out == {"hf fp16": "No time for batch 8."}
    assert (ours.cost_left_out, theirs.cost_errors) == ({}, {})
    assert load_record(tmp_path / "a") == ours
    assert (ours.name, theirs.name) == ("a", "demo-fp16")
    assert (ours.backend, theirs.precision, theirs.checkpoint) == ("hf", "fp16", FLOAT)
    ((ready, scenario, meter, countdown),) = outcomes
    assert [(one.name, one.checked, one.backend_reason) for one in ready] == [
        ("demo hf ternary", False, None), ("demo ternary ternary", False, None), ("demo-fp16 hf fp16", False, None)
    ]  # fmt: skip
    assert [one.backend_path.partition(":")[0] for one in ready] == [
        "bitnet_bench.backends.hf", "bitnet_bench.backends.ternary", "bitnet_bench.backends.hf"
    ]  # fmt: skip
    assert meter.endswith(":NoMeter")
    assert (countdown.budget.seconds, countdown.budget.began_s) == (50.0, 7.0)
    assert scenario.budget_s == 50.0


def test_a_backend_that_was_chosen_says_why(outcomes: list[Any]) -> None:
    """In the record and in each of its costs; the choice of one candidate goes before that of the call."""
    outcomes[:] = [CandidateOutcome([cost()])]
    (record,) = measure([("demo", "ternary", None)], Scenario(), backend="auto", meter="none")
    assert record.backend_reason is not None
    assert record.costs[0].backend_reason == record.backend_reason
    outcomes[:] = [CandidateOutcome([cost()])]
    (record,) = measure([Candidate("demo", "ternary", None, "hf")], Scenario(), backend="ternary", meter="none")
    assert (record.backend, record.backend_reason) == ("hf", None)


@pytest.mark.parametrize("model_energy", [True, False])
def test_joules_are_modelled_on_demand(model_energy: bool, outcomes: list[Any]) -> None:
    """Only where they were asked for."""
    outcomes[:] = [CandidateOutcome([cost()])]
    (record,) = measure([("demo", "ternary", None)], Scenario(), backend="hf", meter="none", model_energy=model_energy)
    assert record.costs[0].metrics["energy_j"].kind == ("modelled" if model_energy else "unavailable")


@pytest.mark.parametrize(("gpu", "meter"), [(None, "RaplMeter"), (object(), "NvmlMeter")])
def test_the_meter_is_that_of_what_computes(
    gpu: object, meter: str, outcomes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAPL without a GPU, NVML with one; one that is unknown is refused with those there are."""
    monkeypatch.setattr(measuring, "find_gpu", lambda: gpu)
    outcomes[:] = [CandidateOutcome([])]
    measure([("demo", "ternary", None)], Scenario(), backend="hf", meter="auto")
    assert outcomes[0][2].endswith(f":{meter}")
    with pytest.raises(BenchError, match="rapll") as error:
        measure([("demo", "ternary", None)], Scenario(), backend="hf", meter="rapll")
    assert "rapl" in error.value.hint


def test_a_context_that_is_too_short_is_refused() -> None:
    """A scenario may fill it to the last token and no further; both lengths and the model are named."""
    room = json.loads((Path(DEMO.path) / "config.json").read_text())["max_position_embeddings"]
    fits = [PreparedCandidate(DEMO, "ternary", "hf", "")]
    measuring._check_context_length(fits, Scenario(prompt_tokens=room - 4, new_tokens=4))
    with pytest.raises(UsageError) as error:
        measuring._check_context_length(fits, Scenario(prompt_tokens=room - 3, new_tokens=4))
    assert error.value.problem == f"{room - 3} + 4 tokens exceed the context of demo, {room}."
    assert error.value.hint == "Lower `prompt_tokens` or `new_tokens`."


def test_a_second_measurement_takes_the_place_of_the_first(outcomes: list[Any], tmp_path: Path) -> None:
    """Costs, errors and what was left out are of the last one, unless that measured nothing: then the costs stay."""
    target = [Candidate("demo", "ternary", tmp_path / "a", "hf")]
    for given in (
        CandidateOutcome([cost(batch=2)], None, "No time."),
        CandidateOutcome([cost(batch=3)]),
        CandidateOutcome([], BenchError("It is broken.", "")),
    ):
        outcomes[:] = [given]
        (record,) = measure(target, Scenario(), meter="none")
    assert [one.batch for one in record.costs] == [3]
    assert list(record.cost_errors) == ["hf ternary"]
    assert record.cost_left_out == {}


def reading(**fields: Any) -> Round:
    given = {
        "prefill_s": 0.1, "decode_s": 0.08, "token_s": (0.02,) * 4, "prompt_tokens": 8, "new_tokens": 5,
        "repetitions": 1, "metered_s": 0.18, "energy": NO_METER, "foreign_share": 0.0,
    }  # fmt: skip
    return Round.model_validate({**given, **fields})


OPENED = OpenResult(
    load_s=3.5, resident_weight_bytes=70, kv_per_token=6, resident_by_kind={"head float32": 7}, memory_method="counted"
)


def costs_of(turns: RoundResults, **fields: Any) -> list[Cost]:
    entry = CandidateInfo("hf", "ternary", DEMO, None, 2)
    return make_costs(entry, OPENED, turns, fields.get("idle", NO_METER))


def test_every_number_says_its_unit_and_how_it_was_read() -> None:
    """A table of what a cost holds."""
    (found,) = costs_of(RoundResults(rounds={1: [reading()], 2: []}, peak_bytes={1: 9}))
    clock = "monotonic clock, mean over a round of 0.5 s or more, after a warm-up round"
    ranks = "nearest rank of 4 tokens timed one by one"
    assert {name: (one.unit, one.method) for name, one in found.metrics.items() if isinstance(one, Measured)} == {
        "load_s": ("s", "monotonic clock around opening"),
        "prefill_s": ("s", f"{clock}; the first new token is chosen in it"),
        "prefill_tokens_per_s": ("tokens/s", "prompt tokens / time"),
        "decode_s": ("s/token", clock),
        "decode_tokens_per_s": ("tokens/s", "batch / time of a token"),
        "token_s": ("s", "monotonic clock around each token, one repetition a round"),
        "token_p50_s": ("s", ranks),
        "token_p95_s": ("s", ranks),
        "token_p99_s": ("s", ranks),
        "peak_bytes": ("B", "counted"),
    }
    assert found.metrics["energy_j"] == NO_METER
    assert (found.weight_bytes, found.resident_by_kind) == (DEMO.weight_bytes, {"head float32": 7})
    assert set(found.conditions.values()) == {Unavailable(reason="this machine does not say")}
    assert set(found.conditions) == {"frequency_hz", "stolen", "pace_s", "throttled", "swapped_bytes"}


def test_a_cost_of_a_warm_up_alone_says_so() -> None:
    """Its readings come after short probes only; why it ran once is kept where there is one round."""
    turns = RoundResults({1: [reading()]}, {1: 9}, cold={1}, once={1: "3 rounds exceed it."})
    (found,) = costs_of(turns)
    assert found.metrics["decode_s"].method.endswith(  # type: ignore[union-attr]
        ", after short probes only: it is the warm-up round, and the budget has no time for others"
    )
    assert found.once_because == "3 rounds exceed it."
    (found,) = costs_of(RoundResults({1: [reading()] * 2}, {1: 9}, once={1: "3 rounds exceed it."}))
    assert found.once_because is None


def test_conditions_are_those_of_the_rounds_that_count() -> None:
    """Of three quiet rounds and a disturbed one: three readings of each, what is unknown left out, GPU's per token."""
    rounds = [
        reading(foreign_share=0.4, runtime="a"),
        reading(frequency_hz=1e9, stolen_share=0.0, pace_s=0.1, throttled=0, swapped_bytes=5, runtime="b"),
        reading(frequency_hz=2e9, gpu_frequency_hz=1e9, gpu_prefill_s=0.5, gpu_decode_s=0.4, gpu_heat_s=0.1),
        reading(foreign_share=0.03, gpu_power_s=0.2),
    ]
    turns = RoundResults({4: rounds}, {4: 9}, {4: {0: ["noise", "heat"]}}, card_bytes={4: 77})
    (found,) = costs_of(turns)
    conditions = {name: one.readings for name, one in found.conditions.items() if isinstance(one, Measured)}
    assert conditions == {
        "frequency_hz": (1e9, 2e9), "stolen": (0.0,), "pace_s": (0.1,), "throttled": (0.0,), "swapped_bytes": (5.0,),
        "gpu_prefill_s": (0.5,), "gpu_decode_s": (0.1,), "gpu_frequency_hz": (1e9,), "gpu_heat_s": (0.1,),
        "gpu_power_s": (0.2,), "card_bytes": (77.0,),
    }  # fmt: skip
    assert found.foreign_load == pytest.approx(0.01)
    assert found.disturbances == ("round 1: noise, heat",)
    (left,) = found.left_out
    assert (left.round, left.why, left.prefill_s, left.decode_s) == (1, ("noise", "heat"), 0.1, 0.02)
    assert found.runtime == "b"
    units = {name: one.unit for name, one in found.conditions.items() if isinstance(one, Measured)}
    assert units == {
        "frequency_hz": "Hz", "stolen": "share of the cores", "pace_s": "s", "throttled": "events",
        "swapped_bytes": "B", "gpu_prefill_s": "s", "gpu_decode_s": "s/token", "gpu_frequency_hz": "Hz",
        "gpu_heat_s": "s", "gpu_power_s": "s", "card_bytes": "B",
    }  # fmt: skip


def test_an_outcome_says_what_happened_at_each_batch() -> None:
    """Left out before loading, an error, or what the budget left out; with several batches each is named."""
    candidate = SimpleNamespace(
        contestant=PreparedCandidate(DEMO, "ternary", "hf", ""), child=SimpleNamespace(opened=OPENED)
    )

    def outcome(admission: Admission, turns: RoundResults | None) -> CandidateOutcome:
        return contest._make_outcome(candidate, admission, turns, NO_METER, 2)  # type: ignore[arg-type]

    broken = BenchError("It is broken.", "")
    assert outcome(Admission(error=broken), None) == CandidateOutcome([], broken, None)
    assert outcome(Admission(left_out="No time."), None) == CandidateOutcome([], None, "No time.")
    one = outcome(Admission(), RoundResults(left_out={1: "No time."}, error=broken))
    assert one == CandidateOutcome([], broken, "No time.")
    turns = RoundResults({1: [reading()]}, {1: 9}, left_out={8: "No time.", 16: "Less."})
    several = outcome(Admission(), turns)
    assert several.left_out == "At batch 8: No time. At batch 16: Less."
    assert [(c.batch, c.threads, c.backend) for c in several.costs] == [(1, 2, "hf")]
    assert outcome(Admission(), RoundResults({1: [reading()]}, {1: 9})).left_out is None


class Words:
    """A tokenizer with a token for each word."""

    def __len__(self) -> int:
        return 50

    def __call__(self, text: str) -> Any:
        """Return the numbers that the words are."""
        return SimpleNamespace(input_ids=[int(word) for word in text.split()])


def test_prompts_are_seeded_or_texts_of_one_length() -> None:
    """Random ids are the same every time; texts are taken in turn, and all keep their ends."""
    session: Any = SimpleNamespace(tokenizer=Words())
    first = worker._make_prompts(session, 3, 40, ())
    assert first == worker._make_prompts(session, 3, 40, ())
    assert [len(prompt) for prompt in first] == [40, 40, 40]
    assert first[0] != first[1]
    assert set().union(*first) <= set(range(50))
    assert max(map(max, first)) > 40
    texts = ("1 2 3 4 5", "6 7 8", "9 10 11 12")
    assert worker._make_prompts(session, 2, 9, texts) == [[3, 4, 5], [6, 7, 8]]
    assert worker._make_prompts(session, 4, 2, texts) == [[4, 5], [7, 8], [11, 12], [4, 5]]


class Timed:
    """A session on a clock: a prompt of n tokens takes what it is told, a token too."""

    def __init__(self, prompt_s: Any, token_s: Sequence[float]) -> None:
        self.now, self.prompt_s, self.tokens = 0.0, prompt_s, iter(token_s)
        self.asked: list[int] = []
        self.tokenizer = Words()

    def prefill(self, batch: Sequence[Sequence[int]]) -> int:
        """Read."""
        self.asked.append(len(batch[0]))
        self.now += self.prompt_s(len(batch[0]))
        return 0

    def decode(self, state: int, steps: int) -> int:
        """Write."""
        self.now += next(self.tokens)
        return state


def probing(session: Timed, monkeypatch: pytest.MonkeyPatch, prompt: int, new: int, gpu: Any = None) -> Any:
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: session.now))
    task: Any = SimpleNamespace(new_tokens=new, threads=1, prompt_tokens=prompt, texts=())
    return worker._BatchWorker(session, task, 1, None, gpu or NoGpu())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "seconds", "lengths", "foreseen"),
    [
        (100, lambda n: 0.01 * n, [16, 32], 1.0),  # 0.32 s are long enough
        (100, lambda n: 0.1 + 0.001 * n, [16, 32, 64, 100], 0.2),  # twice the time of one token is not reached before
        (10, lambda n: 0.01 * n, [10], 0.1),
        (1, lambda n: 0.01 * n, [], 0.01),
        (1000, lambda n: 0.2, [16, 32, 64, 128, 256, 512, 1000], 0.2),  # the length does not matter
    ],
)
def test_a_long_prompt_is_foreseen_from_shorter_ones(
    prompt: int, seconds: Any, lengths: list[int], foreseen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token, then 16 and doubled: the slope of the last is that of the whole prompt."""
    session = Timed(seconds, ())
    assert probing(session, monkeypatch, prompt, 5)._probe_prefill() == pytest.approx(foreseen)
    assert session.asked == [1, 1, 1, 1, *[length for length in lengths for _ in range(2)]]


def test_a_slow_prompt_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second and more is not repeated; of two tries the better one counts."""
    session = Timed(lambda n: 1.5, ())
    assert probing(session, monkeypatch, 1, 5)._time_prompt(1) == 1.5
    assert session.asked == [1]
    tries = iter([0.4, 0.3, 9.0])
    session = Timed(lambda n: next(tries), ())
    assert probing(session, monkeypatch, 1, 5)._time_prompt(1) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("new", "seconds", "median", "timed"),
    [
        (9, [0.2, 0.1, 0.3, 9.0], 0.2, 3),  # three at least, though 0.3 s have passed
        (9, [0.05, 0.01, 0.03, 0.02, 0.2, 9.0], 0.03, 5),  # until a quarter of a second
        (3, [0.01, 0.02, 9.0], 0.01, 2),  # no more than there are
        (9, [2.0, 9.0], 2.0, 1),  # a slow token is timed once
    ],
)
def test_a_token_is_foreseen_as_the_median_of_a_few(
    new: int, seconds: list[float], median: float, timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a prompt of one token."""
    session = Timed(lambda n: 0.0, seconds)
    assert probing(session, monkeypatch, 8, new)._probe_decode() == pytest.approx(median)
    assert session.asked == [1]
    assert len(list(session.tokens)) == len(seconds) - timed


def test_on_a_gpu_the_first_token_captures_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not timed, unless there are only two."""
    session = Timed(lambda n: 0.0, [0.9, 0.1, 0.1, 0.1, 0.1])
    assert probing(session, monkeypatch, 8, 4, gpu=object())._probe_decode() == pytest.approx(0.1)
    session = Timed(lambda n: 0.0, [0.9, 0.1])
    assert probing(session, monkeypatch, 8, 2, gpu=object())._probe_decode() == pytest.approx(0.9)


def test_a_mean_of_what_is_known() -> None:
    """None of several is none; what is unknown is left out."""
    assert worker._mean_known([1.0, None, 4.0]) == 2.5
    assert worker._mean_known([None]) is None
    assert worker._mean_known([]) is None


@pytest.mark.parametrize(("gpu", "used"), [(None, None), (SimpleNamespace(total_bytes=10, free_bytes=4), 6)])
def test_used_bytes_of_a_card(gpu: Any, used: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not free; nothing without a card."""
    monkeypatch.setattr(worker, "find_gpu", lambda: gpu)
    assert worker._read_used_bytes() == used
