"""The `openai` backend against a real llama.cpp server on loopback, in a process of its own."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import bitnet_bench
from bitnet_bench.backends.llamacpp import LlamaCppBackend
from bitnet_bench.backends.openai import OpenAIBackend
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.answer_cache import list_stored_models
from bitnet_bench.protocols import Endpoint, ServedRequest, sort_answers

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the extra `llamacpp` is not installed")
DEMO = Path(bitnet_bench.__file__).parent / "demo" / "ternary"
TEMPLATE = "{% for m in messages %}사용자: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}모델:{% endif %}"
SERVER = """
import sys, time
import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path, settings.model_alias = sys.argv[1], ["tiny"]
settings.n_ctx, settings.n_parallel, settings.port = 1024, 1, 0
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
settings.cache_prompt, settings.cache_ram_mib = False, 0  # what it has read before would change last bits
settings.verbosity = 0
settings.use_jinja, settings.chat_template = True, sys.argv[2]
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
sys.stdin.read()  # until the test closes it, or ends
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a random float Llama of 2 layers as F16, with the demo's tokenizer."""
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    config = read_config(DEMO) | {"num_hidden_layers": 2, "intermediate_size": 512, "initializer_range": 0.1}
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    folder = tmp_path_factory.mktemp("served")
    write_random_checkpoint(config, 0, "autobitlinear", folder / "llama", DEMO, lambda done, total, note="": None)
    export_gguf(str(folder / "llama"), "f16", folder / "tiny.gguf")
    return folder / "tiny.gguf"


@pytest.fixture(scope="module")
def url(gguf: Path) -> Iterator[str]:
    """Give the base URL of a llama.cpp server with one slot and one thread."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(gguf), TEMPLATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield f"{next(line for line in process.stdout if line.startswith('http')).strip()}/v1"
    process.communicate()


def test_log_probabilities_are_those_of_the_library(url: str, gguf: Path) -> None:
    """What the server says of forced tokens is what llama.cpp computes here, parts of characters included."""
    pairs = [("오늘 날씨는", " 맑아요"), ("오늘 날씨는", " 뷁😀"), ("한국의 수도는 ", "서울"), ("1 + 1 =", " 2")]
    checkpoint = open_checkpoint(str(gguf))
    with LlamaCppBackend().open(checkpoint, "fp16") as session:
        encode = session.tokenizer.encode
        split = [(context.rstrip(), context[len(context.rstrip()) :] + after) for context, after in pairs]
        requests = [(encode(a), encode(a + b)[len(encode(a)) :]) for a, b in split]
        wanted = sort_answers(session.loglikelihood(requests))
    with OpenAIBackend().connect(Endpoint(url, "tiny", concurrency=1)) as served:
        found = sort_answers(served.loglikelihood(pairs))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], rel=2e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_texts_and_conversations_are_those_of_the_library(url: str, gguf: Path) -> None:
    """Greedy text is the library's, and a conversation is the text that the server's template writes."""
    prompts = ["오늘 날씨는", "사용자: 안녕하세요?\n모델:"]
    checkpoint = open_checkpoint(str(gguf))
    with LlamaCppBackend().open(checkpoint, "fp16") as session:
        ids = [session.tokenizer.encode(text) for text in prompts]
        wanted = [one.text for one in sort_answers(session.generate(ids, 12, ["\n"]))]
    chat = ServedRequest(({"role": "user", "content": "안녕하세요?"},), 12, ("\n",))
    with OpenAIBackend().connect(Endpoint(url, "tiny", concurrency=1)) as served:
        found = sort_answers(served.generate([*(ServedRequest(text, 12, ("\n",)) for text in prompts), chat]))
        assert served.about["owned_by"] == "llamacpp"
    assert [one.text for one in found] == [*wanted, wanted[1]]
    assert [one.prompt_tokens for one in found] == [len(ids[0]), len(ids[1]), len(ids[1])]
    assert all(one.first_token_s for one in found)


SCRIPT = """
import os
os.environ["BITNET_BENCH_CACHE"] = CACHE
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from pathlib import Path
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.jobs import EvaluateJob

job = EvaluateJob(backend="openai", base_url=URL, concurrency=1, limit=LIMIT)
evaluate("tiny", select_tasks(["sample"], TASKS), Path(OUT), job)
"""


def results(out: Path) -> tuple[Any, Any, list[float]]:
    """Return what must not depend on a kill: scores and tokens, the samples, and their likelihoods.

    llama.cpp goes on with the request of a client that was killed, which can change the last bits of what it computes
    next, so that likelihoods are to be compared as numbers.
    """
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    counted = {
        task: (one["answers"], one["prompt_tokens"], one["new_tokens"], one["cut"])
        for task, one in record["serving"].items()
    }
    samples, likelihoods = [], []
    for line in (line for file in sorted((out / "samples").iterdir()) for line in file.read_bytes().splitlines()):
        sample = json.loads(line)
        likelihoods += sample.pop("loglikelihoods", [])
        samples.append(sample)
    return (record["scores"], record["data"], record["errors"], counted), samples, likelihoods


@pytest.mark.parametrize(
    ("tasks", "limit", "kills"),
    [(["copa", "qa"], 4, 2), pytest.param([], None, 3, marks=pytest.mark.slow)],
    ids=["two tasks", "the whole suite"],
)
def test_kills_change_no_sample(
    tmp_path: Path, url: str, forking: Any, tasks: list[str], limit: int | None, kills: int
) -> None:
    """`sample` through the server, killed again and again and resumed, ends as a run that was never killed."""
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT, encoding="utf-8")

    def start(name: str) -> Any:
        names = {"OUT": str(tmp_path / name), "CACHE": str(tmp_path / f"{name}.sqlite3")}
        names |= {"URL": url, "TASKS": tasks, "LIMIT": limit}
        process = forking.Process(target=runpy.run_path, args=(str(script), names))
        process.start()
        return process

    def count_answers(name: str) -> int:
        return sum(model.answers for model in list_stored_models(tmp_path / f"{name}.sqlite3"))

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    total = count_answers("whole")
    assert total > kills
    for kill in range(1, kills + 1):
        process = start("killed")
        while process.is_alive() and count_answers("killed") < total * kill // (kills + 1):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        assert 0 < count_answers("killed") < total
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    *found, likelihoods = results(tmp_path / "killed")
    *wanted, likely = results(tmp_path / "whole")
    assert found == wanted
    assert likelihoods == pytest.approx(likely, rel=1e-4)
    assert json.loads((tmp_path / "killed" / "record.json").read_text(encoding="utf-8"))["counts"]["cached"] > 0
