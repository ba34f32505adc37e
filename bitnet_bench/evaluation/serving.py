"""Open what a run scores: a checkpoint here, or a model on a server, whose weights cannot be seen."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bitnet_bench import plugins
from bitnet_bench.checkpoints.identity import digest_files
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import UsageError
from bitnet_bench.evaluation.answer_cache import compute_digest
from bitnet_bench.machine.runtime_choice import RuntimeChoice, choose_backend, default_precision
from bitnet_bench.protocols import Endpoint, InferenceBackend, RemoteBackend, RemoteSession, RuntimeOptions, Session
from bitnet_bench.runs.choices import AUTO, RecordedPrecision
from bitnet_bench.runs.jobs import ChatJob, EvaluateJob, ServingJob
from bitnet_bench.runs.records import Checkpoint, ServedTask

if TYPE_CHECKING:
    from bitnet_bench.protocols import ServedAnswer

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
LOCAL_SETTINGS = (
    "precision",
    "tokenizer",
    "read_as",
    "activations",
    "kv_cache",
    "gguf",
    "libllama",
    "gpu_layers",
    "bitnetcpp_dir",
    "allow_mismatch",
)
"""Fields of a job that say how a checkpoint is run here."""
DRAW_STEP = 1_000_003
"""Distance between the seeds of two answers to one request."""
SERVED_SEEDS = 2**32 - 1
"""Number of seeds that every server takes: the next one asks llama-server for a random one."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger(__name__)


def open_model(model: str, job: EvaluateJob) -> Checkpoint:
    """Return the checkpoint *model*, or the model of that name on the server of the job."""
    if not is_remote(job.backend, job.base_url):
        return open_checkpoint(model, job.tokenizer, job.read_as)
    given = [name for name in LOCAL_SETTINGS if getattr(job, name) != EvaluateJob.default(name)]
    if given:
        raise UsageError(
            f"{', '.join(f'`{name}`' for name in given)} is about a checkpoint here, and the model is on a server.",
            "Leave it out.",
        )
    backend: RemoteBackend = plugins.load_plugin("backends", job.backend)
    endpoint = make_endpoint(model, job)
    with backend.connect(endpoint) as session:
        return describe_served(endpoint, session.about)


def is_remote(backend: str, base_url: str | None) -> bool:
    """Return whether *backend* reaches models on a server; UsageError if the base URL does not fit that."""
    remote = backend != AUTO and plugins.load_plugin("backends", backend).is_remote
    check_base_url(backend, remote, base_url)
    return bool(remote)


def check_base_url(backend: str, remote: bool, base_url: str | None) -> None:
    """Raise UsageError unless there is a base URL if, and only if, *backend* is *remote*."""
    if remote and base_url is None:
        raise UsageError(
            f"The backend {backend!r} asks a server, and there is no `base_url`.",
            "Give it, such as http://localhost:8000/v1, and the name of a model there as `model`.",
        )
    if base_url is not None and not remote:
        raise UsageError("`base_url` names a server, which only `backend=openai` asks.", "Give both, or neither.")


def make_endpoint(model: str, job: ServingJob) -> Endpoint:
    """Return the endpoint of *model*, with its key from the environment."""
    assert job.base_url is not None
    key = find_key(job.base_url, job.api_key_variable)
    concurrency = job.concurrency if isinstance(job, EvaluateJob) else 1
    return Endpoint(job.base_url, model, key, concurrency, job.request_timeout)


def find_key(base_url: str, variable: str | None) -> str | None:
    """Return the key in the environment variable *variable*, by default `DEFAULT_KEY_VARIABLE`; None without one.

    The default's key is for whoever is named nowhere: it is not sent over a network without TLS.
    """
    key = os.environ.get(variable or DEFAULT_KEY_VARIABLE, "").strip() or None
    if variable and key is None:
        raise UsageError(f"The environment has no variable {variable}.", f"Set it to the key: export {variable}=...")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"The variable {variable or DEFAULT_KEY_VARIABLE} holds characters that no key has.",
            "Set it to the key alone, without quotation marks or line ends.",
        )
    parts = urlsplit(base_url)
    if key is not None and variable is None and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        _log.warning(
            "The key in %s is not sent to %s, whose URL has no TLS: name the variable with `api_key_variable`.",
            DEFAULT_KEY_VARIABLE,
            parts.hostname,
        )
        return None
    return key


