"""Sweeps on real clusters of this machine: two nodes of Ray, and two of SLURM. `make test-clusters` runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import counted_steps
import pytest
import slurm_cluster

from bitnet_bench.sweeps.executors import ExecutorOptions, open_executor
from bitnet_bench.sweeps.graph import Graph, Needs, make_graph
from bitnet_bench.sweeps.scheduler import SweepState, run_graph

ROOT = Path(__file__).parents[2]
TESTS = str(Path(counted_steps.__file__).parent)
STORE_BYTES = 80 * 2**20
"""Least memory that Ray takes for its objects; steps hand one another files."""
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and processes to its own end
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
NO_SLURM = slurm_cluster.find_missing() or ("" if importlib.util.find_spec("submitit") else "submitit not installed")
needs_slurm = pytest.mark.skipif(bool(NO_SLURM), reason=NO_SLURM or "there is SLURM")


@contextmanager
def start_ray(cores: int = 1, nodes: int = 2) -> Iterator[Any]:
    """Start a cluster whose head computes nothing."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH", "")))))
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES},
        )
        cluster.workers = [cluster.add_node(num_cpus=cores, object_store_memory=STORE_BYTES) for _ in range(nodes)]
        try:
            yield cluster
        finally:
            cluster.shutdown()


def run_on_ray(cluster: Any, graph: Graph, **settings: Any) -> SweepState:
    options = ExecutorOptions(settings={"address": cluster.address, **settings})
    with open_executor("ray", graph, counted_steps.run_counted, options) as executor:
        return run_graph(graph, executor)


@needs_ray
def test_a_node_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Two nodes, one killed in the middle of a step: every unit of work of every step is done once."""
    graph = counted_steps.make_counted_graph(tmp_path, "abcdef", job={"units": 6, "sleep_s": 0.5})
    with start_ray() as cluster:

        def both_compute() -> bool:
            """Whether each node is in the middle of a step, after others have ended."""
            effects = counted_steps.read_effects(tmp_path)
            ended = {name for name, what in effects if what == "end"}
            units = Counter(name for name, what in effects if what.startswith("unit") and name not in ended)
            return len(ended) >= 2 and len(units) == 2 and max(units.values()) < 5

        def kill() -> None:
            while not both_compute():
                time.sleep(0.05)
            cluster.remove_node(cluster.workers[1], allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        state = run_on_ray(cluster, graph)
        killer.join()
    assert state.list_in("done") == list(graph.steps)
    effects = counted_steps.read_effects(tmp_path)
    assert sum(what == "begin" for _, what in effects) == 7, "no step was running on the node"
    done = [effect for effect in effects if effect[1] != "begin"]
    whats = [*(f"unit-{number}" for number in range(6)), "end"]
    assert sorted(done) == sorted((name, what) for name in "abcdef" for what in whats)
    assert not list((tmp_path / "ray").iterdir())


@needs_ray
def test_nodes_without_a_common_folder_exchange_files_by_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps find what others wrote, the driver gets everything, and a second sweep runs nothing."""
    driver = tmp_path / "driver"
    driver.mkdir()
    monkeypatch.chdir(driver)
    Path("rows.txt").write_text("하나", encoding="utf-8")
    job = {"effects": str(tmp_path / "effects")}
    first = counted_steps.make_step("out", "first", inputs=("rows.txt",), job=job)
    later = [
        counted_steps.make_step("out", name, inputs=("out/first/result.json",), after=("first",), job=job)
        for name in ("second", "third")
    ]
    graph = make_graph(Path("out"), [first, *later])
    settings = {"artefacts": f"file://{tmp_path / 'store'}"}
    with start_ray() as cluster:
        state = run_on_ray(cluster, graph, node_folder=str(tmp_path / "node"), **settings)
        assert len(state.list_in("done")) == 3, state.outcomes
        again = run_on_ray(cluster, graph, node_folder=str(tmp_path / "other"), **settings)
    assert len(again.list_in("done")) == 3
    read = json.loads(Path("out/third/result.json").read_text(encoding="utf-8"))["read"]
    assert read == {"out/first/result.json": Path("out/first/result.json").read_text(encoding="utf-8")}
    assert sorted(counted_steps.read_effects(tmp_path)) == sorted(
        (name, what) for name in ("first", "second", "third") for what in ("begin", "unit-0", "end")
    )


