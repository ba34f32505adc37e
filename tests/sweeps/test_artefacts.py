"""Files of a sweep under a URL: sent once, fetched whole or not at all, and done by digest."""

from __future__ import annotations

import json
from pathlib import Path

import counted_steps
import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.protocols import no_display
from bitnet_bench.sweeps.artefacts import ArtefactStore
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome, make_graph


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store."""
    return f"memory://{tmp_path}" if request.param == "memory" else f"file://{tmp_path / 'store'}"


@pytest.fixture
def graph() -> Graph:
    """Return a step that reads a given file, one that reads its result, and one that reads nothing."""
    first = counted_steps.make_step("out", "first", inputs=("rows.txt",))
    second = counted_steps.make_step("out", "second", inputs=("out/first/result.json",), after=("first",))
    return make_graph(Path("out"), [first, second, counted_steps.make_step("out", "third")])


def run_on(url: str, root: Path, graph: Graph, step: Step, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run *step* on a machine whose folder is *root*, as a task does; return None if it was done already."""
    root.mkdir(exist_ok=True)
    monkeypatch.chdir(root)
    store = ArtefactStore(url, root)
    inputs = store.digest_inputs(graph, step)
    if store.find_outcome(step, inputs):
        return None
    store.fetch_inputs(graph, step)
    outcome = counted_steps.run_counted(step, no_display)
    store.send_outputs(step, inputs, outcome)
    return Path(step.outputs[0]).read_text(encoding="utf-8")


def test_a_node_reads_what_another_wrote(
    url: str, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "rows.txt").write_text("하나", encoding="utf-8")
    ArtefactStore(url, driver).send_given(graph)
    written = run_on(url, tmp_path / "one", graph, graph.by_id["first"], monkeypatch)
    read = run_on(url, tmp_path / "two", graph, graph.by_id["second"], monkeypatch)
    assert written is not None
    assert read is not None
    assert json.loads(written)["read"] == {"rows.txt": "하나"}
    assert json.loads(read)["read"] == {"out/first/result.json": written}
    ArtefactStore(url, driver).fetch_outputs(graph.by_id["second"])
    assert (driver / "out/second/result.json").read_text(encoding="utf-8") == read


def test_a_step_is_done_until_what_it_read_has_changed(
    url: str, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()
    for text, again in (("one", False), ("one", True), ("two", False)):
        (driver / "rows.txt").write_text(text, encoding="utf-8")
        ArtefactStore(url, driver).send_given(graph)
        found = run_on(url, tmp_path / f"node-{text}-{again}", graph, graph.by_id["first"], monkeypatch)
        assert (found is None) is again


def test_a_step_of_another_job_is_not_done(
    url: str, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = graph.by_id["third"]
    run_on(url, tmp_path / "one", graph, step, monkeypatch)
    store = ArtefactStore(url, tmp_path)
    assert store.find_outcome(step, store.digest_inputs(graph, step))
    changed = step.model_copy(update={"key": "another"})
    assert store.find_outcome(changed, store.digest_inputs(graph, changed)) is None


def test_a_damaged_file_is_refused(tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path / 'store'}"
    run_on(url, tmp_path / "one", graph, graph.by_id["third"], monkeypatch)
    for file in (tmp_path / "store" / "files").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x" + file.read_bytes()[1:])
    (tmp_path / "two").mkdir()
    with pytest.raises(BenchError, match="does not have the contents"):
        ArtefactStore(url, tmp_path / "two").fetch_outputs(graph.by_id["third"])
    assert list((tmp_path / "two").rglob("*.*")) == []


def test_a_manifest_cannot_write_outside_the_outputs(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, step = f"file://{tmp_path / 'store'}", graph.by_id["third"]
    run_on(url, tmp_path / "one", graph, step, monkeypatch)
    file = tmp_path / "store" / "steps" / "third.json"
    honest = file.read_text(encoding="utf-8")
    file.write_text(honest.replace("out/third/result.json", "out/../../escaped"), encoding="utf-8")
    with pytest.raises(BenchError, match="no place of a sweep"):
        ArtefactStore(url, tmp_path / "two").fetch_outputs(step)
    file.write_text(honest.replace("out/third/result.json", "elsewhere"), encoding="utf-8")
    ArtefactStore(url, tmp_path / "two").fetch_outputs(step)
    assert not (tmp_path / "two").exists()


def test_a_step_without_its_outputs_is_not_done(tmp_path: Path, graph: Graph) -> None:
    store, step = ArtefactStore(f"file://{tmp_path / 'store'}", tmp_path), graph.by_id["third"]
    with pytest.raises(BenchError, match=r"ended without out/third/result.json"):
        store.send_outputs(step, "", StepOutcome(id=step.id, is_done=True))
    assert store.find_outcome(step, "") is None


def test_the_same_contents_are_sent_once(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(bytes(1000))
    steps = [counted_steps.make_step("out", name).model_copy(update={"outputs": (f"{name}/weights",)}) for name in "ab"]
    store = ArtefactStore(url, tmp_path)
    for step in steps:
        store.send_outputs(step, "", StepOutcome(id=step.id, is_done=True))
    assert len([file for file in (tmp_path / "store" / "files").rglob("*") if file.is_file()]) == 1


def test_an_unknown_url_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        ArtefactStore("nothing://here", tmp_path)
    assert "s3fs" in caught.value.hint
