"""Make lm-eval's language model of a session: of a model here, or of one on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, Union

from bitnet_bench.evaluation.answer_cache import AnswerStore
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import Progress, RemoteSession, Session, no_progress
from bitnet_bench.runs.jobs import EvaluateJob

if TYPE_CHECKING:
    from bitnet_bench.evaluation.lm import SessionLM
    from bitnet_bench.evaluation.remote_lm import RemoteLM

LanguageModel: TypeAlias = Union["SessionLM", "RemoteLM"]


def make_language_model(
    session: Session | RemoteSession,
    answers: AnswerStore,
    job: EvaluateJob,
    progress: Progress = no_progress,
    workers: Workers | None = None,
) -> LanguageModel:
    """Return the language model of lm-eval for *session*."""
    from bitnet_bench.evaluation.lm import SessionLM
    from bitnet_bench.evaluation.remote_lm import RemoteLM

    kind = RemoteLM if isinstance(session, RemoteSession) else SessionLM
    return kind(session, progress, answers, workers, job)  # type: ignore[arg-type]
