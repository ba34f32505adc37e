"""A matrix becomes recipes, and what is wrong in it is found before anything starts, with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.pipeline.planning import SweepPlan, plan_sweep
from bitnet_bench.pipeline.recipe import claim_sweep_folder, read_recipe, read_sweep
from bitnet_bench.sweeps.done_index import FileIndex

SWEEP = """\
matrix:
  checkpoints: [demo, demo-fp16]
  suites:
    - sample
  shots: [0, 2]
  seeds: [0, 1]
  exclude:
    - {checkpoints: demo, shots: 2}
evaluate:
  tasks: [copa]
  limit: 2
"""
TRAINED = """\
matrix:
  checkpoints: {tiny: demo}
  learning_rates: [1e-3, 0.01]
  seeds: [0, 1]
  shots: [0, 2]
finetune:
  data: [rows.jsonl]
  twin: true
  max_steps: 2
evaluate: {suites: [sample], tasks: [copa], limit: 2, before: true}
measure: {prompt_tokens: 8, new_tokens: 2, rounds: 1}
"""


def write(folder: Path, text: str) -> Path:
    """Write a sweep beside its rows."""
    (folder / "rows.jsonl").write_text('{"prompt": "수도는?", "response": "서울"}\n' * 4, encoding="utf-8")
    file = folder / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def plan(folder: Path, text: str, out: str = "out") -> SweepPlan:
    return plan_sweep(read_sweep(write(folder, text)), folder / out)


def test_every_combination_that_is_not_excluded_is_a_run(tmp_path: Path) -> None:
    made = plan(tmp_path, SWEEP)
    assert [step.id.removeprefix("evaluate-") for step in made.graph.steps] == [
        "demo-sample-0shot-seed0",
        "demo-sample-0shot-seed1",
        *(f"demo-fp16-sample-{shots}shot-seed{seed}" for shots in (0, 2) for seed in (0, 1)),
        "results",
    ]
    assert made.graph.by_id["results"].after == tuple(step.id for step in made.graph.steps[:-1])
    job = made.graph.by_id["evaluate-demo-fp16-sample-2shot-seed1"].job
    assert (job["model"], job["job"]["shots"], job["job"]["seed"]) == ("demo-fp16", 2, 1)


def test_what_combinations_have_in_common_is_one_step(tmp_path: Path) -> None:
    """Shots decide nothing about a training, nor a seed about what is scored before it, or about costs."""
    steps = plan(tmp_path, TRAINED).graph.steps
    kinds = [step.kind for step in steps]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "evaluate": 2 * 2 + 2 * 2 * 2 * 2,  # before: arms x shots; after: arms x rates x seeds x shots
        "finetune": 2 * 2 * 2,
        "measure": 1,
        "board": 1,
    }
    trained = {step.id: step for step in steps if step.kind == "finetune"}
    assert list(trained) == [
        f"finetune-{arm}-tiny-lr{rate}-seed{seed}"
        for rate in ("0.001", "0.01")
        for seed in (0, 1)
        for arm in ("ternary", "fp16")
    ]
    scored = next(step for step in steps if step.id == "evaluate-ternary-tiny-lr0.01-seed1-after-2shot")
    assert scored.after == ("finetune-ternary-tiny-lr0.01-seed1",)
    (measure,) = (step for step in steps if step.kind == "measure")
    assert measure.needs.exclusive
    assert measure.extends == tuple(f"evaluate-{arm}-tiny-lr0.001-seed0-after-0shot" for arm in ("ternary", "fp16"))


def test_twins_have_names_that_a_report_knows(tmp_path: Path) -> None:
    folders = [folder.name for folder in plan(tmp_path, TRAINED).run_folders]
    ternary = [name for name in folders if name.startswith("ternary")]
    assert sorted(name.replace("ternary", "fp16", 1) for name in ternary) == sorted(set(folders) - set(ternary))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  shots: [0, 2]", "  shotz: [0, 2]", ["Line 5", "no axis matrix.shotz", "Did you mean shots?"]),
        ("matrix:", "matrx:", ["Line 1", "no key matrx", "Did you mean matrix?"]),
        ("  shots: [0, 2]", "  shots: []", ["Line 5", "matrix.shots has no values"]),
        ("  shots: [0, 2]", "  shots: 2", ["Line 5", "matrix.shots is not a list"]),
        ("  shots: [0, 2]", "  shots:\n    - 0\n    - 2\n    - two", ["Line 8", "evaluate.shots", "integer"]),
        ("  shots: [0, 2]", "  shots: [0, 0]", ["Line 5", "two values", "0shot"]),
        ("    - sample", "    - sampel", ["Line 4", "no suite 'sampel'", "Did you mean sample?"]),
        ("tasks: [copa]", "tasks: [cops]", ["Line 4", "No task 'cops'", "Did you mean copa?"]),
        ("[demo, demo-fp16]", "[demo, ./nothing]", ["Line 2", "no checkpoint ./nothing"]),
        ("[demo, demo-fp16]", "[demo, models/mine.gguf]", ["Line 2", "no checkpoint models/mine.gguf"]),
        ("  shots: [0, 2]", "  backends: [hf, terary]\n  shots: [2]", ["Line 5", "no backend 'terary'"]),
        ("  shots: [0, 2]", "  learning_rates: [0.1]", ["Line 5", "finetune.learning_rate", "no finetune"]),
        (
            "  shots: [0, 2]",
            "  shots: [2]\n  evaluate.shot: [0]",
            ["Line 6", "no key evaluate.shot", "Did you mean shots?"],
        ),
        ("  shots: [0, 2]", "  shots: [0]\n  evaluate.shots: [2]", ["Line 6", "set the same key"]),
        ("{checkpoints: demo, shots: 2}", "{checkpoints: dmo}", ["Line 8", "dmo is not among", "Did you mean demo?"]),
        ("{checkpoints: demo, shots: 2}", "{checkpoint: demo}", ["Line 8", "no axis checkpoint", "checkpoints?"]),
        ("{checkpoints: demo, shots: 2}", "{shots: [0, 2]}", ["Line 7", "leaves no combination"]),
        ("{checkpoints: demo, shots: 2}", "demo", ["Line 8", "names axes and values"]),
        ("  shots: [0, 2]", "  shots: [2]\n  1: [0]", ["Line 6", "no axis matrix.1"]),
        ("  shots: [0, 2]", "  shots: [2]\n  null: [0]", ["no axis matrix.None"]),
        ("{checkpoints: demo, shots: 2}", "{2: demo}", ["Line 8", "no axis 2 to exclude"]),
        ("  limit: 2\n", "  limit: 2\nneeds: {evaluate: {gpu: 1}}\n", ["Line 12", "no key needs.evaluate.gpu"]),
        ("  limit: 2\n", "  limit: 2\nneeds: {evaluate: {memory: lots}}\n", ["Line 12", "needs.evaluate.memory"]),
    ],
)
def test_a_wrong_matrix_is_a_sentence_with_its_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    """Before anything is written."""
    assert old in SWEEP
    with pytest.raises(BenchError) as raised:
        plan(tmp_path, SWEEP.replace(old, new, 1))
    for word in [*words, "sweep.yaml"]:
        assert word in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_of_one_name_need_names_of_their_own(tmp_path: Path) -> None:
    """Their runs would share folders."""
    twice = SWEEP.replace("[demo, demo-fp16]", "[a/demo, b/demo]")
    with pytest.raises(BenchError, match=r"Line 2 .*runs would be called demo after: a/demo and b/demo"):
        plan(tmp_path, twice)
    named = SWEEP.replace("[demo, demo-fp16]", "{demo: demo, other: demo}")
    folders = [folder.name for folder in plan(tmp_path, named).run_folders]
    assert not any(name.startswith("other-sample-0shot") for name in folders), "it is the same run under two names"


def test_two_runs_that_would_share_a_folder_are_named_with_their_lines(tmp_path: Path) -> None:
    """One of the recipe's own models, and one of the matrix."""
    text = "models:\n  ternary-tiny-lr0.001-seed0-after: demo-fp16\n" + TRAINED
    with pytest.raises(
        BenchError, match=r"^Lines 2 and 4: .*would both write .*ternary-tiny-lr0\.001-seed0-after-0shot"
    ):
        plan(tmp_path, text)


