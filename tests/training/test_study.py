"""A search keeps an Optuna study of each arm: the same trials whatever was killed, and both arms the same budget."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, DivergedError, UsageError
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.runs.records import SearchRecord
from bitnet_bench.training.finetune import make_twin_job
from bitnet_bench.training.search import count_search_runs, parse_grid, run_search
from bitnet_bench.training.study import STUDY_FILE, ArmStudy, find_range

WHOLE = 160
RANGE = {"learning_rate": ["1e-5..1e-2"]}


class KilledError(BaseException):
    """Ends a search as a kill would: nothing is cleaned up."""


Trainer = Callable[[FinetuneJob], float]


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, FinetuneJob]:
    """Give both arms of a job with held-out rows; nothing reads them."""
    job = FinetuneJob(data=("rows.jsonl",), out=str(tmp_path / "job"), hold_out=0.25, max_steps=WHOLE)
    return {"ternary": job, "fp16": make_twin_job(job, None)}


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give what replaces training: the loss is the distance of the rate from 1e-3 in factors of ten."""

    def install(kills_at: int = 0, diverges_above: float = 1.0) -> list[str]:
        seen: list[str] = []

        def run(job: FinetuneJob, backend: str, steps: Any) -> Any:
            seen.append(job.out)
            if len(seen) == kills_at:
                raise KilledError
            if job.peak_rate > diverges_above:
                raise DivergedError("The loss rose to 99.", step=3)
            return SimpleNamespace(validation=({"loss": abs(math.log10(job.peak_rate / 1e-3))},), steps=job.max_steps)

        monkeypatch.setattr("bitnet_bench.training.search.finetune", run)
        return seen

    return install


def search(arms: Mapping[str, FinetuneJob], out: Path, grid: Any = None, **fields: Any) -> SearchRecord:
    """Return the record of a search that only chooses."""
    return run_search(arms, grid or RANGE, 1, out, "hf", no_display, only_chooses=True, **fields)


def read_study(out: Path, found: SearchRecord, arm: str) -> list[tuple[Any, ...]]:
    """Return number, state, value, losses by steps and parameters of each trial, as Optuna's own tools read them."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str((out / STUDY_FILE).absolute())))
    study = optuna.load_study(study_name=found.studies[arm], storage=storage)
    return [(t.number, t.state.name, t.value, dict(t.intermediate_values), t.params) for t in study.trials]


def test_a_pruned_search_says_what_became_of_every_trial(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    """In the study with its losses by steps, and in the record, with the budget of each arm and the sampler's seed."""
    train(diverges_above=1e-2)
    rates = ["1e-5", "1e-4", "1e-3", "1e-1"]
    found = search(arms, tmp_path, {"learning_rate": rates}, prune="halving")
    states = {
        params["learning_rate"]: (state, losses) for _, state, _, losses, params in read_study(tmp_path, found, "fp16")
    }
    assert states["1e-1"] == ("FAIL", {})
    assert states["1e-5"] == ("PRUNED", {40: pytest.approx(2.0)})
    assert states["1e-3"][0] == states["1e-4"][0] == "COMPLETE"
    assert list(states["1e-3"][1]) == [40, 80, 160]
    assert found.pruned["ternary"] == ({"learning_rate": "1e-5"},)
    assert found.steps["ternary"] == found.steps["fp16"] == found.count_steps("fp16") > 0
    assert (found.sampler, found.sampler_seed) == ("every combination", 0)


@pytest.mark.parametrize("prune", ["halving", None])
def test_a_search_that_is_killed_anywhere_tries_the_same_settings_in_the_end(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]], prune: Any
) -> None:
    """Also where the next settings depend on the losses of those before."""
    train()
    whole = search(arms, tmp_path / "whole", prune=prune, drawn=5)
    for kills_at in (1, 4, 8):
        out = tmp_path / f"killed-{kills_at}"
        train(kills_at=kills_at)
        with pytest.raises(KilledError):
            search(arms, out, prune=prune, drawn=5)
        train()
        resumed = search(arms, out, prune=prune, drawn=5)
        assert resumed.model_dump_json().replace(str(out), "OUT") == whole.model_dump_json().replace(
            str(tmp_path / "whole"), "OUT"
        )
        for arm in arms:
            assert read_study(out, resumed, arm) == read_study(tmp_path / "whole", whole, arm)


