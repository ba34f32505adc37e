"""What a measuring process is asked and answers, and how candidates get there: pipes and processes are faked."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement import ceilings, child, contest, parity_check, worker
from bitnet_bench.measurement.admission import Admission
from bitnet_bench.measurement.budget import Budget, Countdown, OutOfBudgetError
from bitnet_bench.measurement.child import CandidateProcess
from bitnet_bench.measurement.contest import PreparedCandidate, measure_in_rounds
from bitnet_bench.measurement.messages import MeasuringTask, OpenResult, ParityTask
from bitnet_bench.measurement.readings import Round
from bitnet_bench.measurement.rounds import RoundResults, alternate_rounds
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.protocols import RuntimeOptions
from bitnet_bench.runs.records import RuntimeParity, Unavailable

DEMO = open_checkpoint("demo")
OPTIONS = RuntimeOptions(gguf="a.gguf")
TASK = MeasuringTask(
    checkpoint=DEMO, precision="ternary", backend="module:Backend", options=OPTIONS, threads=3, meter="module:Meter",
    prompt_tokens=8, new_tokens=3,
)  # fmt: skip


def reading(**fields: Any) -> Round:
    given = {
        "prefill_s": 1.0, "decode_s": 1.0, "token_s": (0.5, 0.5), "prompt_tokens": 8, "new_tokens": 3,
        "repetitions": 1, "metered_s": 2.0, "energy": Unavailable(reason="none"), "foreign_share": 0.0,
    }  # fmt: skip
    return Round.model_validate({**given, **fields})


class FakeBackend:
    """A backend that keeps what it was told."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def configured(self, options: RuntimeOptions) -> FakeBackend:
        """Take options."""
        self.log.append(("options", options))
        return self

    def prepare(self, checkpoint: Any) -> None:
        """Note it."""
        self.log.append(("prepare", checkpoint.source))

    def check(self, checkpoint: Any, precision: str) -> RuntimeParity:
        """Compare nothing."""
        return RuntimeParity(runtime=f"fake {checkpoint.source} {precision}", prompt_tokens=0)


class FakeBatch:
    """The worker of a batch, which answers with its batch."""

    def __init__(self, session: Any, task: Any, batch: int, meter: Any, gpu: Any) -> None:
        self.batch, self.made_of = batch, (session, task, meter, gpu)

    def probe(self) -> float:
        """Return ten times the batch."""
        return 10.0 * self.batch

    def round(self) -> Round:
        """Return as many seconds."""
        return reading(prefill_s=self.batch)

    def warm_up(self, memory: Any, baseline: int, used_before: int | None) -> Round:
        """Return what was there before as the peak."""
        return reading(prefill_s=self.batch, peak_bytes=baseline, card_bytes=used_before)


