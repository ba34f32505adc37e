"""What commands print at 80, 120 and 200 columns is what tests/golden holds, and no word is broken at any of them.

Numbers are fixed: records are written here, and nothing is measured. The help pages stand in docs/cli.md; here they are
only looked through for broken words. `BITNET_BENCH_REWRITE_GOLDEN=1 pytest tests/test_golden_output.py` writes the
files again; look at the difference before it is committed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bitnet_bench import cli
from bitnet_bench.checkpoints.gguf.file_parity import FileParity
from bitnet_bench.checkpoints.layers import Inspection, Layer
from bitnet_bench.checkpoints.parity import CheckpointParity
from bitnet_bench.cli import (
    cache,
    checkpoints,
    data,
    evaluating,
    finetuning,
    judging,
    machine,
    measuring,
    ranking,
    rating,
    recipes,
    reporting,
    search_tables,
    sentences,
    sweep_tables,
)
from bitnet_bench.cli.doctor import Finding
from bitnet_bench.cli.output import show_runs
from bitnet_bench.cli.sweep_screen import SweepLines
from bitnet_bench.cli.tables import show
from bitnet_bench.cli.terminal import protect_streams
from bitnet_bench.comparison.comparing import compare
from bitnet_bench.comparison.conditions import Condition, ConditionResult
from bitnet_bench.data.checking import FileFindings
from bitnet_bench.data.checking import Finding as RowFinding
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.answer_cache import StoredModel
from bitnet_bench.pipeline.step_estimate import Estimate
from bitnet_bench.reports.write_board import make_view
from bitnet_bench.runs.jobs import BoardOptions, FinetuneJob
from bitnet_bench.runs.records import (
    Cost,
    Estimated,
    FinetuneRecord,
    HumanJudgement,
    JudgeAgreement,
    JudgedPart,
    JudgedScore,
    Measured,
    PositionBias,
    SearchRecord,
    Trial,
    Unavailable,
)
from bitnet_bench.sweeps.graph import Needs, Step, StepOutcome, make_graph
from bitnet_bench.sweeps.scheduler import SweepState

GOLDEN = Path(__file__).parent / "golden"
REWRITE = "BITNET_BENCH_REWRITE_GOLDEN"
WIDTHS = (80, 120, 200)
PROGRESS = re.compile(r"^.*(?:: \d+/\d+.*| \.\.\.)\n", re.MULTILINE)
"""Lines of progress, whose times differ."""
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
WITHOUT_OUTPUT = {"lm-eval": "lm-eval prints it"}
"""Commands whose output is not ours."""
Print = Callable[[], object]


def run(*words: str | Path) -> None:
    """Run a command in this process, and print its error as the program does."""
    try:
        cli.app(args=[str(word) for word in words], prog_name="bitnet-bench")
    except SystemExit:
        return
    except BenchError as error:
        sentences.print_error(str(error))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give what returns the output of a function at a width, or without one; standard error stands below a line."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("BITNET_BENCH_LANG", "en")

    def make(function: Print, width: int | None) -> str:
        if width is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        with protect_streams():
            function()
        out, err = capsys.readouterr()
        err = PROGRESS.sub("", err)
        whole = out + (f"-- standard error --\n{err}" if err else "")
        return "".join(f"{line.rstrip()}\n" for line in whole.splitlines())

    return make


@pytest.fixture
def cases(make_results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Print]:
    """Give what prints the output of each command, by command, on runs and findings that are written here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITNET_BENCH_DATA", raising=False)
    runs = make_runs(make_results)
    records = [run.record for run in runs]
    many = [records[i % 2].model_copy(update={"name": name, "costs": ()}) for i, name in enumerate(MANY)]
    trainings = make_trainings(records[0])
    checkpoint = records[0].checkpoint
    here = Path("runs")
    return {
        "quickstart": lambda: (show_runs(records), reporting.show_report(here / "quickstart/report.html")),
        "run": lambda: recipes._show_records(records, True, here / "understanding", False),
        "run --dry-run": lambda: show(sweep_tables.steps_table(PLANNED, STEPS)),
        "sweep": lambda: print_sweep(here / "many"),
        "finetune": lambda: finetuning._show_records(trainings, False),
        "finetune --search": lambda: show(search_tables.search_table(SEARCH)),
        "evaluate": lambda: evaluating._show_records(records, [here / "ternary", here / "fp16"], False),
        "evaluate of six models": lambda: show_runs(many),
        "merge": lambda: run("merge", here / "nothing"),
        "chat": lambda: run("chat", "--backend", "openai", "--model", "x", "--prompt", "안녕하세요"),
        "judge": lambda: judging.show_judged(add_judged(records), with_categories=True),
        "measure": lambda: measuring._show_records(records, ["demo"], False),
        "plan": lambda: run("plan", "--preset", "bitnet-2b-4t", "--device", "l4"),
        "inspect": lambda: print_inspection(checkpoint),
        "convert": lambda: print_conversion(checkpoint),
        "convert to gguf": lambda: sentences.print_text(checkpoints.gguf_sentence(Path("demo.gguf"), FILE_PARITY)),
        "init": lambda: checkpoints.show_created(here / "random", checkpoint),
        "push": lambda: checkpoints.show_pushed(here / "mine", "org/mine", False, ["optimizer.pt", "notes.txt"]),
        "pull": lambda: checkpoints.show_checkpoint(here / "pulled", checkpoint),
        "report": lambda: reporting.show_report(here / "report.html"),
        "leaderboard": lambda: ranking.show_ranking(
            make_view([(here / run.record.name, run) for run in runs], BoardOptions())
        ),
        "compare": lambda: print_comparison(runs),
        "suites": lambda: show(evaluating.suites_table(TASKS)),
        "backends": lambda: machine.show_backends(BACKENDS),
        "doctor": lambda: show(machine.doctor_table(FINDINGS)),
        "cache": lambda: show(cache.answers_table(ANSWERS)),
        "data check": lambda: show(data.findings_table(ROWS, 40)),
        "data stats": lambda: (show(data.lengths_table(ROWS)), show(data.histogram_table(ROWS))),
        "data convert": lambda: print_data_conversion(tmp_path),
        "rate collect": lambda: show(rating.judgement_table(JUDGEMENT)),
        "rate sheet": lambda: rating.show_sheet(Path("sheet.html"), 50, Path("sheet.key.json")),
        "errors": print_errors,
    }