def test_a_training_that_starts_from_its_own_result_is_a_cycle(tmp_path: Path) -> None:
    own = tmp_path / "out/models/ternary-own-lr0.001-seed0"
    own.mkdir(parents=True)
    text = TRAINED.replace("{tiny: demo}", f"\n    own: {own}").replace("before: true", "before: false")
    with pytest.raises(BenchError, match=r"Line 3: steps wait for one another: finetune-ternary-own"):
        plan(tmp_path, text.replace("[1e-3, 0.01]", "[1e-3]").replace("seeds: [0, 1]", "seeds: [0]"))


def test_a_model_of_another_step_is_waited_for(tmp_path: Path) -> None:
    """A path that a training writes is that training's result, be it there or not."""
    path = tmp_path / "out/models/ternary"
    text = f"""\
models: {{again: {path}}}
finetune: {{data: [rows.jsonl], max_steps: 2}}
evaluate: {{suites: [sample]}}
"""
    graph = plan(tmp_path, text).graph
    assert graph.by_id["evaluate-again"].after == ("finetune-ternary",)


def test_rows_that_are_not_here_are_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    kobest = SWEEP.replace("    - sample", "    - kobest").replace("tasks: [copa]", "tasks: [boolq]")
    file = write(tmp_path, kobest)
    with pytest.raises(BenchError, match=r"Line 4 of .*: There is no .*boolq.*, which has rows of kobest:boolq"):
        plan_sweep(read_sweep(file), tmp_path / "out", tmp_path / "data")
    missing = TRAINED.replace("rows.jsonl", "raws.jsonl")
    with pytest.raises(BenchError, match=r"There is no file raws\.jsonl"):
        plan(tmp_path, missing)