def test_a_worker_answers_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens what its task names, says so, and answers each request for its batch; a batch has one worker."""
    log: list[Any] = []
    replies = io.StringIO()
    ticks = iter([10.0, 12.5])
    session = SimpleNamespace(
        device="cpu", footprint=lambda: (70, 6), weights_by_kind=lambda: {"head float32": 70}, tokenizer=range(9)
    )

    @contextmanager
    def opened(backend: Any, checkpoint: Any, precision: str) -> Iterator[Any]:
        log.append(("open", checkpoint.source, precision))
        yield session

    requests = [{"do": do, "batch": batch} for do, batch in (("probe", 2), ("warm up", 2), ("round", 2), ("round", 4))]
    lines = [TASK.model_dump_json(), *map(json.dumps, requests)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    monkeypatch.setattr(worker, "claim_stdout", lambda: replies)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: log.append(("threads", count)))
    monkeypatch.setattr(worker.plugins, "create_backend", lambda path: log.append(path) or FakeBackend(log))
    monkeypatch.setattr(worker.plugins, "create_meter", lambda path: log.append(path) or "meter")
    monkeypatch.setattr(worker.plugins, "open_session", opened)
    monkeypatch.setattr(worker, "_read_used_bytes", lambda: 33)
    monkeypatch.setattr(worker, "PeakMemory", lambda: SimpleNamespace(read=lambda: 44, method="counted"))
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    made: list[FakeBatch] = []

    def make(*given: Any) -> FakeBatch:
        made.append(FakeBatch(*given))
        return made[-1]

    monkeypatch.setattr(worker, "_BatchWorker", make)
    worker.main()
    assert log == [
        ("threads", 3), "module:Backend", ("options", OPTIONS), "module:Meter", ("prepare", "demo"),
        ("open", "demo", "ternary"),
    ]  # fmt: skip
    first, *others = replies.getvalue().splitlines()
    assert OpenResult.model_validate_json(first) == OpenResult(
        load_s=2.5, resident_weight_bytes=70, kv_per_token=6, resident_by_kind={"head float32": 70},
        memory_method="counted",
    )  # fmt: skip
    assert json.loads(others[0]) == {"run_s": 20.0}
    rounds = [Round.model_validate_json(line) for line in others[1:]]
    assert [(one.prefill_s, one.peak_bytes, one.card_bytes) for one in rounds] == [
        (2.0, 44, 33), (2.0, None, None), (4.0, None, None)
    ]  # fmt: skip
    assert all(one.made_of[:3] == (session, TASK, "meter") for one in made)
    assert all(type(one.made_of[3]).__name__ == "NoGpu" for one in made)


def test_a_process_that_compares_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend's own comparison at the precision of its task."""
    log: list[Any] = []
    replies = io.StringIO()
    task = ParityTask(checkpoint=DEMO, precision="tq2_0", backend="module:Backend", options=OPTIONS, threads=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(task.model_dump_json() + "\n"))
    monkeypatch.setattr(parity_check, "claim_stdout", lambda: replies)
    monkeypatch.setattr(parity_check.plugins, "create_backend", lambda path: log.append(path) or FakeBackend(log))
    parity_check.main()
    assert log == ["module:Backend", ("options", OPTIONS)]
    assert json.loads(replies.getvalue())["runtime"] == "fake demo tq2_0"


class FakeProcess:
    """A candidate's process that keeps how it was made and what it was asked."""

    made: ClassVar[list[FakeProcess]] = []

    def __init__(self, name: str, task: Any, timeout_s: float, command: Any = None, waiting: Any = None) -> None:
        self.name, self.task, self.timeout_s, self.command, self.waiting = name, task, timeout_s, command, waiting
        self.asked: list[tuple[str, float]] = []
        self.opened: Any = None
        FakeProcess.made.append(self)

    def open(self, within_s: float) -> None:
        """Open at once."""
        self.asked.append(("open", within_s))
        self.opened = OpenResult(
            load_s=1.0, resident_weight_bytes=5, kv_per_token=1, resident_by_kind={}, memory_method="m"
        )

    def check(self, within_s: float) -> RuntimeParity:
        """Compare at once."""
        self.asked.append(("check", within_s))
        return RuntimeParity(runtime="fake", prompt_tokens=0)

    def close(self) -> None:
        """Note it."""
        self.asked.append(("close", 0.0))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """Give the list of processes that are made, none of them real; this machine's rates are not measured."""
    FakeProcess.made = []
    monkeypatch.setattr(contest, "CandidateProcess", FakeProcess)
    monkeypatch.setattr(contest, "measure_rates", lambda threads: None)
    monkeypatch.setattr(contest.plugins, "create_meter", lambda path: SimpleNamespace(modelled=True, path=path))
    monkeypatch.setattr(contest, "forecast_run", lambda *given: None)
    monkeypatch.setattr(contest, "count_cores", lambda: 6)
    return FakeProcess.made


def countdown(clock: Any = lambda: 0.0, seconds: float = 100.0) -> Countdown:
    return Countdown(Budget(seconds, clock), lambda done, total, note="": None)


