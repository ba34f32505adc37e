"""Behaves as bitnet.cpp's `llama-server` does: its command line, its health, its answers and its stream.

    fake_llama_server.py -m FILE -c CONTEXT -t THREADS -ngl 0 --host HOST --port PORT

What it computes is the checkpoint in $FAKE_CHECKPOINT, with the activation in $FAKE_ACTIVATION if there is one.
$FAKE_FAULT makes it fail: `crash`, `garbage`, `hang`, or `count` for a wrong number of tokens.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch
from transformers import AutoConfig

from bitnet_bench.api import open_checkpoint
from bitnet_bench.ternary.engine import Batch, Engine
from bitnet_bench.ternary.reading import Weights

FAULT = os.environ.get("FAKE_FAULT")
if "--version" in sys.argv:
    print("version: 4242 (fake)\nbuilt with a text editor", file=sys.stderr)
    sys.exit(0)
if FAULT == "crash":
    print("error: tensor blk.0.attn_q.weight has the wrong shape", file=sys.stderr)
    sys.exit(1)

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
assert set(options) == {"-m", "-c", "-t", "-ngl", "--host", "--port"}
torch.set_num_threads(int(options["-t"]))
weights = Weights(open_checkpoint(os.environ["FAKE_CHECKPOINT"]))
config = AutoConfig.from_pretrained(weights.checkpoint.path)
config.hidden_act = os.environ.get("FAKE_ACTIVATION", config.hidden_act)
engine = Engine(weights, config)


def after(ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of the token after *ids*."""
    with torch.inference_mode():
        hidden = engine.hidden(Batch.of([ids]), engine.cache(1, len(ids)))
        return engine.logits(hidden)[-1].log_softmax(-1)


class Handler(BaseHTTPRequestHandler):
    """GET /health and POST /completion."""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Say that the model is loaded."""
        self._send(json.dumps({"status": "ok"}).encode(), "application/json")

    def do_POST(self) -> None:
        """Answer a completion of ids."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if FAULT == "hang":
            time.sleep(60)
        if FAULT == "garbage":
            self._send(b"<html>segmentation fault</html>", "text/html")
        elif asked["stream"]:
            self._stream(asked)
        else:
            best = after(asked["prompt"]).sort(descending=True)
            top = [
                {"id": i, "token": "?", "bytes": [], "logprob": p}
                for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ][: asked["n_probs"]]
            said = {"content": "?", "completion_probabilities": [{**top[0], "top_logprobs": top}]}
            self._send(json.dumps(said).encode(), "application/json")

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        wanted = asked["n_predict"]
        for number in range(wanted):
            time.sleep(0.001)
            self._event({"content": "?", "stop": False, "tokens": [number]})
        timings = {
            "prompt_n": len(asked["prompt"]) - (FAULT == "count"),
            "prompt_ms": 20.0,
            "predicted_n": wanted,
            "predicted_ms": 1.5 * (wanted - 1),
        }
        self._event({"content": "", "stop": True, "timings": timings})

    def _event(self, said: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(said)}\n\n".encode())
        self.wfile.flush()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
