"""A checkpoint goes to a hub and comes back; the hub is a folder."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.hub import make_card, pull_checkpoint, push_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.folder import load_training_record
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune


class FolderHub:
    """A hub that keeps repositories as folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        """Note whether it is private."""
        assert exist_ok
        self.private[repo_id] = private

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> None:
        """Copy what the patterns let through."""
        for file in folder_path.rglob("*"):
            name = str(file.relative_to(folder_path))
            matches = [any(fnmatch(name, p) for p in patterns) for patterns in (allow_patterns, ignore_patterns)]
            if file.is_file() and matches == [True, False]:
                (self.root / repo_id).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self.root / repo_id / name)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str], local_dir: Path
    ) -> str:
        """Copy everything, or say that there is nothing."""
        repo_id = f"{repo_id}@{revision}" if revision else repo_id
        if not (self.root / repo_id).is_dir():
            raise OSError(f"404: no repository {repo_id}")
        shutil.copytree(self.root / repo_id, local_dir)
        return str(local_dir)


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """Give an empty hub."""
    return FolderHub(tmp_path / "hub")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Give a checkpoint that was fine-tuned for two steps."""
    rows = tmp_path / "비밀.jsonl"
    rows.write_text(json.dumps({"prompt": "문이 열렸나요?", "response": "네, 열렸어요."}) + "\n", encoding="utf-8")
    out = tmp_path / "tuned"
    finetune(FinetuneJob(model="demo", data=(str(rows),), out=str(out), max_steps=2, keep_masters=True))
    return out


def test_what_was_pushed_is_what_is_pulled(hub: Any, trained: Path, tmp_path: Path) -> None:
    """The same weights; privately unless told otherwise; no masters, no event files, and no path in the record."""
    text = push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub)
    assert hub.private == {"org/name": True}
    sent = {file.name for file in (tmp_path / "hub/org/name").rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= sent
    assert not {"masters", "tensorboard"} & sent
    assert str(tmp_path) not in (tmp_path / "hub/org/name/finetune.json").read_text(encoding="utf-8")
    found = pull_checkpoint("org/name", tmp_path / "pulled", hub=hub)
    assert found.sha256 in text
    assert (tmp_path / "pulled/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_card_says_how_the_model_came_about_and_names_no_file(trained: Path) -> None:
    """Settings, steps and losses are those of the record; a path on the publisher's machine is nobody's business."""
    from bitnet_bench.checkpoints.inspect import inspect_folder
    from bitnet_bench.runs.records import FinetuneRecord

    record = FinetuneRecord.model_validate_json((trained / "finetune.json").read_text(encoding="utf-8"))
    text = make_card(inspect_folder(trained), record)
    assert "| `learning_rate` | 0.001 |" in text
    assert f"{record.train_loss:.4f} nats" in text
    assert "비밀" not in text
    assert str(trained.parent) not in text


def test_a_card_of_somebody_is_kept(hub: Any, trained: Path) -> None:
    (trained / "README.md").write_text("# 내가 쓴 카드\n", encoding="utf-8")
    push_checkpoint(trained, "org/name", private=False, runs=[], hub=hub)
    assert (trained / "README.md").read_text(encoding="utf-8") == "# 내가 쓴 카드\n"


def test_scores_of_other_weights_are_refused(hub: Any, trained: Path, tmp_path: Path) -> None:
    """A card gives the scores of this very checkpoint."""
    run = tmp_path / "run"
    tasks = select_tasks(["sample"])[:1]
    evaluate(str(trained), tasks, run)
    assert f"| {tasks[0][0].name}:{tasks[0][1].name} |" in push_checkpoint(
        trained, "o/n", private=True, runs=[run], hub=hub
    )
    evaluate("demo", tasks, tmp_path / "other")
    with pytest.raises(BenchError, match="scores of other weights"):
        push_checkpoint(trained, "o/n", private=True, runs=[tmp_path / "other"], hub=hub)


def test_a_hub_that_says_no_is_a_sentence_and_leaves_nothing(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="did not take or give org/none: 404"):
        pull_checkpoint("org/none", tmp_path / "out", hub=hub)
    (tmp_path / "hub/org/empty").mkdir(parents=True)
    with pytest.raises(BenchError, match="is not a checkpoint"):
        pull_checkpoint("org/empty", tmp_path / "out", hub=hub)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    with pytest.raises(BenchError, match="is not empty"):
        pull_checkpoint("org/name", full, hub=hub)


@pytest.mark.parametrize("repo", ["org/none", "org/name"])
@pytest.mark.parametrize("name", ["foo.partial", "foo.tmp", ".partial"])
def test_a_pull_touches_nothing_of_the_user(name: str, repo: str, hub: Any, tmp_path: Path) -> None:
    """A folder beside the new one stays as it is, whether the pull succeeds or not."""
    shutil.copytree(open_checkpoint("demo").path, tmp_path / "hub/org/name")
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine", encoding="utf-8")
    with nullcontext() if repo == "org/name" else pytest.raises(BenchError, match="404"):
        pull_checkpoint(repo, tmp_path / "foo", hub=hub)
    assert [file.name for file in (tmp_path / name).iterdir()] == ["notes.txt"]
    assert (tmp_path / name / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in tmp_path.iterdir()} - {"foo"} == {"hub", name}


def test_a_revision_is_pulled_by_name(hub: Any, trained: Path, tmp_path: Path) -> None:
    """ORG/NAME@REVISION is another state of the same repository."""
    push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub)
    (tmp_path / "hub/org/name").rename(tmp_path / "hub/org/name@masters")
    with pytest.raises(BenchError, match="no repository org/name"):
        pull_checkpoint("org/name", tmp_path / "newest", hub=hub)
    assert pull_checkpoint("org/name@masters", tmp_path / "pulled", hub=hub).is_ternary


def test_a_card_names_the_base_without_its_revision(trained: Path) -> None:
    """The hub's field takes a repository only; the text says the revision."""
    record = load_training_record(trained)
    assert record
    base = record.base.model_copy(update={"source": "ORG/NAME@v2", "revision": "abc123"})
    card = make_card(inspect_folder(trained), record.model_copy(update={"base": base}))
    assert "base_model: ORG/NAME\n" in card
    assert "`ORG/NAME@v2`" in card