def test_candidates_are_loaded_alternated_and_closed(
    processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be loaded leaves the others; each outcome is that of its own candidate, all processes end."""
    ran: list[Any] = []

    def alternate(children: Sequence[Any], scenario: Scenario, told: Any) -> list[RoundResults]:
        ran.extend(children)
        return [RoundResults({1: [reading(prefill_s=i + 1)]}, {1: 9}) for i, _ in enumerate(children)]

    def load(queued: Sequence[Any], told: Any) -> list[Admission]:
        for one in queued:
            one.loadable.load(20.0)
        return [Admission(), Admission(left_out="No time."), Admission()]

    monkeypatch.setattr(contest, "alternate_rounds", alternate)
    monkeypatch.setattr(contest, "load_candidates", load)
    three = [PreparedCandidate(DEMO, "ternary", name, f"module:{name}", OPTIONS) for name in "abc"]
    scenario = Scenario(prompt_tokens=8, new_tokens=3, timeout_s=77.0, texts=("가",))
    found = measure_in_rounds(three, scenario, "module:Meter", countdown())
    assert ran == [processes[0], processes[2]]
    assert [one.left_out for one in found] == [None, "No time.", None]
    assert [cost.metrics["prefill_s"].readings for one in found for cost in one.costs] == [(1.0,), (2.0,)]  # type: ignore[union-attr]
    assert [cost.threads for one in found for cost in one.costs] == [6, 6]
    for name, process in zip("abc", processes, strict=True):
        assert (process.name, process.timeout_s) == (f"demo {name} ternary", 77.0)
        assert process.task == TASK.model_copy(
            update={"backend": f"module:{name}", "threads": 6, "texts": ("가",), "meter": "module:Meter"}
        )
        assert process.asked == [("open", 20.0), ("close", 0.0)]
        assert process.waiting is not None


def test_processes_end_though_measuring_fails(processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left running."""

    def fail(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(contest, "load_candidates", fail)
    with pytest.raises(KeyboardInterrupt):
        measure_in_rounds([PreparedCandidate(DEMO, "ternary", "a", "m:a")], Scenario(), "m", countdown())
    assert [process.asked for process in processes] == [[("close", 0.0)]]


def make_loadable(checked: bool, options: RuntimeOptions = OPTIONS, clock: Any = lambda: 0.0) -> Any:
    candidate = PreparedCandidate(DEMO, "ternary", "a", "module:a", options, checked)
    task = contest._measuring_task(candidate, Scenario(prompt_tokens=8, new_tokens=3), 3, "module:Meter")
    return contest._LoadableCandidate(candidate, task, 55.0, countdown(clock))


def test_what_is_known_before_loading(processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size, its kind, and a forecast by its config, backend, precision and threads."""
    asked: list[Any] = []
    monkeypatch.setattr(contest, "forecast_run", lambda *given: asked.append(given))
    one = make_loadable(checked=False)
    scenario = Scenario(prompt_tokens=9)
    queued = one.make_queued(scenario, 4)
    assert (queued.loadable, queued.weight_bytes) == (one, sum(DEMO.weight_bytes.values()))
    assert queued.kind == (DEMO.sha256, "a")
    assert not asked
    queued.forecast()
    ((config, *others),) = asked
    assert config["model_type"]
    assert others == ["a", "ternary", scenario, 4]


@pytest.mark.parametrize("allowed", [True, False])
def test_another_projects_runtime_is_compared_first(
    allowed: bool, processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own that ends before the candidate is loaded in what is left of its share."""
    now = [0.0]
    checked: list[Any] = []
    monkeypatch.setattr(
        "bitnet_bench.backends.runtime_parity.check_parity", lambda found, allow: checked.append((found.runtime, allow))
    )
    one = make_loadable(True, RuntimeOptions(allow_mismatch=allowed), lambda: now[0])
    real = FakeProcess.check

    def check(self: FakeProcess, within_s: float) -> RuntimeParity:
        now[0] += 4.0
        return real(self, within_s)

    monkeypatch.setattr(FakeProcess, "check", check)
    parity = one.load(10.0)
    own, gate = processes
    assert parity.runtime == "fake"
    assert checked == [("fake", allowed)]
    assert (gate.name, gate.timeout_s, gate.command) == ("the parity of demo a ternary", 55.0, child.PARITY_COMMAND)
    assert gate.asked == [("check", 10.0), ("close", 0.0)]
    assert own.asked == [("open", 6.0)]
    assert gate.task == ParityTask(
        checkpoint=DEMO, precision="ternary", backend="module:a", options=one.contestant.options, threads=6
    )
    now[0] = 0.0
    one.load(3.0)
    assert own.asked[-1] == ("open", 0.0)


def test_a_runtime_of_ours_is_not_compared(processes: list[FakeProcess]) -> None:
    """It has the checkpoint's own numbers."""
    one = make_loadable(checked=False)
    assert one.load(10.0) is None
    assert [process.asked for process in processes] == [[("open", 10.0)]]


class Contender:
    """One that takes *run_s* of the clock for whatever it is asked, and notes it."""

    def __init__(self, name: str, run_s: float, clock: list[float], log: list[tuple[str, str, float]]) -> None:
        self.name, self.run_s, self.clock, self.log = name, run_s, clock, log

    def probe(self, batch: int, within_s: float) -> float:
        """Foresee."""
        self.log.append((self.name, f"probe {batch}", round(within_s, 3)))
        return self.run_s

    def warm_up(self, batch: int, within_s: float) -> Round:
        """Run."""
        return self._run("warm up", batch, within_s)

    def round(self, batch: int, within_s: float) -> Round:
        """Run."""
        return self._run("round", batch, within_s)

    def _run(self, what: str, batch: int, within_s: float) -> Round:
        self.log.append((self.name, f"{what} {batch}", round(within_s, 3)))
        self.clock[0] += min(self.run_s, within_s)
        if self.run_s > within_s:
            raise OutOfBudgetError(f"{self.name} took long.")
        return reading(prefill_s=self.run_s, peak_bytes=7, card_bytes=8)


def test_those_that_can_make_rounds_warm_up_first() -> None:
    """Of 97 s a slow one runs once in what the others leave, and they do not wait for it; probes share what is left."""
    clock, log = [0.0], list[tuple[str, str, float]]()
    pair = [Contender("slow", 40.0, clock, log), Contender("quick", 2.0, clock, log)]
    slow, quick = alternate_rounds(pair, Scenario(rounds=3), countdown(lambda: clock[0]), lambda seconds: None)
    assert log[:4] == [
        ("slow", "probe 1", 49.0), ("quick", "probe 1", 98.0),
        ("quick", "warm up 1", 68.0), ("slow", "warm up 1", 106.0),
    ]  # fmt: skip
    assert [name for name, what, _ in log[4:]] == ["quick"] * 3
    assert (slow.cold, quick.cold) == ({1}, set())
    assert (quick.peak_bytes, quick.card_bytes) == ({1: 7}, {1: 8})
    assert len(quick.rounds[1]) == 3
    assert slow.once[1].startswith("3 rounds of 40 s exceed its share of the budget of 100 s")


def test_several_batches_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them have half of what is left each; the second has all that the first did not need."""
    clock, log = [0.0], list[tuple[str, str, float]]()
    (turns,) = alternate_rounds(
        [Contender("a", 2.0, clock, log)],
        Scenario(rounds=1, batches=(1, 4)),
        countdown(lambda: clock[0]),
        lambda s: None,
    )
    probes = [(what, within) for _, what, within in log if what.startswith("probe")]
    assert probes == [("probe 1", 49.0), ("probe 4", 94.0)]
    assert {batch: len(rounds) for batch, rounds in turns.rounds.items()} == {1: 1, 4: 1}


@pytest.mark.parametrize("kind", ["probe", "warm_up", "round"])
def test_what_took_too_long_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it was doing, and its share; a candidate that hangs is another sentence."""
    process = CandidateProcess("a", TASK, 5.0)
    process._process = SimpleNamespace(stdin=io.StringIO())  # type: ignore[assignment]
    waited: list[float] = []
    closed: list[bool] = []
    monkeypatch.setattr(process, "_wait_for_line", lambda limit_s: waited.append(limit_s))
    monkeypatch.setattr(process, "close", lambda: closed.append(True))
    doing = {"probe": "A probe of it", "warm_up": "Its warm-up", "round": "A round of it"}[kind]
    with pytest.raises(OutOfBudgetError) as ended:
        getattr(process, kind)(1, 2.0)
    assert ended.value.problem == f"{doing} took more than 2 s, which was its share."
    with pytest.raises(BenchError) as hung:
        getattr(process, kind)(4)
    assert hung.value.problem == "a did not answer within 5 s."
    assert hung.value.hint == "It hangs, or `timeout_s` is too short."
    assert not isinstance(hung.value, OutOfBudgetError)
    assert waited == [2.0, 5.0]
    assert closed == [True, True]
    sent = [json.loads(line) for line in process._process.stdin.getvalue().splitlines()]  # type: ignore[union-attr]
    assert sent == [{"do": kind.replace("_", " "), "batch": 1}, {"do": kind.replace("_", " "), "batch": 4}]


def test_what_a_process_is_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads for OpenMP, a session of its own, text through pipes; what the user has set goes before ours."""
    started: list[Any] = []

    def popen(command: Any, **options: Any) -> Any:
        started.append((command, options))
        return SimpleNamespace(stdout=iter(["line\n"]), stdin=io.StringIO())

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    process = CandidateProcess("a", TASK, 5.0, ("program",))
    process._start()
    assert process._wait_for_line(5.0) == "line\n"
    assert process._wait_for_line(5.0) == ""
    ((command, options),) = started
    assert command == ("program",)
    assert (options["env"]["OMP_NUM_THREADS"], options["env"]["GOMP_SPINCOUNT"]) == ("3", "7")
    assert options["start_new_session"] is True
    assert options["text"] is True
    assert options["errors"] == "replace"
    assert options["stdin"] == options["stdout"] == subprocess.PIPE
    process._errors.close()


@pytest.mark.parametrize(("said", "last"), [("one\ntwo\n", "two"), ("", "no message"), ("\n \n", "no message")])
def test_a_process_that_ended_is_named_by_its_last_line(said: str, last: str) -> None:
    """With its status, which says which signal it was."""
    process = CandidateProcess("a", TASK, 5.0)
    process._process = SimpleNamespace(wait=lambda: -9)  # type: ignore[assignment]
    process._errors = io.StringIO(said)  # type: ignore[assignment]
    error = process._make_exit_error()
    assert error.problem == f"Measuring a failed: {last}"
    assert error.hint == "Its process ended with status -9; a negative one is a signal (-9: memory)."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"new_tokens": 3, "token_s": (0.5, 0.5)}, None),
        ({"new_tokens": 4, "token_s": (0.5, 0.5)}, "a gave 4 new tokens and 3 times where 3 were asked for."),
        ({"new_tokens": 3, "token_s": (0.5,)}, "a gave 3 new tokens and 2 times where 3 were asked for."),
    ],
)
def test_a_round_is_of_the_tokens_that_were_asked_for(
    found: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both counts must be right; a warm-up must also say how much memory it took."""
    process = CandidateProcess("a", TASK, 5.0)
    monkeypatch.setattr(process, "_send_request", lambda *given: reading(**found))
    if said is None:
        assert process.round(1) == reading(**found)
        with pytest.raises(BenchError, match="a did not say how much memory it took") as error:
            process.warm_up(1)
        assert error.value.hint == "Its backend is broken."
    else:
        with pytest.raises(BenchError) as error:
            process.round(1)
        assert error.value.problem == said
        assert error.value.hint == "Its timings would be of another scenario."


def test_products_are_timed_in_their_own_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both factors are BF16, or nothing is multiplied."""
    worked: list[Any] = []
    monkeypatch.setattr(ceilings, "_find_best_time", lambda work: worked.append(work()) or 1.0)
    assert ceilings._measure_float_product(torch.bfloat16) == 2 * 256 * 2560 * 2560
    assert worked[0].dtype == torch.bfloat16
