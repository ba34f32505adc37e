"""Rows of the hub are those of one commit, asked of a hub on this machine by the clients that ask the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.data.hub_rows import HubRows, is_on_hub, open_source, parse_hub_rows, pin_source
from bitnet_bench.errors import UsageError

from .fake_hub import FakeHub, serve
from .public_shapes import make_files, write_parquet

CARD = b"---\nlicense: mit\n---\n# Chat\n"
SUBSETS = (
    b"---\nconfigs:\n- config_name: easy\n  data_files: easy.csv\n- config_name: hard\n  data_files: hard.csv\n---\n"
)
NAMED_AS_A_SPLIT = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: easy.csv}, {split: test, path: hard.csv}]
- config_name: test
  data_files: easy.csv
---
"""
READ = """
import json, sys
from bitnet_bench.data.hub_rows import open_source, pin_source
from bitnet_bench.data.rows import read_rows
from bitnet_bench.errors import BenchError
found = {}
for source in sys.argv[1:]:
    try:
        found[source] = [pin_source(source), [row.turns[-1].text for row in read_rows(open_source(source))]]
    except BenchError as error:
        found[source] = [error.problem, error.hint]
print(json.dumps(found))
"""


def said(*answers: str) -> list[dict[str, Any]]:
    return [
        {"conversations": [{"from": "human", "value": "질문"}, {"from": "gpt", "value": answer}]} for answer in answers
    ]


def chat(*answers: str) -> dict[str, bytes]:
    return {
        "README.md": CARD,
        "data/train-00000-of-00001.parquet": write_parquet(said(*answers)),
        "data/test-00000-of-00001.parquet": write_parquet(said("시험")),
    }


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """Give a hub with data sets in the layouts that the real one has."""
    hub = FakeHub()
    hub.add("kor/chat", chat("옛 답"), tag="v1")
    hub.add("kor/chat", chat("첫 답", "둘째 답"))
    hub.add("kor/lines", {"train.jsonl": '{"instruction": "가", "output": "나"}\n'.encode()})
    hub.add("kor/only_test", {"README.md": CARD, "test.jsonl": b'{"question": "q", "answer": "a"}\n'})
    hub.add("kor/subsets", {"README.md": SUBSETS, "easy.csv": b"Q,A\nq,easy\n", "hard.csv": b"Q,A\nq,hard\n"})
    with serve(hub):
        yield hub


