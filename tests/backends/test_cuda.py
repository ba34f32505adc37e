"""The same on a real GPU: exact integers, rows, a batch in flight, and tokens from a graph. Without one, skipped."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.transfers import PendingTensors, send
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.measurement.gpu_readings import CudaReadings
from bitnet_bench.protocols import sort_answers
from bitnet_bench.ternary.linear import integer_matmul
from tests.backends.test_branches import random_model, requests
from tests.backends.test_slots import Words

pytestmark = pytest.mark.skipif(find_gpu() is None, reason="no GPU")


@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 2560, 2560), (17, 13, 6912), (300, 640, 2560)])
def test_integers_are_multiplied_exactly(tokens: int, rows: int, columns: int) -> None:
    q = torch.randint(-128, 128, (tokens, columns), dtype=torch.int8)
    codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8)
    assert torch.equal(integer_matmul(q.cuda(), codes.cuda()).cpu(), (q.int() @ codes.int().t()).float())


def test_tensors_arrive_as_they_were_sent() -> None:
    tensor = torch.arange(5)
    sent = send(tensor, torch.device("cuda"))
    assert sent.is_cuda
    (back,) = PendingTensors([sent * 2]).wait()
    assert torch.equal(back, tensor * 2)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("shared", [0, 70])
def test_the_gpu_scores_what_the_cpu_scores(model_type: str, shared: int) -> None:
    asked = requests(shared)
    model = random_model(model_type)
    with torch.inference_mode():
        wanted = sort_answers(HFSession(copy.deepcopy(model), None, "fp32").loglikelihood(asked))
        session = HFSession(model.cuda(), None, "fp32")
        session.budget = 600
        found = sort_answers(session.loglikelihood(asked))
    assert session.in_flight == 1
    for (ours, _), (theirs, _) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_graph_writes_what_the_cpu_writes() -> None:
    rng = random.Random(0)
    asked = [[rng.randrange(3, 300) for _ in range(length)] for length in (3, 40, 17, 1, 60)]
    model = random_model("llama")
    with torch.inference_mode():
        wanted = sort_answers(HFSession(copy.deepcopy(model), Words(), "fp32").generate(asked, 12, []))
        session = HFSession(model.cuda(), Words(), "fp32")
        found = sort_answers(session.generate(asked, 12, []))
    assert session.slots.graphs, "the step was captured"
    assert session.describe_runtime().endswith("tokens from a CUDA graph")
    assert found == wanted


def test_events_time_what_the_session_waits_for() -> None:
    with torch.inference_mode():
        session = HFSession(random_model("llama").cuda(), Words(), "fp32")
        readings = CudaReadings(session)
        readings.begin()
        session.prefill([[1, 2, 3]])
    seconds = readings.elapsed_s()
    assert seconds is not None
    assert seconds > 0
    assert readings.used_bytes()
