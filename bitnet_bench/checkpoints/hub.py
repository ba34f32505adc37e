"""Push a checkpoint to the hub with a model card made from its record, and pull one from there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bitnet_bench import __version__
from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.locate import HubId, parse_hub_id
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import write_whole
from bitnet_bench.runs.folder import TRAINING_FILE, load_record, load_training_record
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, RunRecord

CARD_FILE = "README.md"
HUB_FILE_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", CARD_FILE)
"""Patterns of the files that are pushed and pulled: weights as safetensors, configuration, tokenizer, card."""
PRIVATE_FILES = (TRAINING_FILE, "record.json", "search.json")
"""Records with paths of the publisher's machine, which are not uploaded; the card gives their other contents."""


class HubClient(Protocol):
    """The methods of `huggingface_hub.HfApi` that are used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Create the repository unless it exists."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> Any:
        """Upload the files of a folder in one commit."""

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **_: Any) -> str:
        """Download a repository and return its folder."""


def make_card(checkpoint: Checkpoint, record: FinetuneRecord | None, runs: Sequence[RunRecord] = ()) -> str:
    """Return the model card of *checkpoint*: its description, training and scores, from records alone."""
    base = parse_hub_id(record.base.source) if record else None
    kind = "ternary (BitNet b1.58)" if checkpoint.is_ternary else "float"
    lines = [
        "---", "language: ko", "library_name: transformers", "pipeline_tag: text-generation",
        "tags:", "- bitnet-bench", *(["- bitnet"] if checkpoint.is_ternary else []),
        *([f"base_model: {base.repo}"] if base else []),
        "---", f"# {Path(checkpoint.path).name}", "",
        f"A {kind} causal language model, `{checkpoint.architecture}`, {checkpoint.parameters:,} parameters, "
        f"{checkpoint.ternary_parameters:,} of them ternary; stored as `{checkpoint.format}`, the rest in "
        f"{checkpoint.dtype}, {sum(checkpoint.weight_bytes.values()):,} bytes. Weights have the sha256 "
        f"`{checkpoint.sha256}`.",
    ]  # fmt: skip
    if record:
        lines += ["", "## Training", *_list_training_facts(record)]
    if any(run.scores for run in runs):
        lines += ["", "## Scores", *_list_scores(runs)]
    lines += ["", f"Made by bitnet-bench {__version__} from its records; the licence is the publisher's to state.", ""]
    return "\n".join(lines)


def _list_training_facts(record: FinetuneRecord) -> list[str]:
    settings, here = record.job.settings(), record.environment
    facts = {
        "begun from": f"`{record.base.source}` (sha256 `{record.base.sha256[:16]}`)",
        "rows": f"{record.rows:,}, digest `{record.data_sha256[:16]}`",
        "steps": f"{record.steps:,}, {record.train_seconds:,.0f} s on {here.gpu or here.cpu}",
        "loss at the end": f"{record.train_loss:.4f} nats",
    }
    if record.validation:
        facts["validation loss"] = f"{record.validation[0]['loss']:.4f} to {record.validation[-1]['loss']:.4f} nats"
    # paths on the publisher's machine mean nothing elsewhere
    shown = {name: value for name, value in settings.items() if name not in ("model", "data", "data_dir", "validation")}
    facts |= {f"`{name}`": str(value) for name, value in shown.items() if value not in (None, [], ())}
    return ["| | |", "| --- | --- |", *(f"| {name} | {_escape_cell(value)} |" for name, value in facts.items())]


def _list_scores(runs: Sequence[RunRecord]) -> list[str]:
    lines = ["| task | metric | value | 95 % interval | n |", "| --- | --- | --- | --- | --- |"]
    for score in (score for run in runs for score in run.scores):
        error = "—" if score.stderr is None else f"±{1.96 * score.stderr:.1f}"
        lines.append(f"| {_escape_cell(score.task)} | {score.metric} | {score.value:.1f} | {error} | {score.n:,} |")
    return lines


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def push_checkpoint(
    folder: Path, repo: str, *, private: bool, runs: Sequence[Path], hub: HubClient | None = None
) -> str:
    """Upload the checkpoint in *folder* to *repo* with its card, and return the card.

    *runs* are run folders whose scores the card gives; they must be of this checkpoint. An existing card that
    bitnet-bench did not write is kept.
    """
    if folder.is_file():
        raise UsageError(
            f"{folder} is a file, and a checkpoint folder is pushed, with its card.",
            "Convert it to a folder first, or upload the file with `hf upload`.",
        )
    checkpoint = inspect_folder(folder)
    records = [load_record(run) for run in runs]
    for run, record in zip(runs, records, strict=True):
        if record.checkpoint.sha256 != checkpoint.sha256:
            raise BenchError(f"{run} holds scores of other weights than {folder}.", "Evaluate this checkpoint first.")
    text = make_card(checkpoint, load_training_record(folder), records)
    there = folder / CARD_FILE
    if there.is_file() and "Made by bitnet-bench" not in there.read_text(encoding="utf-8"):
        text = there.read_text(encoding="utf-8")
    write_whole(there, text)
    with _explain_hub_errors(repo):
        hub = hub or _make_client()
        hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(HUB_FILE_PATTERNS),
            ignore_patterns=["*/*", *PRIVATE_FILES],
        )
    return text


def pull_checkpoint(repo: str, out: Path, hub: HubClient | None = None) -> Checkpoint:
    """Download the checkpoint *repo*, safetensors only, into the new folder *out*, and return its description.

    *repo* may end in `@REVISION`: a commit, a branch or a tag.
    """
    place = parse_hub_id(repo) or HubId(repo, None)
    if out.exists() and any(out.iterdir()):
        raise BenchError(f"{out} is not empty.", "Name another folder.")
    partial = out.with_name(out.name + ".partial")
    try:
        with _explain_hub_errors(repo):
            hub = hub or _make_client()
            hub.snapshot_download(
                place.repo, revision=place.revision, allow_patterns=list(HUB_FILE_PATTERNS), local_dir=partial
            )
        inspect_folder(partial)  # raises before *out* exists if this is not a checkpoint
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return inspect_folder(out)


def _make_client() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


@contextmanager
def _explain_hub_errors(repo: str) -> Iterator[None]:
    """Raise BenchError instead of an error of the hub or the network."""
    try:
        yield
    except list_hub_errors() as error:
        raise BenchError(
            f"The hub did not take or give {repo}: {(str(error) or type(error).__name__).splitlines()[0]}",
            "Check the name, the network, and `hf auth login`.",
        ) from error