def ask(hub: FakeHub | None, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with its clients at *hub*, or where no hub answers; they read where it is when they are imported."""
    where = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"} if hub else {"HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **where, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_DATASETS_CACHE", None)
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def read(hub: FakeHub | None, home: Path, *sources: str) -> dict[str, list[Any]]:
    """Return (the source with its commit, answers), or the two sentences of an error, of each source."""
    done = ask(hub, home, "-c", READ, *sources)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def test_a_split_is_that_of_a_commit_with_and_without_a_network(hub: FakeHub, tmp_path: Path) -> None:
    """Of the newest one without a revision, and of a tag or a subset by its name; afterwards no hub needs to answer."""
    old, new = hub.commits["kor/chat"]
    sources = ["hub:kor/chat", "hub:kor/chat:test", "hub:kor/chat@v1:train", f"hub:kor/chat@{old}", "hub:kor/lines",
               "hub:kor/only_test", "hub:kor/subsets/hard:train", "hub:kor/chat:train[1:]"]  # fmt: skip
    found = read(hub, tmp_path, *sources)
    assert [found[source][1] for source in sources] == [
        ["첫 답", "둘째 답"], ["시험"], ["옛 답"], ["옛 답"], ["나"], ["a"], ["hard"], ["둘째 답"],
    ]  # fmt: skip
    assert [found[source][0] for source in sources[:4]] == [
        f"hub:kor/chat@{new}", f"hub:kor/chat@{new}:test", f"hub:kor/chat@{old}:train", f"hub:kor/chat@{old}",
    ]  # fmt: skip
    hub.add("kor/chat", chat("neu"))
    again = [source for source in sources if source != "hub:kor/lines"]  # a set without a card notes no commit
    assert read(None, tmp_path, *again) == {source: found[source] for source in again}
    assert read(hub, tmp_path, "hub:kor/chat")["hub:kor/chat"][1] == ["neu"]


def test_a_subset_and_a_split_of_one_name_are_kept_apart(hub: FakeHub, tmp_path: Path) -> None:
    """Whichever is read first."""
    tables = {"easy.csv": b"Q,A\nq,easy\n", "hard.csv": b"Q,A\nq,hard\n"}
    hub.add("kor/named", {"README.md": NAMED_AS_A_SPLIT, **tables})
    found = read(hub, tmp_path, "hub:kor/named/test", "hub:kor/named:test")
    assert [answers for _, answers in found.values()] == [["easy"], ["hard"]]


def test_what_is_not_on_the_hub_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    """A name, a revision, a split and a subset; and a commit that was never fetched, where no hub answers."""
    missing = ["hub:kor/nothing", "hub:kor/chat@v9", "hub:kor/chat:dev", "hub:kor/subsets"]
    found = read(hub, tmp_path, *missing)
    assert found["hub:kor/nothing"][0].startswith("hub:kor/nothing cannot be fetched from the hub: ")
    assert found["hub:kor/chat@v9"][0].startswith("hub:kor/chat@v9 cannot be fetched from the hub: ")
    assert found["hub:kor/chat:dev"] == [
        "kor/chat has no split 'dev'.",
        "There are: train, test. Write hub:ORG/NAME[@REVISION][/SUBSET][:SPLIT].",
    ]
    assert "['easy', 'hard']" in found["hub:kor/subsets"][0]
    (old, _) = hub.commits["kor/chat"]
    ((problem, _),) = read(None, tmp_path, f"hub:kor/chat@{old}").values()
    assert problem.startswith(f"hub:kor/chat@{old} cannot be fetched from the hub: ")


def test_a_cache_that_cannot_be_written_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    """As of any file."""
    (tmp_path / "datasets" / "bitnet_bench").mkdir(parents=True)
    (tmp_path / "datasets" / "bitnet_bench" / "hub").write_text("no folder", encoding="utf-8")
    ((problem, _),) = read(hub, tmp_path, "hub:kor/chat").values()
    assert problem.startswith(f"Cannot write {tmp_path / 'datasets' / 'bitnet_bench' / 'hub'}")


def test_the_hub_is_fine_tuned_on_from_the_command_line(hub: FakeHub, tmp_path: Path) -> None:
    """The record has the commit, so that the run can be done again."""
    rows = make_files()["parquet_sharegpt"].data
    commit = hub.add("kor/many", {"README.md": CARD, "data/train-00000-of-00001.parquet": rows})
    words = ["finetune", "--data", "hub:kor/many:train", "--max-steps", "2", "--batch-size", "2", "--json", "--out"]
    done = ask(hub, tmp_path, "-m", "bitnet_bench", *words, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["rows"], record["steps"], record["job"]["data"]) == (50, 2, [f"hub:kor/many@{commit}:train"])


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hub:ORG/NAME", HubRows("ORG/NAME", None, None, None)),
        ("hub:ORG/NAME:test", HubRows("ORG/NAME", None, None, "test")),
        ("hub:ORG/NAME@v1.0/sub:train[:10%]", HubRows("ORG/NAME", "v1.0", "sub", "train[:10%]")),
        ("hub:ORG/NAME@refs%2Fconvert%2Fparquet/a/b", HubRows("ORG/NAME", "refs/convert/parquet", "a/b", None)),
    ],
)
def test_a_source_is_parsed_in_its_parts(source: str, parts: HubRows) -> None:
    """And written in the same form again."""
    assert parse_hub_rows(source) == parts
    assert str(parts) == source


@pytest.mark.parametrize("source", ["hub:", "hub:NAME", "hub:ORG/", "hub:ORG/NAME@", "hub:ORG/NAME:", "hub: ORG/NAME"])
def test_another_form_is_refused(source: str) -> None:
    """Before anything is asked of the hub."""
    with pytest.raises(UsageError, match="names no rows of the hub"):
        parse_hub_rows(source)


@pytest.mark.parametrize("source", ["rows.jsonl", "klue:ynat", "./hub/rows.jsonl"])
def test_everything_else_stays_as_it_is(source: str) -> None:
    """Files and tasks have no commit."""
    assert (is_on_hub(source), pin_source(source), open_source(source)) == (False, source, Path(source))