@needs_ray
def test_the_processes_of_a_step_meet_across_nodes(tmp_path: Path) -> None:
    """A step of two processes has a place on each node; what fails in one of them fails the step."""
    needs = Needs(cpus=2, processes=2)
    graph = make_graph(tmp_path, [counted_steps.make_step(tmp_path, "pair", needs=needs, job={"tells": True})])
    broken = make_graph(tmp_path, [counted_steps.make_step(tmp_path, "broken", needs=needs, job={"dies": 9})])
    with start_ray() as cluster:
        state = run_on_ray(cluster, graph)
        failed = run_on_ray(cluster, broken)
    assert state.outcomes["pair"].is_done, state.outcomes["pair"].problem
    told = json.loads((tmp_path / "pair" / "result.json").read_text(encoding="utf-8"))["told"]
    assert (told["RANK"], told["WORLD_SIZE"]) == ("0", "2")
    assert (tmp_path / "logs" / "pair.rank1.log").exists()
    assert not failed.outcomes["broken"].is_done
    assert "SIGKILL" in failed.outcomes["broken"].problem


@needs_ray
def test_what_no_node_has_is_found_before_anything_starts(tmp_path: Path) -> None:
    from bitnet_bench.errors import UsageError

    graph = counted_steps.make_counted_graph(tmp_path, "a", needs=Needs(cpus=3), line=5)
    with start_ray() as cluster, pytest.raises(UsageError, match="Line 5: a needs 3 cores"):
        run_on_ray(cluster, graph)
    assert counted_steps.read_effects(tmp_path) == []


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Start a SLURM cluster of two nodes for the tests of this file."""
    with slurm_cluster.start_slurm() as environment:
        yield environment


@pytest.fixture
def on_slurm(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let commands of this process find the cluster."""
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH", "")))))
    return slurm


def run_on_slurm(graph: Graph, **settings: Any) -> SweepState:
    with open_executor("slurm", graph, counted_steps.run_counted, ExecutorOptions(settings=settings)) as executor:
        return run_graph(graph, executor)


@needs_slurm
def test_ready_steps_are_an_array_of_slurm(tmp_path: Path, on_slurm: dict[str, str]) -> None:
    graph = counted_steps.make_counted_graph(tmp_path, "abc")
    state = run_on_slurm(graph, partition="low", time="10")
    assert state.list_in("done") == list(graph.steps), state.outcomes
    (script,) = (tmp_path / "slurm" / "jobs").glob("*_submission.sh")
    assert "--array=0-2%3" in script.read_text(encoding="utf-8")
    assert "SLURM job" in graph.find_log("a").read_text(encoding="utf-8")


@needs_slurm
def test_a_partition_that_does_not_exist_is_found_before_anything_starts(
    tmp_path: Path, on_slurm: dict[str, str]
) -> None:
    from bitnet_bench.errors import UsageError

    graph = counted_steps.make_counted_graph(tmp_path, "a", line=3)
    with pytest.raises(UsageError, match=r"Line 3: SLURM cannot run a: .*artition"):
        run_on_slurm(graph, partition="nowhere")
    with pytest.raises(UsageError, match="SLURM cannot run a"):
        run_on_slurm(counted_steps.make_counted_graph(tmp_path, "a", needs=Needs(cpus=8)))


@needs_slurm
def test_a_job_saves_before_its_limit_and_is_queued_again(tmp_path: Path, on_slurm: dict[str, str]) -> None:
    """A limit of one minute and a signal 50 seconds before it: a step of 25 seconds takes several jobs."""
    graph = counted_steps.make_counted_graph(tmp_path, "a", job={"units": 100, "sleep_s": 0.25})
    state = run_on_slurm(graph, partition="low", time="1", signal_s=50)
    assert state.outcomes["a"].is_done, state.outcomes["a"].problem
    effects = counted_steps.read_effects(tmp_path)
    assert effects.count(("a", "begin")) > 1
    assert [what for _, what in effects if what.startswith("unit")] == [f"unit-{number}" for number in range(100)]


