"""The `openai` backend: a model on a server that speaks OpenAI's protocol, such as vLLM, SGLang and llama-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bitnet_bench.protocols import Endpoint, RemoteBackend, RemoteSession


class OpenAIBackend(RemoteBackend):
    """Asks a server, over completions or chat completions."""

    summary = "a model on a server (`--base-url`): vLLM, SGLang, llama-server or an API, over OpenAI's protocol"

    def find_runtime(self) -> str:
        """Return the protocol; whether a server answers is found out when it is asked."""
        return "the protocol of OpenAI, over HTTP"

    @contextmanager
    def connect(self, endpoint: Endpoint) -> Iterator[RemoteSession]:
        """Ask the server for the model and yield a session on it."""
        from bitnet_bench.backends.openai.session import OpenAISession

        session = OpenAISession(endpoint)
        try:
            session.check_model()
            yield session
        finally:
            session.close()