NAMES = (
    *("quickstart", "run", "run --dry-run", "sweep", "finetune", "finetune --search", "evaluate"),
    *(
        "evaluate of six models",
        "merge",
        "chat",
        "judge",
        "measure",
        "plan",
        "inspect",
        "convert",
        "convert to gguf",
        "init",
        "push",
        "pull",
        "report",
        "leaderboard",
        "compare",
        "suites",
    ),
    *(
        "backends",
        "doctor",
        "cache",
        "data check",
        "data stats",
        "data convert",
        "rate collect",
        "rate sheet",
        "errors",
    ),
)


def test_every_command_has_an_output_here(cases: dict[str, Print]) -> None:
    """A new command needs one, or a reason in `WITHOUT_OUTPUT`."""
    assert set(cases) == set(NAMES)
    assert {name.split()[0] for name in NAMES} - {"errors"} == set(COMMANDS) - set(WITHOUT_OUTPUT)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_what_it_was(name: str, width: int, cases: dict[str, Print], printed: Callable[..., str]) -> None:
    """Character by character; and it is the same again, without a trace of the machine or the time."""
    file = GOLDEN / f"{name.replace(' --', '-').replace(' ', '-')}-{width}.txt"
    found = printed(cases[name], width)
    if os.environ.get(REWRITE):
        file.parent.mkdir(exist_ok=True)
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_no_word_is_broken(name: str, cases: dict[str, Print], printed: Callable[..., str]) -> None:
    """Every word at a width is one of the words where lines may be of any length; longer lines are single words."""
    whole = split_words(printed(cases[name], None))
    pieces = {piece for word in whole if "/" in word for piece in split_path(word)}
    for width in WIDTHS:
        found = printed(cases[name], width)
        assert split_words(found) - whole - pieces - NOTE == set()
        for line in found.splitlines():
            assert sentences.measure_width(line) <= width or len(line.split()) == 1, line


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", [(name,) for name in sorted(COMMANDS)] + [("data", "check"), ("rate", "sheet")])
def test_no_word_of_the_help_is_broken(words: tuple[str, ...], width: int, printed: Callable[..., str]) -> None:
    """The words of every help page at a width are those of a page without one."""
    if words[0] in WITHOUT_OUTPUT:
        pytest.skip(WITHOUT_OUTPUT[words[0]])
    found = printed(lambda: run(*words, "--help"), width)
    assert set(found.split()) == set(printed(lambda: run(*words, "--help"), 400).split())
    assert all(sentences.measure_width(line) <= width for line in found.splitlines())


