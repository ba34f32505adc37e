"""List the parsers of what stands in the folder of a sweep or of a search, where several processes write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fuzz import mutations
from fuzz.parser import Parser

SWEEP = """\
matrix:
  checkpoints: {tiny: demo, other: demo-fp16}
  suites: [sample]
  shots: [0, 2]
  seeds: [0, 1]
  learning_rates: [1e-3]
  evaluate.temperature: [0.0, 0.5]
  exclude:
    - {checkpoints: tiny, shots: 2}
finetune: {data: [rows.jsonl], twin: true, max_steps: 2}
evaluate: {tasks: [copa], limit: 2, before: true}
measure: {prompt_tokens: 8, new_tokens: 2, rounds: 1}
needs: {finetune: {cpus: 2, memory: 16GB}, evaluate: {gpus: 0}}
ray: {address: local, retries: 1}
slurm: {time: 1-02:00:00, gres: gpu:a100, setup: module load cuda}
"""
TRAINED = (("run", ()), ("again", ("run",)), ("results", ("run", "again")))
"""Steps of a graph, and what they wait for."""


def _write_sweep(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "수도는?", "response": "서울"}\n' * 4, encoding="utf-8")
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")


def read_matrix(folder: Path) -> None:
    """Read a sweep, plan all of its steps, and claim its folder twice."""
    from bitnet_bench.pipeline.planning import plan_sweep
    from bitnet_bench.pipeline.recipe import claim_sweep_folder, read_sweep

    sweep = read_sweep(folder / "sweep.yaml")
    plan_sweep(sweep, folder / "out").graph.save()
    claim_sweep_folder(sweep, folder / "out")
    claim_sweep_folder(read_sweep(folder / "sweep.yaml"), folder / "out")


def _make_steps(folder: Path) -> list[Any]:
    from bitnet_bench.runs.jobs import EvaluateJob
    from bitnet_bench.sweeps.graph import Step

    def make(name: str, after: tuple[str, ...]) -> Step:
        out = folder / name
        job = {"model": "demo", "out": str(out), "suites": ["sample"], "tasks": ["sample:copa"]}
        return Step(
            id=name,
            kind="evaluate",
            title=name,
            job=job | {"job": EvaluateJob().model_dump(mode="json")},
            key=f"key of {name}",
            after=after,
            inputs=(str(folder / "rows.jsonl"),),
            outputs=(str(out / "record.json"),),
            folder=str(out),
            extends=after[:1],
        )

    return [make(name, after) for name, after in TRAINED]


def _make_graph(folder: Path) -> Any:
    from bitnet_bench.sweeps.graph import make_graph

    return make_graph(folder, _make_steps(folder), "fuzz")


def _write_graph(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    for name, _ in TRAINED:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "record.json").write_text("{}", encoding="utf-8")
    _make_graph(folder).save()


def read_graph(folder: Path) -> None:
    """Read the graph of a sweep, walk through it, and read the job of each step."""
    from bitnet_bench.pipeline.jobs import load_step
    from bitnet_bench.sweeps.graph import find_step, load_graph

    graph = load_graph(folder)
    for step in graph.steps:
        _ = graph.dependents[step.id], graph.find_log(step), graph.find_outcome(step)
        load_step(find_step(graph, step.id).kind, step.job)


def _write_done(folder: Path) -> None:
    from bitnet_bench.sweeps.done_index import FileIndex

    _write_graph(folder)
    graph = _make_graph(folder)
    index = FileIndex(graph, clock_ns=lambda: 1 << 62)
    for step in graph.steps:
        index.begin(step)
        index.finish(step)
    index.flush()


def read_done(folder: Path) -> None:
    """Ask the index of a sweep what is done, add to it, and ask again."""
    from bitnet_bench.sweeps.done_index import FileIndex

    graph = _make_graph(folder)
    for _ in range(2):
        index = FileIndex(graph, clock_ns=lambda: 1 << 62)
        for step in graph.steps:
            index.is_current(step)
        index.begin(graph.steps[0])
        index.finish(graph.steps[0])
        index.flush()


def _write_claim(folder: Path) -> None:
    from bitnet_bench.sweeps.claims import Claim

    Claim(folder, "step").take()


def read_claim(folder: Path) -> None:
    """Take over a step that another machine has claimed, keep it, and release it."""
    from bitnet_bench.sweeps.claims import Claim

    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    claim = Claim(folder, "step", lambda: now[0], sleep)
    claim.take()
    now[0] += 60
    assert claim.keep()
    claim.release()


def _write_outcome(folder: Path) -> None:
    from bitnet_bench.sweeps.graph import StepOutcome

    outcome = StepOutcome(id="run", is_done=False, problem="It failed.", seconds=1.5, host="node")
    (folder / "outcome.json").write_text(outcome.model_dump_json(), encoding="utf-8")
    said = {"title": "train", "done": 3, "total": 9, "note": "loss 2.5"}
    (folder / "progress.json").write_text(json.dumps(said), encoding="utf-8")


def read_outcome(folder: Path) -> None:
    """Read how a step ended, and how far it is: a damaged file is none."""
    from bitnet_bench.sweeps.step_process import load_outcome, load_progress

    load_outcome(folder / "outcome.json"), load_progress(folder / "progress.json")


class _NoQueue:
    """A queue that knows no job."""

    def list_states(self) -> dict[str, str]:
        return {}

    def explain(self, job: str) -> str:
        return ""

    def find(self, name: str) -> list[str]:
        return []

    def submit(self, jobs: Any, needs: Any, name: str, after: Any = (), *, whatever: bool = False) -> list[str]:
        return [str(at) for at, _ in enumerate(jobs)]


def _make_executor(folder: Path) -> Any:
    from bitnet_bench.pipeline.running import run_step
    from bitnet_bench.sweeps.cluster_settings import SlurmSettings
    from bitnet_bench.sweeps.slurm_executor import SlurmExecutor

    return SlurmExecutor(_make_graph(folder), run_step, SlurmSettings(), _NoQueue(), clock=lambda: 0.0)  # type: ignore[arg-type]


def _write_ledger(folder: Path) -> None:
    _write_graph(folder)
    _make_executor(folder).submit(_make_steps(folder)[:2])


def read_ledger(folder: Path) -> None:
    """Find the jobs of an earlier call, and queue what is not among them."""
    executor = _make_executor(folder)
    executor.submit(_make_steps(folder))
    executor.wait(0.0)
    executor.read_progress()


def _write_manifest(folder: Path) -> None:
    from bitnet_bench.sweeps.artefacts import ArtefactStore
    from bitnet_bench.sweeps.graph import StepOutcome

    _write_graph(folder)
    graph = _make_graph(folder)
    store = ArtefactStore(f"file://{folder}/store", folder)
    store.send_given(graph)
    store.send_outputs(graph.steps[0], "digest", StepOutcome(id="run", is_done=True))


def read_manifest(folder: Path) -> None:
    """Fetch the outputs and inputs of steps as a manifest names them."""
    from bitnet_bench.sweeps.artefacts import ArtefactStore

    graph = _make_graph(folder)
    store = ArtefactStore(f"file://{folder}/store", folder)
    store.find_outcome(graph.steps[0], "digest")
    store.fetch_outputs(graph.steps[0])
    store.digest_inputs(graph, graph.steps[1])
    store.fetch_inputs(graph, graph.steps[1])


def _write_results(folder: Path) -> None:
    import shutil

    from bitnet_bench.pipeline.board_step import BoardRun, BoardStep
    from bitnet_bench.protocols import no_display
    from fuzz.parsers import RUN

    shutil.copytree(RUN, folder / "run", dirs_exist_ok=True)
    runs = (BoardRun(folder / "run", {"shots": "0"}), BoardRun(folder / "gone", {"shots": "2"}))
    BoardStep(runs, folder / "board.html", folder / "results.json").run(no_display)


def read_results(folder: Path) -> None:
    """Print the results of a sweep as a table and as JSON."""
    from bitnet_bench.cli.output import print_json
    from bitnet_bench.cli.sweep_tables import show_results
    from bitnet_bench.pipeline.board_step import read_results

    rows = read_results(folder / "results.json")
    show_results(rows)
    print_json({"runs": rows})


GRID: Mapping[str, tuple[str, ...]] = {"learning_rate": ("1e-5..1e-2",), "epochs": ("1", "2")}


def _write_study(folder: Path) -> None:
    from bitnet_bench.training.study import ArmStudy

    study = ArmStudy(folder / "search.journal", "ternary", GRID, 0)
    for number, end in enumerate((partial(study.complete, loss=2.5), study.prune, study.fail)):
        study.propose(number)
        study.report(number, 10, 2.75)
        end(number)
    study.propose(3)


def read_study(folder: Path) -> None:
    """Go on with the study of a search, of which some trials have ended."""
    from bitnet_bench.training.study import ArmStudy

    study = ArmStudy(folder / "search.journal", "ternary", GRID, 0)
    for number in range(5):
        study.propose(number)
        study.report(number, 20, 2.25)
        study.complete(number, 2.25)


def _write_search(folder: Path) -> None:
    from bitnet_bench.runs.records import SearchRecord, Trial

    point = {"learning_rate": "0.001", "epochs": "2"}
    trial = Trial(arm="ternary", settings=point, seed=0, out=str(folder / "ternary"), validation_loss=2.5, steps=9)
    record = SearchRecord(
        grid=dict(GRID),
        seeds=1,
        trials=(trial, trial.model_copy(update={"validation_loss": None, "error": "It diverged."})),
        choice={"ternary": point},
        reasons={"ternary": "the lowest loss"},
        chosen={"ternary": (str(folder / "ternary"),)},
        studies={"ternary": "ternary 0"},
        steps={"ternary": 18},
    )
    (folder / "search.json").write_text(record.model_dump_json(indent=1), encoding="utf-8")


def read_search(folder: Path) -> None:
    """Read the record of a search and show it."""
    from bitnet_bench.cli.search_tables import show_search
    from bitnet_bench.training.search import load_search

    record = load_search(folder)
    assert record is not None
    show_search(record)


PARSERS = (
    Parser("matrix", "sweep.yaml", mutations.mutate_yaml, _write_sweep, read_matrix, 6),
    Parser("graph", "sweep.json", mutations.mutate_json, _write_graph, read_graph, 3,
           ("A step", "There is no suite")),
    Parser("done-index", "done.jsonl", mutations.mutate_lines, _write_done, read_done, 2),
    Parser("attempt-claim", "claims/step.json", mutations.mutate_json, _write_claim, read_claim, 2),
    Parser("outcome", "outcome.json", mutations.mutate_json, _write_outcome, read_outcome, 1),
    Parser("progress", "progress.json", mutations.mutate_json, _write_outcome, read_outcome, 1),
    Parser("queued-jobs", "slurm/jobs.json", mutations.mutate_json, _write_ledger, read_ledger, 2),
    Parser("manifest", "store/steps/run.json", mutations.mutate_json, _write_manifest, read_manifest, 2),
    Parser("sweep-results", "results.json", mutations.mutate_json, _write_results, read_results, 2),
    Parser("study", "search.journal", mutations.mutate_lines, _write_study, read_study, 2),
    Parser("search", "search.json", mutations.mutate_json, _write_search, read_search, 2),
)  # fmt: skip