def describe_served(endpoint: Endpoint, about: Any) -> Checkpoint:
    """Return a served model as a checkpoint whose digest is that of its endpoint and of what the server says."""
    url = endpoint.base_url.strip().rstrip("/")
    meta = about.get("meta")
    count = meta.get("n_params") if isinstance(meta, dict) else None
    identity = compute_digest(url, endpoint.model, json.dumps(about, sort_keys=True))
    return Checkpoint(
        source=endpoint.model,
        path="",
        architecture="unknown",
        format="served",
        dtype="unknown",
        sha256=identity.hex(),
        weight_bytes={},
        parameters=count if isinstance(count, int) and count > 0 else 0,
        ternary_parameters=0,
        endpoint=url,
        served_as=dict(about),
    )


def choose_how_to_run(checkpoint: Checkpoint, job: EvaluateJob) -> tuple[RecordedPrecision, RuntimeChoice]:
    """Return the precision and the backend of *checkpoint*: what the job says, else the defaults of this machine."""
    if checkpoint.is_served:
        return "served", RuntimeChoice(job.backend)
    precision = job.precision or default_precision(checkpoint, job.backend)
    return precision, choose_backend(job.backend, checkpoint, precision)


def digest_inputs(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the digests of the files beside the weights; {} for a served model, whose files are not here."""
    return {} if checkpoint.is_served else digest_files(Path(checkpoint.path))


def connect(
    checkpoint: Checkpoint, backend: str, precision: RecordedPrecision, job: EvaluateJob
) -> AbstractContextManager[Session | RemoteSession]:
    """Open *checkpoint*, or a model on a server, in *backend*."""
    opener: InferenceBackend | RemoteBackend = plugins.load_plugin("backends", backend)
    if isinstance(opener, RemoteBackend):
        return opener.connect(make_endpoint(checkpoint.source, job))
    options = RuntimeOptions(
        job.gguf, job.bitnetcpp_dir, job.allow_mismatch, job.libllama, job.gpu_layers, job.activations, job.kv_cache
    )
    assert precision != "served", "only a server's model has that precision"
    return plugins.open_session(opener.configured(options), checkpoint, precision)


def summarize_answers(answers: Iterable[ServedAnswer]) -> ServedTask | None:
    """Return what a server said and took for *answers*; None if there are none."""
    answers = list(answers)
    if not answers:
        return None
    return ServedTask(
        answers=len(answers),
        prompt_tokens=_add([answer.prompt_tokens for answer in answers]),
        new_tokens=_add([answer.new_tokens for answer in answers]),
        cut=sum(answer.is_cut for answer in answers),
        first_token_s=_spread([answer.first_token_s for answer in answers]),
        answer_s=_spread([answer.seconds for answer in answers]),
    )


def _add(counts: list[int | None]) -> int | None:
    """Return the sum of *counts*; None if one is missing."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _spread(seconds: list[float | None]) -> tuple[float, float] | None:
    """Return the median and the 95th percentile of the *seconds* that are known; None if none are."""
    known = sorted(value for value in seconds if value is not None)
    return (median(known), known[min(len(known) - 1, int(0.95 * len(known)))]) if known else None


def make_sampling_settings(job: EvaluateJob | ChatJob, draw: int = 0) -> dict[str, Any]:
    """Return the fields of a request that say how tokens are drawn; {} for the most likely ones.

    *draw* numbers the answers to one request, each of which has a seed of its own: no small seed of another run is it.
    """
    if not job.temperature:
        return {}
    found: dict[str, Any] = {"temperature": job.temperature, "seed": (job.seed + draw * DRAW_STEP) % SERVED_SEEDS}
    found |= {"top_p": job.top_p} if job.top_p < 1 else {}
    return found | ({"top_k": job.top_k} if job.top_k is not None else {})


def make_settings(job: EvaluateJob | None, draw: int, is_chat: bool) -> dict[str, Any]:
    """Return the fields of a request that say how tokens are chosen; {} for the most likely ones.

    Whether the model thinks is told to the server's chat template, as vLLM, SGLang and llama-server take it.
    """
    if job is None:
        return {}
    found = make_sampling_settings(job, draw)
    if is_chat and job.thinking != "auto":
        found["chat_template_kwargs"] = {"enable_thinking": job.thinking == "on"}
    return found