def make_runs(make_results: Any) -> list[Any]:
    """Return a ternary run and its twin, scored on two tasks and measured."""
    right, wrong = [1.0] * 30 + [0.0] * 10, [1.0] * 12 + [0.0] * 28
    made = []
    for name, precision, scores, speed in (("ternary", "ternary", wrong, 152.4), ("fp16", "bf16", right, 38.125)):
        metrics: dict[str, Any] = {
            "prefill_s": measured("s", speed / 1e4),
            "prefill_tokens_per_s": measured("tokens/s", 9.5 * speed, 9.7 * speed, 9.9 * speed),
            "decode_tokens_per_s": measured("tokens/s", speed, speed + 1, speed + 4),
            "token_p95_s": measured("s", 2 / speed),
            "token_p99_s": measured("s", 3 / speed),
            "peak_bytes": measured("B", 123e6 + speed * 1e5),
            "energy_j": Unavailable(
                reason="this machine exposes no energy counter (no /sys/class/powercap/intel-rapl:*)"
            ),
        }
        cost = Cost(
            backend=name.replace("fp16", "hf"), precision=precision, prompt_tokens=128, new_tokens=32, batch=1,
            threads=2, weight_bytes={"ternary": 1000}, resident_weight_bytes=int(1e9 / speed),
            kv_bytes=2**22, metrics=metrics,
            foreign_load=0.25 if name == "fp16" else 0.0,
        )  # fmt: skip
        tasks = {"kobest:boolq": scores, "sample:summarization": right}
        made.append(make_results(name, tasks, precision=precision, costs=(cost,)))
    return made


def add_judged(records: list[Any]) -> list[Any]:
    """Return two records with what a judge said of each, and of both against each other."""
    none = Unavailable(reason="no verdict could be read")
    judged = []
    for record, value in zip(records, (7.25, 8.5), strict=True):
        mean = Estimated(value=value, interval=(value - 0.75, value + 0.75))
        part = JudgedPart(score=mean, turns=(mean, none), questions=4, complete=4)
        fields: dict[str, Any] = {
            "task": "open:komt_bench", "judge": "judge-8b", "signature": "judge:judge-8b", "prompt_sha256": "0" * 64,
            "prompt": "single-ko 1", "turns": (mean, none), "questions": 80, "verdicts": 160,
        }  # fmt: skip
        points = JudgedScore(
            **fields, mode="single", scale=(1.0, 10.0), score=mean, complete=77, unparsable=3, cut=2, is_own=True,
            reasons={"no verdict": 2, "different verdicts": 1}, categories={"writing": part, "math": part},
        )  # fmt: skip
        judged.append(record.model_copy(update={"judged": (points,)}))
    people = JudgeAgreement(
        sheet="0" * 64, raters=3, questions=50, kind="preference", share=Estimated(value=72.0, interval=(58.3, 82.5)),
        alpha=Estimated(value=0.55),
    )  # fmt: skip
    pair = JudgedScore(
        **fields, mode="pairwise", scale=(0.0, 100.0), score=Estimated(value=41.5, interval=(33.0, 50.0)), complete=80,
        unparsable=0, categories={}, opponent="fp16", wins=40, ties=53, losses=67, people=(people,),
        position=PositionBias(pairs=160, flips=31, first=Estimated(value=57.5, interval=(51.0, 64.0))),
    )  # fmt: skip
    return [judged[0].model_copy(update={"judged": (*judged[0].judged, pair)}), judged[1]]


