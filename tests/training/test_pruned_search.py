"""`finetune --find-lr` and `--prune halving`: both arms with the same budget, the better half goes on, resumable."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.cli.search_tables import search_table
from bitnet_bench.errors import BenchError, DivergedError, UsageError
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.runs.records import SearchRecord, Trial
from bitnet_bench.training.finetune import make_twin_job
from bitnet_bench.training.halving import Rung, count_whole_runs, plan_rungs, shorten_job
from bitnet_bench.training.ladder import make_ladders
from bitnet_bench.training.search import count_settings, load_search, run_search

ROWS = [{"prompt": f"{i} 다음 수는?", "response": f"{i + 1}입니다."} for i in range(32)]
WHOLE = 160
"""Steps of a whole run of the fake trainer."""
RATES = ("1e-4", "2e-4", "4e-4", "8e-4", "16e-4", "32e-4", "64e-4")


class KilledError(Exception):
    """Ends a run in the middle."""


def write_rows(folder: Path) -> str:
    """Write `ROWS` into *folder* and return the file."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return str(file)


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, FinetuneJob]:
    """Give both arms of a job with held-out rows."""
    job = FinetuneJob(data=(write_rows(tmp_path),), out=str(tmp_path / "job"), hold_out=0.25, max_steps=WHOLE)
    return {"ternary": job, "fp16": make_twin_job(job, None)}


Loss = Callable[[FinetuneJob], float]
FakeTrainer = Callable[[Mapping[str, Loss]], list[FinetuneJob]]


@pytest.fixture
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> FakeTrainer:
    """Give what replaces training: each arm's loss is a function of its job, infinite for one that diverges."""

    def install(losses: Mapping[str, Loss]) -> list[FinetuneJob]:
        seen: list[FinetuneJob] = []

        def train(job: FinetuneJob, backend: str, steps: Any) -> Any:
            seen.append(job)
            loss = losses[job.precision](job)
            if loss == float("inf"):
                raise DivergedError("The loss rose to 99 at step 3.", step=3)
            return SimpleNamespace(validation=({"loss": 9.0}, {"loss": loss}), steps=job.max_steps)

        monkeypatch.setattr("bitnet_bench.training.search.finetune", train)
        return seen

    return install


def best_at(rate: float) -> Loss:
    """Return a loss that is lowest at *rate*."""
    return lambda job: 1 + abs(job.peak_rate - rate) / rate


def search(arms: Mapping[str, FinetuneJob], out: Path, seeds: int = 1, rates: tuple[str, ...] = RATES) -> SearchRecord:
    """Return the record of a search over *rates* that is pruned."""
    return run_search(arms, {"learning_rate": rates}, seeds, out, "hf", no_display, prune="halving")


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        (1, []),
        (2, [Rung(2, 1 / 2)]),
        (3, [Rung(3, 1 / 4), Rung(2, 1 / 2)]),
        (7, [Rung(7, 1 / 8), Rung(4, 1 / 4), Rung(2, 1 / 2)]),
        (8, [Rung(8, 1 / 8), Rung(4, 1 / 4), Rung(2, 1 / 2)]),
    ],
)
def test_half_of_the_settings_go_on_in_runs_of_twice_the_length(settings: int, rungs: list[Rung]) -> None:
    assert plan_rungs(settings, prunes=True) == rungs


def test_seven_settings_cost_less_than_three_whole_runs() -> None:
    assert count_whole_runs(7, prunes=True) == 2.875
    assert count_whole_runs(7, prunes=False) == 7


def test_a_short_run_has_its_share_of_everything_that_is_counted(arms: dict[str, FinetuneJob]) -> None:
    job = arms["ternary"].model_copy(update={"epochs": 4.0, "max_steps": 90, "ternary_warmup": 17})
    short = shorten_job(job, 1 / 8)
    assert (short.epochs, short.max_steps, short.ternary_warmup) == (0.5, 12, 2)
    assert shorten_job(job, 1.0) == job


