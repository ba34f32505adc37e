"""The twin of a run folder is found beside it, whoever named the two."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.measurement.candidates import add_twin, make_candidates
from bitnet_bench.runs.folder import RECORD_FILE, load_record, save_record
from bitnet_bench.runs.records import RunRecord
from bitnet_bench.runs.twins import find_twin


def make_run(folder: Path, model: str) -> Path:
    """Write the record of a run of *model*, without scores."""
    checkpoint = open_checkpoint(model)
    precision = "ternary" if checkpoint.is_ternary else "fp16"
    record = RunRecord(
        name=folder.name, checkpoint=checkpoint, backend="hf", precision=precision, environment=read_environment()
    )
    save_record(folder, record)
    return folder


@pytest.mark.parametrize(
    ("ternary", "fp16"),
    [
        ("mine", "mine-fp16"),
        ("ternary-after", "fp16-after"),
        ("ternary-before", "fp16-before"),
        ("ternary", "fp16"),
        ("ternary-seed0", "fp16-seed0"),
        ("demo-sample", "demo-fp16-sample"),
    ],
)
def test_the_twin_of_a_run_is_beside_it(ternary: str, fp16: str, tmp_path: Path) -> None:
    """Names of `finetune --twin`, of recipes, of the quickstart, and of `evaluate`; found from either side."""
    ours, theirs = make_run(tmp_path / ternary, "demo"), make_run(tmp_path / fp16, "demo-fp16")
    assert find_twin(ours) == theirs
    assert find_twin(theirs) == ours


def test_a_run_of_the_same_kind_is_no_twin(tmp_path: Path) -> None:
    """The name alone does not make one: both are ternary. Nor is there one where nothing is, or something broken."""
    ours = make_run(tmp_path / "mine", "demo")
    assert find_twin(ours) is None
    make_run(tmp_path / "mine-fp16", "demo")
    assert find_twin(ours) is None
    (tmp_path / "mine-fp16" / RECORD_FILE).write_text("{")
    assert find_twin(ours) is None


def test_a_run_folder_is_measured_with_its_twin(tmp_path: Path) -> None:
    """One name is enough: both are contenders, each with its own folder, and floats are the twin's own."""
    ours = make_run(tmp_path / "ternary-after", "demo")
    theirs = make_run(tmp_path / "fp16-after", "demo-fp16")
    named = add_twin([str(ours)])
    assert named == [str(ours), str(theirs)]
    entered = make_candidates(named, [], None, backends=["ternary"], against_floats=True)
    assert [(one.model, one.precision, one.out, one.backend) for one in entered] == [
        ("demo", "ternary", ours, "ternary"),
        ("demo-fp16", "fp16", theirs, "hf"),
        ("demo-fp16", "bf16", theirs, "hf"),
    ]
    assert add_twin(["demo"]) == ["demo"]
    assert add_twin([str(ours), "demo"]) == [str(ours), "demo"]


def test_a_twin_without_its_checkpoint_does_not_keep_the_other_from_being_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The twin is left out with a warning; a run that is named itself is an error, and no hub is asked."""
    ours, theirs = make_run(tmp_path / "ternary-after", "demo"), make_run(tmp_path / "fp16-after", "demo-fp16")
    record = load_record(theirs)
    gone = record.checkpoint.model_copy(update={"source": "runs/gone", "path": str(tmp_path / "gone")})
    save_record(theirs, record.model_copy(update={"checkpoint": gone}))
    assert add_twin([str(ours)]) == [str(ours)]
    assert "fp16-after is not measured" in caplog.text
    with pytest.raises(BenchError, match=r"The checkpoint of the run .* is gone"):
        make_candidates([str(theirs)], [], None)


def test_a_model_that_is_named_twice_is_measured_once(tmp_path: Path) -> None:
    """And it still brings its twin."""
    ours, theirs = make_run(tmp_path / "mine", "demo"), make_run(tmp_path / "mine-fp16", "demo-fp16")
    assert add_twin([str(ours), str(ours)]) == [str(ours), str(theirs)]