def measured(unit: str, *readings: float) -> Measured:
    """Return a measurement with fixed readings."""
    return Measured(unit=unit, method="fixed", readings=readings)


def make_trainings(record: Any) -> list[FinetuneRecord]:
    """Return a training and its twin."""
    return [
        FinetuneRecord(
            job=FinetuneJob(model="demo", data=("rows.jsonl",), out=out, learning_rate=1e-3),
            backend="hf", base=record.checkpoint, result=record.checkpoint, rows=160, dropped_rows=2, truncated_rows=1,
            data_sha256="0" * 64, steps=40, train_loss=3.0, first_loss=5.335, last_loss=3.021, guessing_loss=8.723,
            history=(), validation=({"loss": 5.2}, {"loss": 3.4}), train_seconds=33.0, resumed_from_step=0,
            environment=record.environment, warnings=("The warm-up lasts 40 steps, as long as the run: the learning "
            "rate is at its peak in the last step only. Give more `epochs`.",) if out == "runs/mine" else (),
        )
        for out in ("runs/mine", "runs/mine-fp16")
    ]  # fmt: skip


def print_inspection(checkpoint: Any) -> None:
    """Print what `inspect` prints."""
    layers = [
        Layer(name=f"model.layers.0.mlp.{name}", rows=704, columns=256, zero_density=0.331) for name in ("up", "down")
    ]
    found = Inspection(
        checkpoint=checkpoint, layers=tuple(layers), zero_density=0.331, ternary_bits_per_weight=2.0,
        bits_per_weight=6.882, trainable=False, untrainable_because="its weights are codes only",
    )  # fmt: skip
    show(checkpoints.inspection_table(found))
    show(checkpoints.layers_table(found))


def print_conversion(checkpoint: Any) -> None:
    """Print what `convert` prints."""
    parity = CheckpointParity(
        layers=28, largest_scale_error=0.0, prompt_tokens=62, mean_logit_error=1e-6, largest_logit_error=2e-5
    )
    sentences.print_text(checkpoints.parity_sentence(parity))
    checkpoints.show_checkpoint(Path("runs/packed"), checkpoint)


def print_comparison(runs: list[Any]) -> None:
    """Print what `compare` prints."""
    found = compare(*runs)
    reporting.show_comparison(found)
    for value, holds in ((-1.0, True), (-90.0, False)):
        asked = Condition(scope="kobest", metric="accuracy", sign="<", value=value)
        reporting.show_outcome(ConditionResult(asked, -45.0, ("kobest:boolq",), holds))


def print_data_conversion(folder: Path) -> None:
    """Convert two rows."""
    (folder / "rows.jsonl").write_text('{"prompt": "안녕", "response": "반가워요."}\n' * 2, encoding="utf-8")
    (folder / "out.jsonl").unlink(missing_ok=True)
    run("data", "convert", "rows.jsonl", "out.jsonl")


def print_errors() -> None:
    """Print what misspelt names end in, and a warning."""
    run("evaluate", "--suite", "kobset")
    run("evaluate", "--suite", "kobest", "--backend", "terary")
    run("plan", "--preset", "bitnet-2b")
    run("plan", "--preset", "bitnet-2b-4t", "--device", "l40")
    run("run", "sentimnt")
    run("inspect", "nothing-is-here")
    run("measure", "demo", "--budget", "12")
    run("evaluate", "--suite", "kobest", "--precision", "q4_o")
    sentences.print_warning("runs/mine: The run made the model worse. Lower `learning_rate`, or train for more steps.")