def test_both_arms_take_the_same_runs_of_the_same_lengths_and_each_keeps_its_best(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """The arms are best at other rates, and neither is searched with a step more than the other."""
    fake_trainer({"ternary": best_at(8e-4), "fp16": best_at(2e-4)})
    found = search(arms, tmp_path / "out")
    tried = {arm: [(t.share, float(t.settings["learning_rate"])) for t in found.trials if t.arm == arm] for arm in arms}
    assert tried["ternary"] == [
        *((1 / 8, float(rate)) for rate in RATES),
        *((1 / 4, rate) for rate in (8e-4, 4e-4, 2e-4, 1e-4)),
        *((1 / 2, rate) for rate in (8e-4, 4e-4)),
        *((1.0, rate) for rate in (8e-4, 4e-4)),
    ]
    assert [share for share, _ in tried["fp16"]] == [share for share, _ in tried["ternary"]]
    assert found.count_steps("ternary") == found.count_steps("fp16") == 7 * 20 + 4 * 40 + 2 * 80 + 2 * WHOLE
    assert found.choice == {"ternary": {"learning_rate": "8e-4"}, "fp16": {"learning_rate": "2e-4"}}
    assert found.reasons["ternary"] == (
        "lowest validation loss of 2 in whole runs: 1.0000; next 1.5000 (learning_rate 4e-4)"
    )
    assert found.warnings == ()
    assert load_search(tmp_path / "out") == found


def test_the_chosen_settings_run_in_full_with_every_seed(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    seen = fake_trainer({"ternary": best_at(8e-4)})
    found = search({"ternary": arms["ternary"]}, tmp_path / "out", seeds=3)
    whole = [(job.seed, job.peak_rate, job.out) for job in seen if job.max_steps == WHOLE]
    assert [(seed, rate) for seed, rate, _ in whole] == [(0, 8e-4), (0, 4e-4), (1, 8e-4), (2, 8e-4)]
    assert found.chosen["ternary"] == tuple(out for _, rate, out in whole if rate == 8e-4)


def test_what_diverged_is_out_and_its_place_goes_to_the_best_that_was_pruned(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """1.6e-3 diverges from the second length on; 4e-4, pruned after it, has its place in the third."""

    def loss(job: FinetuneJob) -> float:
        if job.peak_rate > 3e-3 or (job.peak_rate == 16e-4 and job.max_steps != WHOLE // 8):
            return float("inf")
        return {16e-4: 1.0, 8e-4: 1.1, 4e-4: 1.2, 2e-4: 1.3, 1e-4: 1.4}[job.peak_rate]

    fake_trainer({"ternary": loss})
    found = search({"ternary": arms["ternary"]}, tmp_path / "out")
    by_share = {
        share: [(t.settings["learning_rate"], t.validation_loss) for t in found.trials if t.share == share]
        for share in (1 / 8, 1 / 4, 1 / 2, 1.0)
    }
    assert [rate for rate, lost in by_share[1 / 8] if lost is None] == ["32e-4", "64e-4"]
    assert by_share[1 / 4] == [("16e-4", None), ("8e-4", 1.1), ("4e-4", 1.2), ("2e-4", 1.3)]
    assert by_share[1 / 2] == [("8e-4", 1.1), ("4e-4", 1.2)]
    assert found.choice["ternary"] == {"learning_rate": "8e-4"}
    pruned = [trial for trial in found.trials if trial.error]
    assert {trial.error for trial in pruned} == {"The loss rose to 99 at step 3."}
    assert {trial.steps for trial in pruned} == {3}


def test_the_next_best_is_trained_if_the_best_diverges_in_the_whole_length(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    best = best_at(8e-4)
    fake_trainer(
        {"ternary": lambda job: float("inf") if (job.peak_rate, job.max_steps) == (8e-4, WHOLE) else best(job)}
    )
    found = search({"ternary": arms["ternary"]}, tmp_path / "out")
    assert found.choice["ternary"] == {"learning_rate": "4e-4"}
    assert found.chosen["ternary"] == (str(tmp_path / "out/ternary/learning_rate=4e-4/seed0"),)
    assert found.reasons["ternary"] == "lowest validation loss of 2 in whole runs: 1.5000"


def test_a_loss_that_is_no_number_is_no_choice(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    fake_trainer({"ternary": lambda job: float("nan")})
    with pytest.raises(BenchError, match="Every trial of ternary diverged"):
        search({"ternary": arms["ternary"]}, tmp_path / "out")
    found = load_search(tmp_path / "out")
    assert found is not None
    assert {trial.error for trial in found.trials} == {"The validation loss became nan."}


@pytest.mark.parametrize(("best", "end"), [(1e-4, "lowest"), (64e-4, "highest"), (8e-4, None)])
def test_a_best_rate_at_an_end_of_the_ladder_is_warned_of(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer, best: float, end: str | None
) -> None:
    fake_trainer({"ternary": best_at(best), "fp16": best_at(8e-4)})
    found = search(arms, tmp_path / "out")
    assert [f"is the {end} of those tried" in warning for warning in found.warnings] == ([True] if end else [])
    assert all("best learning rate of ternary" in warning for warning in found.warnings)


def test_runs_too_short_to_tell_settings_apart_are_warned_of(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    fake_trainer({"ternary": best_at(8e-4)})
    short = arms["ternary"].model_copy(update={"max_steps": 40})
    (warning,) = search({"ternary": short}, tmp_path / "out").warnings
    assert warning.startswith("The shortest runs had 5 steps, too few to tell settings apart.")


def test_a_search_that_is_looked_at_again_and_stopped_keeps_its_record(
    arms: dict[str, FinetuneJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, stopped while it compares the first finished runs with what they were made of."""
    calls = 0

    def train(job: FinetuneJob, backend: str, steps: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 17 + 3:  # in the second search, after two runs of its first rung
            raise KeyboardInterrupt
        Path(job.out).mkdir(parents=True, exist_ok=True)
        (Path(job.out) / "finetune.json").touch()
        return SimpleNamespace(validation=({"loss": best_at(8e-4)(job)},), steps=job.max_steps)

    monkeypatch.setattr("bitnet_bench.training.search.finetune", train)
    found = search({"ternary": arms["ternary"]}, tmp_path / "out", seeds=3)
    assert calls == 17
    with pytest.raises(KeyboardInterrupt):
        search({"ternary": arms["ternary"]}, tmp_path / "out", seeds=3)
    assert load_search(tmp_path / "out") == found


@pytest.mark.parametrize(("long", "is_warned"), [(4e-4, True), (8e-4, False)])
def test_a_best_rate_that_falls_with_the_length_is_warned_of(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer, long: float, is_warned: bool
) -> None:
    """Short runs favour high rates: the warning names the next lower rate, and how to compare the two in whole runs."""
    fake_trainer({"fp16": lambda job: best_at(8e-4 if job.max_steps != WHOLE else long)(job)})
    warnings = search({"fp16": arms["fp16"]}, tmp_path / "out").warnings
    assert ["fell as the runs grew longer (8e-4, 8e-4, 8e-4, 4e-4)" in warning for warning in warnings] == (
        [True] if is_warned else []
    )
    assert all("`search=lr=2e-4,4e-4` in the same `out`" in warning for warning in warnings)


def test_the_best_is_compared_in_a_whole_run_with_the_next_lower_rate(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """Or, for the lowest, with the next higher one, so that both arms take as many steps."""
    lower = best_at(4e-4)
    fake_trainer(
        {
            "ternary": lambda job: (lower if job.max_steps == WHOLE else best_at(8e-4))(job),
            "fp16": best_at(1e-4),
        }
    )
    found = search(arms, tmp_path / "out")
    assert found.choice == {"ternary": {"learning_rate": "4e-4"}, "fp16": {"learning_rate": "1e-4"}}
    whole = [(t.arm, t.settings["learning_rate"]) for t in found.trials if t.share == 1]
    assert whole == [("ternary", "8e-4"), ("ternary", "4e-4"), ("fp16", "1e-4"), ("fp16", "2e-4")]
    assert found.count_steps("ternary") == found.count_steps("fp16")


@pytest.mark.parametrize(("whole", "is_warned"), [(1.6, True), (1.4, False)])
def test_a_whole_run_that_ends_above_its_half_is_warned_of(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer, whole: float, is_warned: bool
) -> None:
    best = best_at(8e-4)
    fake_trainer({"fp16": lambda job: whole if job.max_steps == WHOLE else 0.5 + best(job)})
    warnings = search({"fp16": arms["fp16"]}, tmp_path / "out").warnings
    assert [
        "The whole run of fp16 ended at a validation loss of 1.6000, above 1.5000 after 1/8 of its length" in warning
        for warning in warnings
    ] == ([True] if is_warned else [])


def test_arms_of_different_lengths_are_warned_of(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """Such as a twin whose tokenizer makes more sequences of the same rows."""
    fake_trainer({"ternary": best_at(8e-4), "fp16": best_at(8e-4)})
    longer = {**arms, "fp16": arms["fp16"].model_copy(update={"max_steps": 2 * WHOLE})}
    (warning,) = search(longer, tmp_path / "out").warnings
    assert "other steps in one arm" in warning


def test_a_ladder_is_around_the_default_of_each_arm_or_the_rate_that_is_given(
    arms: dict[str, FinetuneJob], tiny_model: Callable[[str], Path]
) -> None:
    """Neighbours differ by a factor of two, and the middle one of seven is what a run without a search has."""
    assert make_ladders(arms)["ternary"] == ("0.000125", "0.00025", "0.0005", "0.001", "0.002", "0.004", "0.008")
    given = {arm: job.model_copy(update={"learning_rate": 3e-4}) for arm, job in arms.items()}
    assert {ladder[3] for ladder in make_ladders(given).values()} == {"0.0003"}
    preference = {arm: job.model_copy(update={"method": "dpo"}) for arm, job in arms.items()}
    assert {ladder[3] for ladder in make_ladders(preference).values()} == {"0.0001"}


def test_each_arm_climbs_its_own_ladder(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """Rates of the ladder are crossed with the grid, for each arm its own, in as many runs."""
    seen = fake_trainer({"ternary": best_at(2e-3), "fp16": best_at(2e-4)})
    ladders = {"ternary": ("1e-3", "2e-3", "4e-3"), "fp16": ("1e-4", "2e-4", "4e-4")}
    found = run_search(
        arms, {"weight_decay": ["0", "0.1"]}, 1, tmp_path / "out", "hf", no_display, prune="halving", ladders=ladders
    )
    first = {arm: [job for job in seen if job.precision == arm][:6] for arm in arms}
    for arm, ladder in ladders.items():
        assert {(job.weight_decay, job.peak_rate) for job in first[arm]} == {
            (decay, float(rate)) for decay in (0.0, 0.1) for rate in ladder
        }
    assert found.ladders == ladders
    assert found.choice["fp16"]["learning_rate"] == "2e-4"
    assert found.count_steps("ternary") == found.count_steps("fp16")


def test_the_settings_of_a_plan_are_counted_before_it_runs() -> None:
    assert count_settings(Arms(search=("epochs=1,2", "lr=1e-4,2e-4,4e-4"))) == 6
    assert count_settings(Arms(search=("epochs=1,2",), find_learning_rate=True)) == 14


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"prune": "halving"}, "`prune` shortens a `search`, and there is none"),
        ({"find_learning_rate": True, "search": ("lr=1,2",)}, "both say which learning rates"),
        ({"find_learning_rate": True, "search": ("learning_rate=1,2",)}, "both say which learning rates"),
    ],
)
def test_searches_that_contradict_themselves_are_refused(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Arms(**wanted)


def test_an_older_record_is_read_and_written_as_it_was() -> None:
    """A search.json from before pruning has no lengths, ladders or reasons."""
    trial = {
        "arm": "ternary",
        "settings": {"epochs": "2"},
        "seed": 0,
        "out": "a",
        "validation_loss": 1.5,
        "error": None,
    }
    old = {"schema_version": 1, "grid": {"epochs": ["2"]}, "seeds": 1, "trials": [trial], "chosen": {"ternary": ["a"]}}
    assert SearchRecord.model_validate(old).model_dump(mode="json") == old


def test_the_table_has_a_column_for_each_length_and_says_what_diverged() -> None:
    trials = (
        Trial(arm="fp16", settings={"epochs": "2"}, seed=0, out="a/1of2", validation_loss=1.5, share=0.5, steps=4),
        Trial(arm="fp16", settings={"epochs": "4"}, seed=0, out="b/1of2", validation_loss=None, share=0.5, error="E."),
        Trial(arm="fp16", settings={"epochs": "2"}, seed=0, out="a", validation_loss=1.25, steps=8),
    )
    table = search_table(SearchRecord(grid={}, seeds=1, trials=trials, chosen={"fp16": ("a",)}))
    assert [column.header for column in table.columns][3:] == ["loss, 1/2", "loss, whole", ""]
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert cells == [
        ("fp16", "epochs 2", "0", "1.5000", "1.2500", "chosen"),
        ("fp16", "epochs 4", "0", "diverged", "—", ""),
    ]


def test_find_lr_shows_what_it_chose_and_why_for_both_arms(
    arms: dict[str, FinetuneJob], tmp_path: Path, fake_trainer: FakeTrainer
) -> None:
    """The table, a sentence for each arm with the steps it took, and the warning; all of it in JSON as well."""
    fake_trainer({"ternary": best_at(8e-3), "fp16": best_at(1e-3)})
    words = ["finetune", "--data", *arms["ternary"].data, "--hold-out", "0.25", "--max-steps", str(WHOLE), "--twin"]
    shown = CliRunner().invoke(app, [*words, "--find-lr", "--out", str(tmp_path / "shown")])
    assert shown.exit_code == 0, shown.output
    assert "Chosen for ternary: learning_rate 0.008, lowest validation loss of 2 in whole runs" in shown.stdout
    assert "Chosen for fp16: learning_rate 0.001" in shown.stdout
    assert shown.stdout.count("Steps of this arm: 780.") == 2
    assert "Warning: The best learning rate of ternary, 0.008, is the highest of those tried" in shown.stderr
    assert "with --find-lr and --lr 0.008" in shown.stderr
    given = CliRunner().invoke(app, [*words, "--find-lr", "--json", "--out", str(tmp_path / "given")])
    found = json.loads(given.stdout)
    assert found["choice"] == {"ternary": {"learning_rate": "0.008"}, "fp16": {"learning_rate": "0.001"}}
    assert found["prune"] == "halving"
    assert len(found["trials"]) == 30


@pytest.fixture
def tiny_arms(tmp_path: Path, tiny_model: Callable[[str], Path]) -> dict[str, FinetuneJob]:
    """Give both arms of a job of eight steps on a tiny random Llama."""
    job = FinetuneJob(
        model=str(tiny_model("llama")), data=(write_rows(tmp_path),), out=str(tmp_path / "job"), hold_out=0.25,
        max_steps=8, epochs=9, batch_size=4, save_every=1, compute="fp32", track=(),
    )  # fmt: skip
    return {"ternary": job, "fp16": make_twin_job(job, None)}


def test_a_search_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    tiny_arms: dict[str, FinetuneJob], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed within a short run of the first arm, and again in the whole run of the second: same record, same bits."""
    caplog.set_level(logging.ERROR)
    begun: list[str] = []

    def dying_at(fatal: str, step: int) -> Any:
        def display(title: str) -> Any:
            begun.append(title)

            def progress(done: int, total: int, note: str = "") -> None:
                if title.startswith(fatal) and "loss" in note and done == step:
                    raise KilledError

            return nullcontext(progress)

        return display

    def go(name: str, display: Any = no_display) -> SearchRecord:
        grid = {"learning_rate": ["1e-2", "1e30"]}
        return run_search(tiny_arms, grid, 1, tmp_path / name, "hf", display, prune="halving")

    whole = go("whole")
    with pytest.raises(KilledError):
        go("killed", dying_at("fine-tune ternary (learning_rate=1e-2, 1/2", 2))
    with pytest.raises(KilledError):
        go("killed", dying_at("fine-tune fp16 (learning_rate=1e-2)", 5))
    begun.clear()
    found = go("killed", dying_at("nothing", 0))
    trained = [title for title in begun if title.startswith("fine-tune")]
    # what was finished is not done again, but for what diverged at its first step
    assert {title for title in trained if "1e30" not in title} == {"fine-tune fp16 (learning_rate=1e-2)"}
    as_whole = json.loads(found.model_dump_json().replace(str(tmp_path / "killed"), str(tmp_path / "whole")))
    assert as_whole == json.loads(whole.model_dump_json())
    for arm in tiny_arms:
        assert [trial.steps for trial in whole.trials if trial.arm == arm and not trial.error] == [4, 8]
        for one, other in zip(found.chosen[arm], whole.chosen[arm], strict=True):
            assert (Path(one) / "model.safetensors").read_bytes() == (Path(other) / "model.safetensors").read_bytes()
    assert len(list((tmp_path / "whole").rglob("*.safetensors"))) == 2  # of both arms, and of no short run


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_sigkill(
    tiny_arms: dict[str, FinetuneJob],
    tmp_path: Path,
    kill_command: Callable[..., None],
    run_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Killed in the second short run: the first is not done again, and the search ends with a checkpoint."""
    job, out = tiny_arms["ternary"], tmp_path / "out"
    words = ["finetune", "--model", job.model, "--data", *job.data, "--hold-out", "0.25", "--max-steps", "40"]
    words += ["--epochs", "9", "--batch-size", "4", "--save-every", "1", "--search", "lr=1e-3,1e-2"]
    words += ["--prune", "halving", "--out", str(out)]
    first, second = (out / f"ternary/learning_rate={rate}/1of2/seed0" for rate in ("1e-3", "1e-2"))
    kill_command(*words, is_reached=lambda: any((second / ".trainer").glob("checkpoint-*/complete")), limit_s=240)
    assert not (second / "finetune.json").exists()
    before = (first / "finetune.json").stat().st_mtime_ns
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    assert (first / "finetune.json").stat().st_mtime_ns == before
    assert json.loads((second / "finetune.json").read_text(encoding="utf-8"))["resumed_from_step"] > 0
    found = load_search(out)
    assert found is not None
    assert [trial.share for trial in found.trials] == [1 / 2, 1 / 2, 1, 1]
    (chosen,) = found.chosen["ternary"]
    assert (Path(chosen) / "model.safetensors").is_file()