def test_a_matrix_may_grow_and_its_recipe_may_not_change(tmp_path: Path) -> None:
    """A further seed or checkpoint leaves the runs that there are; another setting would mix two sweeps."""
    out = tmp_path / "out"
    claim_sweep_folder(read_sweep(write(tmp_path, SWEEP)), out)
    grown = SWEEP.replace("seeds: [0, 1]", "seeds: [0, 1, 2]")
    claim_sweep_folder(read_sweep(write(tmp_path, grown)), out)
    assert len(read_sweep(out / "recipe.yaml").cells) == len(read_sweep(write(tmp_path, grown)).cells)
    with pytest.raises(BenchError, match=r"the folder of another recipe: evaluate\.limit differ"):
        claim_sweep_folder(read_sweep(write(tmp_path, SWEEP.replace("limit: 2", "limit: 3"))), out)


def test_the_copy_in_the_folder_is_the_same_sweep(tmp_path: Path) -> None:
    """Wherever it is read: paths of files beside the recipe are whole."""
    file = write(tmp_path, TRAINED)
    claim_sweep_folder(read_sweep(file), tmp_path / "out")
    copied, first = read_sweep(tmp_path / "out/recipe.yaml"), read_sweep(file)
    assert [one.recipe for one in copied.cells] == [one.recipe for one in first.cells]


def test_one_recipe_is_asked_for_and_a_matrix_is_several(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=re.escape("Line 1 of") + ".*a matrix stands for several recipes"):
        read_recipe(write(tmp_path, SWEEP))


def test_needs_are_those_of_the_recipe_and_else_of_the_model(tmp_path: Path) -> None:
    said = SWEEP + "needs: {evaluate: {cpus: 4, gpus: 2, processes: 2, memory: 16GiB}}\n"
    needs = plan(tmp_path, said).graph.steps[0].needs
    assert (needs.cpus, needs.gpus, needs.processes, needs.memory_bytes) == (4, 2, 2, 16 * 2**30)
    chosen = plan_sweep(read_sweep(write(tmp_path, SWEEP)), tmp_path / "out", gpus=1).graph
    assert [step.needs.gpus for step in chosen.steps] == [1] * 6 + [0]
    assert 600e6 < chosen.steps[0].needs.memory_bytes < 700e6


def test_a_thousand_steps_are_looked_up_once_for_each_model_and_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What combinations share costs nothing twice: that is what planning them in two seconds rests on."""
    from bitnet_bench.pipeline import known, planning

    asked: list[str] = []
    select, count = known.select_tasks, planning.count_parameters
    monkeypatch.setattr(known, "select_tasks", lambda *given: asked.append("tasks") or select(*given))
    monkeypatch.setattr(planning, "count_parameters", lambda model: asked.append(model) or count(model))
    seeds = ", ".join(map(str, range(250)))
    graph = plan(tmp_path, SWEEP.replace("seeds: [0, 1]", f"seeds: [{seeds}]")).graph
    assert len(graph.steps) == 751
    assert asked == ["tasks", "demo", "demo-fp16"]
    assert not any(map(FileIndex(graph).is_current, graph.steps))