@needs_slurm
def test_a_job_that_is_preempted_goes_on_later(tmp_path: Path, on_slurm: dict[str, str]) -> None:
    graph = counted_steps.make_counted_graph(tmp_path, "ab", job={"units": 40, "sleep_s": 0.25})

    def preempt() -> None:
        while ("a", "unit-3") not in counted_steps.read_effects(tmp_path):
            time.sleep(0.1)
        command = ["sbatch", "--partition=high", "--array=0-1", "--output=/dev/null", "--wrap", "sleep 2"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    other = threading.Thread(target=preempt)
    other.start()
    state = run_on_slurm(graph, partition="low", time="10")
    other.join()
    assert state.list_in("done") == list(graph.steps), state.outcomes
    effects = counted_steps.read_effects(tmp_path)
    assert sum(what == "begin" for _, what in effects) > 2, "nothing was preempted"
    assert sorted(effect for effect in effects if effect[1] == "end") == [("a", "end"), ("b", "end")]


@needs_slurm
def test_a_killed_command_finds_its_jobs_again(tmp_path: Path, on_slurm: dict[str, str]) -> None:
    """The process that waits is killed; the jobs go on, and the next call waits for them and starts none twice."""
    script = f"""
        import counted_steps
        from pathlib import Path
        from bitnet_bench.sweeps.executors import ExecutorOptions, open_executor
        from bitnet_bench.sweeps.scheduler import run_graph

        graph = counted_steps.make_counted_graph(Path({str(tmp_path)!r}), "abcd", job={{"units": 10, "sleep_s": 0.3}})
        options = ExecutorOptions(settings={{"partition": "low"}})
        with open_executor("slurm", graph, counted_steps.run_counted, options) as executor:
            print(run_graph(graph, executor).outcomes["d"].is_done)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    first = subprocess.Popen(command, cwd=tmp_path)
    while ("a", "unit-1") not in counted_steps.read_effects(tmp_path):
        time.sleep(0.1)
    first.kill()
    first.wait()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.stdout == "True\n", again.stderr
    effects = counted_steps.read_effects(tmp_path)
    assert sorted(effect for effect in effects if effect[1] in ("begin", "end")) == sorted(
        (name, what) for name in "abcd" for what in ("begin", "end")
    )
    assert len(list((tmp_path / "slurm" / "jobs").glob("*_submission.sh"))) == 1


@needs_slurm
def test_a_whole_sweep_can_be_left_to_slurm(tmp_path: Path, on_slurm: dict[str, str]) -> None:
    """Jobs wait for those before them; one that fails keeps those after it from starting."""
    steps = [
        counted_steps.make_step(tmp_path, "a"),
        counted_steps.make_step(tmp_path, "b", after=("a",)),
        counted_steps.make_step(tmp_path, "broken", job={"fails": "It broke."}),
        counted_steps.make_step(tmp_path, "never", after=("broken",)),
        counted_steps.make_step(tmp_path, "report", after=("b", "never"), tolerates_failures=True),
    ]
    graph = make_graph(tmp_path, steps)
    with open_executor(
        "slurm", graph, counted_steps.run_counted, ExecutorOptions(settings={"partition": "low"})
    ) as executor:
        jobs = executor.queue_all()  # type: ignore[attr-defined]
    assert list(jobs) == [step.id for step in graph.steps]
    deadline = time.monotonic() + 120
    while ("report", "end") not in counted_steps.read_effects(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    effects = [effect for effect in counted_steps.read_effects(tmp_path) if effect[1] in ("begin", "end")]
    assert effects.index(("a", "end")) < effects.index(("b", "begin"))
    assert effects[-1] == ("report", "end")
    assert not [effect for effect in effects if effect[0] == "never"]
    state = run_on_slurm(graph, partition="low")
    assert {step.id for step in state.list_in("done")} == {"a", "b", "report"}
    assert state.outcomes["broken"].problem == "It broke."


TIMES_AND_HOSTS = {"seconds", "sha256", "environment", "counts"}
"""Fields of a record that say when, where and from which cache; the number of threads must be the same."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe of three models, three suites and two seeds, on the embedded models and rows."""
    folder = tmp_path_factory.mktemp("recipe")
    sample = ROOT / "tasks" / "sample"
    described = (sample / "suite.yaml").read_text(encoding="utf-8").splitlines()
    for suite, task in (("one", "copa"), ("two", "boolq"), ("three", "wic")):
        shutil.copytree(sample / "data" / task, folder / suite / "data" / task)
        shutil.copy(sample / f"{task}.yaml", folder / suite)
        kept = [line for line in described if not line.startswith("  - ") or f"name: {task}," in line]
        text = "\n".join(kept).replace("name: sample", f"name: {suite}", 1)
        (folder / suite / "suite.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "bitnet_bench" / "demo" / "fp16", folder / "third")
    (folder / "sweep.yaml").write_text(
        textwrap.dedent("""
            evaluate: {limit: 6}
            matrix:
              checkpoints: {ternary: demo, float: demo-fp16, third: third}
              suites: [one, two, three]
              seeds: [0, 1]
            slurm: {partition: low, time: 20}
        """),
        encoding="utf-8",
    )
    return folder / "sweep.yaml"


def start_sweep(recipe: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Start `bitnet-bench sweep` with answers of its own."""
    command = [sys.executable, "-m", "bitnet_bench", "sweep", str(recipe), "--out", str(out), "--json", *options]
    variables = {"BITNET_BENCH_CACHE": str(out.with_suffix(".answers")), "OMP_NUM_THREADS": "1", **environment}
    out.with_suffix(".answers").mkdir()
    return subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_records(out: Path) -> dict[str, Any]:
    """Return the records and samples of all runs in *out*, times and hosts apart."""
    found: dict[str, Any] = {}
    for file in sorted(out.glob("*/record.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: value for name, value in record.items() if name not in TIMES_AND_HOSTS}
        found[file.parent.name] = kept | {"threads": record["environment"]["threads"]}
    for file in sorted(out.glob("*/samples/*.jsonl")):
        found[str(file.relative_to(out))] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def local_records(recipe: Path) -> dict[str, Any]:
    """Run the sweep in processes of this machine."""
    process = start_sweep(recipe, recipe.parent / "local")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    records = read_records(recipe.parent / "local")
    assert sum(isinstance(value, dict) for value in records.values()) == 18
    return records


@needs_ray
def test_two_ray_nodes_of_which_one_is_killed_leave_the_records_of_one_machine(
    recipe: Path, local_records: dict[str, Any]
) -> None:
    out = recipe.parent / "ray"
    with start_ray() as cluster:
        process = start_sweep(recipe, out, "--on", "ray", "--ray-address", cluster.address)
        while len(list(out.glob("*/record.json"))) < 4 and process.poll() is None:
            time.sleep(0.2)
        cluster.remove_node(cluster.workers[1], allow_graceful=False)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert read_records(out) == local_records


@needs_slurm
def test_jobs_of_slurm_leave_the_records_of_one_machine(
    recipe: Path, local_records: dict[str, Any], on_slurm: dict[str, str]
) -> None:
    process = start_sweep(recipe, recipe.parent / "slurm", "--on", "slurm")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert read_records(recipe.parent / "slurm") == local_records


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_jobs_of_submitit_alone_leave_the_records_of_one_machine(recipe: Path, local_records: dict[str, Any]) -> None:
    changed = recipe.with_name("submitit.yaml")
    changed.write_text(recipe.read_text(encoding="utf-8").replace("{partition: low,", "{cluster: local,"), "utf-8")
    process = start_sweep(changed, recipe.parent / "submitit", "--on", "slurm")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert read_records(recipe.parent / "submitit") == local_records
