"""What is said of Ray without a cluster: the extra that is missing, room, and settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import counted_steps
import pytest

from bitnet_bench.cli.cluster_options import choose_options
from bitnet_bench.errors import UsageError
from bitnet_bench.pipeline.recipe import read_sweep
from bitnet_bench.sweeps.executors import ExecutorOptions, open_executor
from bitnet_bench.sweeps.graph import Needs
from bitnet_bench.sweeps.ray_executor import find_resources
from bitnet_bench.sweeps.ray_tasks import TaskOrder, run_order
from bitnet_bench.sweeps.step_process import share_threads


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    graph = counted_steps.make_counted_graph(tmp_path, "a")
    opened = open_executor("ray", graph, counted_steps.run_counted, ExecutorOptions())
    with pytest.raises(UsageError, match="needs Ray") as caught, opened:
        pass
    assert "bitnet-bench[ray]" in caught.value.hint


def test_an_address_where_nothing_listens_is_a_sentence(tmp_path: Path) -> None:
    """Ray itself would wait for it without a word."""
    pytest.importorskip("ray")
    graph = counted_steps.make_counted_graph(tmp_path, "a")
    options = ExecutorOptions(settings={"address": "127.0.0.1:1"})
    opened = open_executor("ray", graph, counted_steps.run_counted, options)
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1"), opened:
        pass


def make_node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


def test_a_measurement_takes_all_cores_of_the_largest_node_that_fits() -> None:
    nodes = [make_node(CPU=4, GPU=1), make_node(CPU=64), make_node(CPU=16, GPU=2)]
    needs = Needs(cpus=2, gpus=1, exclusive=True)
    step = counted_steps.make_step("out", "a", needs=needs)
    assert find_resources(step, nodes) == {"num_cpus": 16, "num_gpus": 1}
    assert share_threads(needs) == {}


def test_a_process_of_a_step_has_its_share_of_the_cores() -> None:
    assert share_threads(Needs(cpus=8, processes=4)) == {"OMP_NUM_THREADS": "2"}


def test_a_node_of_another_version_runs_nothing(tmp_path: Path) -> None:
    import json
    from dataclasses import asdict

    step = counted_steps.make_step(tmp_path, "a")
    call = {"step": step.model_dump(mode="json"), "function": "counted_steps:run_counted", "log": str(tmp_path / "log")}
    outcome = run_order(json.dumps(asdict(TaskOrder(call=call, version="0.0.1"))))
    assert "started with 0.0.1" in outcome
    assert counted_steps.read_effects(tmp_path) == []


def write_recipe(folder: Path, extra: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(f"models: {{a: demo}}\nevaluate: {{suites: [sample]}}\n{extra}", encoding="utf-8")
    return file


def test_a_recipe_and_the_command_line_say_where_steps_run(tmp_path: Path) -> None:
    wanted = read_sweep(write_recipe(tmp_path, "slurm: {partition: cpu, time: 30, setup: module load cuda}"))
    none = {"address": None, "artefacts": None}
    options = choose_options("slurm", 4, wanted, none, {"partition": "gpu", "time": None, "detach": False})
    assert options.jobs == 4
    assert options.settings == {"partition": "gpu", "time": "30", "setup": ("module load cuda",)}
    assert choose_options("local", None, wanted, none, {"partition": None}).settings == {}


def test_an_option_of_another_cluster_is_refused(tmp_path: Path) -> None:
    wanted = read_sweep(write_recipe(tmp_path, ""))
    with pytest.raises(UsageError, match="--ray-address"):
        choose_options("slurm", None, wanted, {"address": "here:1"}, {})


def test_a_wrong_setting_of_a_cluster_names_its_line(tmp_path: Path) -> None:
    from bitnet_bench.errors import BenchError

    with pytest.raises(BenchError, match=r"Line 3 of .*sweep.yaml: there is no key slurm.partitoin"):
        read_sweep(write_recipe(tmp_path, "slurm: {partitoin: gpu}"))
    with pytest.raises(BenchError, match=r"Line 3 of .*`time` must be minutes"):
        read_sweep(write_recipe(tmp_path, "slurm: {time: soon}"))