def print_sweep(folder: Path) -> None:
    """Print the end of a sweep in which a step failed."""
    state = SweepState(make_graph(folder, PLANNED), {"fine-tune-ternary-seed0": "failed"})
    state.states |= {"evaluate-fp16-seed0": "blocked", "measure": "blocked"}
    state.blocked_by |= dict.fromkeys(("evaluate-fp16-seed0", "measure"), "fine-tune-ternary-seed0")
    said = "There is not enough memory for this.\n  Use a smaller model, batch or length."
    state.outcomes["fine-tune-ternary-seed0"] = StepOutcome(id="fine-tune-ternary-seed0", is_done=False, problem=said)
    SweepLines()(state)
    score = {"metric": "accuracy", "stderr": 1.5, "n": 400, "lower_is_better": False}
    tasks = ("kobest:boolq", "kobest:copa", "kobest:hellaswag", "klue:ynat")
    names = ("demo-kobest+klue-0shot-seed0", "EXAONE-4.0-1.2B-kobest+klue-5shot-seed1")
    rows = [
        {
            "run": name,
            "scores": [{**score, "task": task, "value": 50.0 + place} for place, task in enumerate(tasks)],
            "costs": [{"decode_tokens_per_s": 123.4}][: len(name) < 30],
        }
        for name in names
    ]
    sweep_tables.show_results(rows)
    for text in sweep_tables.list_failures(state):
        sentences.print_error(text)