@pytest.mark.parametrize("name", ["tokenizer.model", "README.md", "tokenizer_config.json"])
@pytest.mark.parametrize("target", ["../secret", "/nowhere", "../tuned-too/secret"])
def test_a_link_out_of_the_folder_is_not_pushed(
    name: str, target: str, hub: Any, trained: Path, tmp_path: Path
) -> None:
    """Its target is somebody's file and not the checkpoint's; the link and the target stay as they are."""
    for secret in (tmp_path / "secret", tmp_path / "tuned-too" / "secret"):
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("{}", encoding="utf-8")
    (trained / name).unlink(missing_ok=True)
    (trained / name).symlink_to(target)
    with pytest.raises(BenchError, match=f"{name} is a link (out of its folder|to no file)"):
        push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub)
    assert (trained / name).readlink() == Path(target)
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "{}"
    assert not (tmp_path / "hub").exists()


def test_a_snapshot_of_the_cache_of_the_hub_is_pushed(hub: Any, trained: Path, tmp_path: Path) -> None:
    """All of its files are links into `blobs`; those into another repository are refused all the same."""
    repository = tmp_path / "hub-cache" / "models--org--base"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, file in enumerate(file for file in trained.iterdir() if file.is_file()):
        shutil.copy(file, repository / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    push_checkpoint(snapshot, "org/name", private=True, runs=[], hub=hub)
    sent = tmp_path / "hub/org/name"
    assert (sent / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    other = tmp_path / "hub-cache" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "1").write_text("{}", encoding="utf-8")
    (snapshot / "vocab.json").symlink_to(other / "1")
    with pytest.raises(BenchError, match="vocab\\.json is a link out of its folder"):
        push_checkpoint(snapshot, "org/name", private=True, runs=[], hub=hub)


def test_a_card_that_was_edited_is_kept(
    hub: Any, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if it is one of ours with a word more; one that nobody touched is made again, whatever its line ends."""
    card, sent = trained / "README.md", tmp_path / "hub/org/name/README.md"
    made = push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub)
    assert sent.read_text(encoding="utf-8") == made == card.read_text(encoding="utf-8")
    card.write_bytes(made.replace("\n", "\r\n").encode())
    assert push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub) == made
    assert not caplog.text
    for edited in (made.replace("language: ko", "license: mit\nlanguage: ko"), made + "\nCC-BY\n", "", made[:-90]):
        card.write_text(edited, encoding="utf-8")
        assert push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub) == edited
        assert card.read_text(encoding="utf-8") == sent.read_text(encoding="utf-8") == edited
        assert "README.md is uploaded as it is" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("name", ["README.md", "generation_config.json", "tokenizer_config.json"])
def test_a_shared_file_of_another_encoding_is_named(name: str, hub: Any, trained: Path) -> None:
    (trained / name).write_bytes('{"카드": "한국어"}'.encode("cp949"))
    with pytest.raises(BenchError, match=f"{name} cannot be read"):
        push_checkpoint(trained, "org/name", private=True, runs=[], hub=hub)


class NoHub:
    """A hub that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dangling", "is a link"),
        ("link", "is a link"),
        (".", "is the current folder"),
        ("here", "is the current folder"),
        ("a\0b", "cannot be the name of a folder"),
        ("a\ud800b", "cannot be the name of a folder"),
        ("n" * 300, "too long"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_the_download(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "here")
    hub: Any = NoHub()
    with pytest.raises(BenchError, match=why):
        pull_checkpoint("org/name", Path(".") if name == "." else tmp_path / name, hub=hub)
    assert {path.name for path in tmp_path.iterdir()} == {"here", "empty", "dangling", "link"}


@pytest.mark.parametrize("repo", ["org/na\0me", "org/na\ud800me", "org/na\nme"])
def test_a_name_that_no_hub_has_is_refused(repo: str, tmp_path: Path) -> None:
    hub: Any = NoHub()
    with pytest.raises(BenchError, match="is no name of the hub"):
        pull_checkpoint(repo, tmp_path / "out", hub=hub)