def test_a_line_that_a_kill_cut_short_costs_that_line(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    """Appended to, it would make the whole journal unreadable."""
    train()
    found = search(arms, tmp_path, prune="halving", drawn=4)
    with (tmp_path / STUDY_FILE).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert search(arms, tmp_path, prune="halving", drawn=4) == found
    assert len(read_study(tmp_path, found, "ternary")) == 4


@pytest.mark.parametrize(
    "line", ["[]", "3", "null", "{}", '{"op_code": 99}', '{"op_code": [], "worker_id": "x"}', "[" * 9000]
)
def test_a_line_that_is_no_operation_is_named(tmp_path: Path, line: str) -> None:
    """Valid JSON, at which Optuna raises whatever comes."""
    file = tmp_path / STUDY_FILE
    ArmStudy(file, "ternary", RANGE, 0).propose(0)
    with file.open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")
    with pytest.raises(BenchError, match="is not the journal of a search"):
        ArmStudy(file, "ternary", RANGE, 0)


def test_a_file_that_is_no_journal_is_named(tmp_path: Path, arms: dict[str, FinetuneJob]) -> None:
    (tmp_path / STUDY_FILE).write_text("not a journal\n")
    with pytest.raises(BenchError, match="is not the journal of a search") as error:
        search(arms, tmp_path)
    assert "Delete it" in error.value.hint


def test_arms_that_are_pruned_try_the_same_drawn_settings(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    """All are drawn before the first is run, within the range; another seed draws others."""
    train()
    found = search(arms, tmp_path / "a", prune="halving", drawn=6)
    tried = {arm: [t.settings for t in found.trials if (t.arm, t.share) == (arm, 1 / 8)] for arm in arms}
    assert tried["ternary"] == tried["fp16"]
    assert all(1e-5 <= float(settings["learning_rate"]) <= 1e-2 for settings in tried["ternary"])
    assert len({settings["learning_rate"] for settings in tried["ternary"]}) == 6
    assert found.steps["ternary"] == found.steps["fp16"]
    other = {arm: job.model_copy(update={"seed": 1}) for arm, job in arms.items()}
    again = search(other, tmp_path / "b", prune="halving", drawn=6)
    assert not {str(t.settings) for t in again.trials} & {str(t.settings) for t in found.trials}


def test_drawn_settings_learn_from_those_before(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    """Of thirty whole runs the later ones lie nearer to the best rate than the first ones, which are at random."""
    train()
    found = search({"ternary": arms["ternary"]}, tmp_path, drawn=30)
    losses = [trial.validation_loss or 0.0 for trial in found.trials]
    assert len(losses) == 30
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert found.pruned == {"ternary": ()}


def test_a_search_in_the_same_folder_with_more_values_has_a_study_of_its_own(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    """Optuna refuses other values in one study; runs that are finished are shared."""
    train()
    first = search(arms, tmp_path, {"learning_rate": ["1e-4", "1e-3"]})
    second = search(arms, tmp_path, {"learning_rate": ["1e-4", "1e-3", "1e-2"]})
    assert first.studies != second.studies
    assert len(read_study(tmp_path, first, "ternary")) == 2
    assert len(read_study(tmp_path, second, "ternary")) == 3


def test_without_optuna_a_search_says_how_to_install_it(
    arms: dict[str, FinetuneJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., list[str]]
) -> None:
    """Before anything is run."""
    seen, real = train(), builtins.__import__

    def import_none(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", import_none)
    with pytest.raises(BenchError, match="needs Optuna") as error:
        search(arms, tmp_path)
    assert error.value.hint == "pip install 'bitnet-bench[search]'"
    assert not seen


def test_processes_that_are_not_the_first_draw_the_same_and_write_nothing(tmp_path: Path) -> None:
    space = {"learning_rate": ["1e-5..1e-2"], "batch_size": ["2..16"], "schedule": ["cosine", "linear"]}
    drawn = []
    for file in (tmp_path / STUDY_FILE, None):
        study = ArmStudy(file, "ternary", space, seed=3)
        points = []
        for number in range(4):
            points.append(study.propose(number))
            study.complete(number, float(points[-1]["learning_rate"]))
        drawn.append(points)
    assert drawn[0] == drawn[1]
    assert all(point["batch_size"].isdigit() for point in drawn[0])
    assert json.dumps(drawn[0])


@pytest.mark.parametrize(
    ("values", "low", "high", "is_log"),
    [("1e-5..1e-3", 1e-5, 1e-3, True), ("0.0..0.1", 0.0, 0.1, False), ("2..4", 2.0, 4.0, False)],
)
def test_a_range_is_two_numbers_with_dots_between(values: str, low: float, high: float, is_log: bool) -> None:
    found = find_range("learning_rate", [values])
    assert found is not None
    assert (found.low, found.high, found.is_log) == (low, high, is_log)
    assert find_range("learning_rate", ["1e-3"]) is None
    assert find_range("learning_rate", ["1..2", "3"]) is None


def test_ranges_that_cannot_be_are_refused_before_anything_is_run(
    arms: dict[str, FinetuneJob], tmp_path: Path, train: Callable[..., list[str]]
) -> None:
    seen = train()
    with pytest.raises(UsageError, match="is empty"):
        parse_grid(["lr=1e-3..1e-5"])
    with pytest.raises(UsageError, match="search` tries what cannot be"):
        search(arms, tmp_path, {"learning_rate": ["-1..1e-3"]})
    with pytest.raises(ValueError, match="`trials` draws settings from a range"):
        Arms(search=("lr=1e-4,1e-3",), trials=4)
    assert not seen
    assert count_search_runs(Arms(search=("lr=1e-5..1e-3",), prune="halving", trials=7)) == 2.875 + 2