MANY = (*("ternary-before", "ternary-after", "fp16-before"), *("fp16-after", "bitnet-b1.58-2B-4T", "EXAONE-4.0-1.2B"))
STEPS = {
    one.title.replace(" ", "-"): one
    for one in (
        Estimate("fine-tune ternary-seed0", True, None, None, None, "done"),
        Estimate(
            "evaluate fp16-seed0", False, 125.0, 3_500_000_000, 1_000_000, "1,234 requests of the rows", "23 GFLOP/s"
        ),
        Estimate(
            "measure", False, None, None, None, "classification:nsmc has no local rows, and the hub cannot be reached."
        ),
    )
}
PLANNED = [
    Step(
        id=name,
        kind="measure" if name == "measure" else "evaluate",
        title=one.title,
        job={},
        key=name,
        after=tuple(STEPS)[:number],
        needs=Needs(cpus=2, gpus=number, exclusive=name == "measure"),
    )
    for number, (name, one) in enumerate(STEPS.items())
]
SEARCH = SearchRecord(
    grid={"learning_rate": ("1e-3", "1e-4")},
    seeds=1,
    trials=(
        Trial(arm="ternary", settings={"learning_rate": "1e-3"}, seed=0, out="runs/s/a", validation_loss=3.21),
        Trial(
            arm="fp16",
            settings={"learning_rate": "1e-4"},
            seed=0,
            out="runs/s/b",
            validation_loss=None,
            error="diverged",
        ),
    ),
    chosen={"ternary": ("runs/s/a",)},
)
FILE_PARITY = FileParity(
    architecture="bitnet", types={"F16": 4_600_000, "TQ2_0": 580_000}, ternary_layers=28, largest_scale_error=0.0,
    largest_float_error=2e-4,
)  # fmt: skip
ROW_LICENCES = ("CC BY-SA 4.0", "free for any purpose, acknowledgement of Google LLC appreciated", "Apache-2.0")
TASKS = [
    {
        "suite": suite,
        "task": task,
        "rows": rows,
        "metrics": [metric],
        "chance": 50.0,
        "licence": licence,
        "from": origin,
    }
    for (suite, task, rows, metric, origin), licence in zip(
        (
            ("kobest", "boolq", None, "macro_f1", "skt/kobest_v1"),
            ("classification", "pawsx_ko", 2000, "accuracy", "google-research-datasets/paws-x"),
            ("translation", "korean_parallel_news_en_ko", None, "bleu", "`rows=translation:own_en_ko=FILE`"),
        ),
        ROW_LICENCES,
        strict=True,
    )
]
BACKENDS = [
    {"name": "bitnetcpp", "installed": False, "runs": True, "trains": False, "runtime": "It needs your own build.",
     "hint": "Build microsoft/BitNet and name its folder with `bitnetcpp_dir`.", "summary": "your build of BitNet"},
    {"name": "llamacpp", "installed": False, "runs": True, "trains": False, "runtime": "llama.cpp is not installed.",
     "hint": "pip install 'bitnet-bench[llamacpp]', or name a build of your own with `libllama`.",
     "summary": "llama.cpp (extra `llamacpp`, or your build): F16, BF16, Q8_0, Q4_0, TQ1_0, TQ2_0 and Q2_0"},
    {"name": "hf", "installed": True, "runs": True, "trains": True, "runtime": "PyTorch 2.13.0, transformers 5.23.0",
     "hint": "", "summary": "transformers on PyTorch: trains (ternary QAT, FP16) and runs every precision"},
]  # fmt: skip
FINDINGS = [
    Finding(what="processor", ok=True, found="AMD EPYC (avx2 avx512f avx512_vnni avx512_bf16), 2 cores, 25 GB"),
    Finding(what="GPU", ok=False, found="this machine shows no NVIDIA GPU", remedy="Everything runs on the CPU."),
    Finding(what="bitnet.cpp", ok=False, found="not here", remedy="Name its folder with `bitnetcpp_dir`."),
    Finding(what="energy of the CPU (RAPL)", ok=False, remedy="pip install 'bitnet-bench[zeus,codecarbon]'",
            found="this machine exposes no energy counter (no /sys/class/powercap/intel-rapl:*)"),
]  # fmt: skip
ANSWERS = [
    StoredModel(1, {"model": model, "precision": "ternary", "backend": "ternary", "software": "torch 2.13.0+cpu"}, 456,
                30_000, "2026-11-26T17:39:00")
    for model in ("demo", "/home/kim/고객사/models/understanding/quickstart-3.13/ternary")
]  # fmt: skip
ROWS = FileFindings(
    file="rows.jsonl",
    lines=160,
    findings=(
        RowFinding(3, "bad", 'has no "response": every row needs "prompt" and "response"'),
        RowFinding(17, "duplicate", "is the same as row 4"),
    ),
    tokens=[8, 12, 13, 40, 41, 90],
    response_tokens=[3, 4, 5, 6, 7, 8],
)
JUDGEMENT = HumanJudgement(
    sheet="0" * 64, a="ternary", b="fp16", a_sha256="0" * 64, b_sha256="1" * 64, tasks=("sample:qa",), items=50,
    raters=("kim", "lee"), wins_a=20, ties=10, wins_b=20, win_rate=Estimated(value=50.0, interval=(36.6, 63.4)),
    scales={"fluency": {"a": Estimated(value=3.9), "b": Estimated(value=4.1),
                        "difference": Estimated(value=-0.2, interval=(-0.5, 0.1))}},
    alpha={"preference": Estimated(value=0.61), "fluency": Unavailable(reason="all ratings are the same")},
)  # fmt: skip


def split_words(text: str) -> set[str]:
    r"""Return the words of *text* without the lines of tables, punctuation, and the \ of a command that goes on."""
    return {word.strip(",.:") for word in text.replace(" \\\n", "\n").split()} - {""} - {"─" * n for n in range(1, 201)}


def split_path(word: str) -> list[str]:
    """Return the parts into which a path may be broken after its slashes."""
    parts = [f"{part}/" for part in word.split("/")]
    parts[-1] = parts[-1].removesuffix("/")
    return ["".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]


NOTE = set("Not shown at this width A wider terminal or --json --format md shows all columns".split())  # noqa: SIM905 - a sentence
"""Words of the line that names the columns left out."""
