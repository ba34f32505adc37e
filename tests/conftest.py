"""What the tests share: a tiny tokenizer, and tiny random checkpoints of several architectures."""

from __future__ import annotations

import os

# before torch and transformers are imported: their compiled quantizers need a C++ compiler and a minute each
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # pytest-xdist says 80, and lines of a file have no width
if "PYTEST_XDIST_WORKER" in os.environ:  # two processes of two threads on two cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import itertools
import multiprocessing
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# a busy machine is no fault: how long an example takes is not what is tested
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")
os.environ["BITNET_BENCH_LANG"] = "en"  # whatever the locale of whoever runs the tests
RUN_FORKED = Path(__file__).parent / "run_forked.py"
VOCABULARY = 300
CORPUS = (
    "사용자: 안녕하세요?\n모델: 안녕하세요! 만나서 반가워요.",
    "사용자: 오늘 날씨 어때요?\n모델: 오늘 날씨는 맑아요.",
    "### Instruction:\n한국의 수도는?\n\n### Response:\n한국의 수도는 서울이에요.",
    "오늘 안녕 오늘 안녕 한국 한국 서울 서울 네 네 네",
)


def pytest_collection_finish() -> None:
    """Keep what the imports made out of each garbage collection: statsmodels collects in every call of a function."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Give what makes an empty folder for one test.

    `mktemp` looks for the next number among all folders that there are, and thousands of tests would make some each.
    """
    parent, numbers = tmp_path_factory.mktemp("own"), itertools.count()

    def make() -> Path:
        folder = parent / str(next(numbers))
        folder.mkdir()
        return folder

    return make


@pytest.fixture(autouse=True)
def own_cache(make_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the answers of a test to itself: what one test computed must not answer another."""
    file = make_folder() / "answers.sqlite3"
    monkeypatch.setenv("BITNET_BENCH_CACHE", str(file))
    return file


@pytest.fixture(autouse=True)
def own_state(make_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the suites that a test trusts to itself, and out of the state folder of whoever runs the tests."""
    folder = make_folder()
    monkeypatch.setenv("BITNET_BENCH_STATE", str(folder))
    monkeypatch.setenv("BITNET_BENCH_MACHINE_LOCKS", str(folder))  # tests that measure do not wait for one another
    return folder


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU, here and from processes that are started: the CPU's numbers are tested, or batches of its size."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


PRELOAD = [
    "lm_eval.evaluator",
    "tensorboardX",
    "transformers.models.bitnet.modeling_bitnet",
    "transformers.tokenization_utils_tokenizers",
    "transformers.trainer",
    "bitnet_bench.backends.hf.inference",
    "bitnet_bench.backends.hf.training",
    "bitnet_bench.backends.ternary.inference",
    "bitnet_bench.cli",
    "bitnet_bench.evaluation.evaluate",
    "bitnet_bench.training.finetune",
]
"""What the command line imports sooner or later: six seconds of computing."""


@pytest.fixture(scope="session")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a `multiprocessing` context whose processes are forks of one that has imported what takes seconds.

    A fork is alone like any process (its files, its environment, its end by a signal); only variables that a library
    reads when it is imported come too late for it.
    """
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # several of them run at once
        # an import that asks CUDA whether it is there would keep every fork from a GPU
        patch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        forkserver.ensure_running()
    return context


@pytest.fixture
def start_command(forking: Any, tmp_path: Path) -> Callable[..., BaseProcess]:
    """Give what starts `python -m bitnet_bench` with words, in a folder, with more in its environment; None unsets.

    Standard output and standard error go into two files, `output` of the process, or *together* into one.
    """
    folder = tmp_path.with_name(f"{tmp_path.name}-output")
    folder.mkdir(exist_ok=True)

    def start(*words: str, cwd: Path = tmp_path, together: bool = False, **environment: str | None) -> BaseProcess:
        merged = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        number = len(list(folder.iterdir()))
        output = folder / f"{number}-out", folder / f"{number}-err"
        for file in output:
            file.touch()
        asked = {
            "words": tuple(map(str, words)),
            "cwd": str(cwd),
            "environment": {name: value for name, value in merged.items() if value is not None},
            "output": tuple(map(str, output)) if not together else (str(output[0]),) * 2,
        }
        process: BaseProcess = forking.Process(target=runpy.run_path, args=(str(RUN_FORKED), {"ASKED": asked}))
        process.output = output  # type: ignore[attr-defined]
        process.start()
        return process

    return start


@pytest.fixture
def kill_command(start_command: Callable[..., BaseProcess]) -> Callable[..., None]:
    """Give what starts `python -m bitnet_bench` with words and ends it by SIGKILL once *is_reached*, within seconds."""

    def kill(*words: str, is_reached: Callable[[], bool], limit_s: float) -> None:
        process = start_command(*words)
        deadline = time.monotonic() + limit_s
        while not is_reached():
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()

    return kill


@pytest.fixture
def run_command(start_command: Callable[..., BaseProcess]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give what runs `python -m bitnet_bench` to its end, with the arguments of `start_command`."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = start_command(*words, **more)
        process.join()
        said = (file.read_text(encoding="utf-8") for file in process.output)  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(words, process.exitcode or 0, *said)

    return run


@pytest.fixture
def run_in_terminal() -> Callable[..., str]:
    """Give what runs Python code on a terminal of a number of columns, with more in its environment.

    It returns what the terminal was sent, with ends of lines as in a file; code that fails fails the test.
    """
    import pty  # of Linux and macOS

    def run(code: str, columns: int, **environment: str) -> str:
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
        os.close(controller)
        assert process.wait() == 0
        return shown.decode().replace("\r\n", "\n")

    return run


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[bool], Any]:
    """Give a factory of byte-level BPE tokenizers that add `<s>` by themselves.

    *trim_offsets*: whether the offsets of " 답" begin at 답, as in GPT-2, or at the space, as in Llama 3 and Qwen.
    """

    def make(trim_offsets: bool = False) -> Any:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        bpe = Tokenizer(models.BPE())
        bpe.normalizer = normalizers.NFC()
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(CORPUS, trainer)
        bpe.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=trim_offsets),
                processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]),
            ]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            clean_up_tokenization_spaces=False,
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer of 300 tokens, with `<s>` 0, `</s>` 1 and `<pad>` 2."""
    return make_tokenizer(False)


def _config(architecture: str) -> Any:
    from transformers import (
        BitNetConfig,
        Gemma3TextConfig,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        Qwen3Config,
    )

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if architecture == "gpt2":
        return GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=128, **special)
    family = {
        "bitnet": BitNetConfig,
        "gemma3_text": Gemma3TextConfig,
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
    }[architecture]
    more: dict[str, Any] = {}
    if architecture in {"qwen3", "gemma3_text"}:
        more["head_dim"] = 16
    if architecture == "gemma3_text":
        more |= {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    return family(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=architecture != "llama",
        **special,
        **more,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """Give a factory of checkpoint folders as transformers writes them.

    bitnet, llama (with an untied head), mistral, qwen2 (with biases), qwen3 (with norms of q and k) and gpt2.
    Weights are random and float32; norms and biases are random too, so that none of them can be lost unseen.
    """
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        if architecture not in made:
            torch.manual_seed(7)
            model = AutoModelForCausalLM.from_config(_config(architecture), dtype=torch.float32)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.dim() == 1:
                        parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if "norm" in name else 0.0))
            folder = tmp_path_factory.mktemp("checkpoints") / architecture
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def random_groups() -> Callable[..., Any]:
    """Give a factory of ternary weights with a scale per group: rows, columns, group, seed, and the codes to draw."""
    import torch

    from bitnet_bench.ternary.groups import canonical_scales, scale_groups

    def make(rows: int, columns: int, group: int, seed: int, values: tuple[int, ...] = (-1, 0, 1)) -> Any:
        """Return float16 weights t * s; the scales of neighbouring groups differ."""
        random = torch.Generator().manual_seed(seed)
        chosen = torch.randint(0, len(values), (rows, columns), generator=random)
        codes = torch.tensor(values, dtype=torch.int8)[chosen]
        scales = (torch.rand(rows, columns // group, generator=random) * 0.1 + 0.02).half().float()
        return scale_groups(codes, canonical_scales(codes, scales)).half()

    return make


@pytest.fixture(scope="session")
def group_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, random_groups: Callable[..., Any]
) -> Callable[[str, int], Path]:
    """Give a factory of float16 folders of Qwen3 (tied) and Llama (untied) as Ternary Bonsai is published."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    made: dict[tuple[str, int], Path] = {}

    def make(architecture: str, group: int) -> Path:
        if (architecture, group) not in made:
            shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
            special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
            config = {"qwen3": Qwen3Config, "llama": LlamaConfig}[architecture](
                vocab_size=300,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=256,
                tie_word_embeddings=architecture == "qwen3",
                **shape,
                **special,
            )
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
            with torch.no_grad():
                for seed, parameter in enumerate(model.parameters()):
                    if parameter.dim() == 2:
                        parameter.copy_(random_groups(*parameter.shape, group, seed))
                    else:
                        torch.manual_seed(seed)
                        parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
            folder = tmp_path_factory.mktemp("groups") / f"{architecture}-{group}"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[architecture, group] = folder
        return made[architecture, group]

    return make


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Any]:
    """Give a factory of runs: name, task -> what each example got (0..1), and fields of the record to set.

    Examples choose between two answers, so that accuracy and macro_f1 are theirs; a list of Example is taken as it is.
    """
    from bitnet_bench.metrics import load_metric
    from bitnet_bench.runs.records import Checkpoint, Environment, Example, RunRecord, Score
    from bitnet_bench.runs.run import LoadedRun

    def example(task: str, doc: int, correct: float) -> Example:
        target = doc % 2
        output = target if correct >= 1.0 else 1 - target
        choices = ("아니오", "예")
        return Example(
            task=task,
            doc_id=doc,
            prompt=f"질문 {doc}",
            choices=choices,
            loglikelihoods=tuple(-1.0 if i == output else -2.0 for i in range(2)),
            target=choices[target],
            target_choice=target,
            output=choices[output],
            output_choice=output,
            correct=correct,
        )

    def make(name: str, tasks: Any, metrics: tuple[str, ...] = ("accuracy", "macro_f1"), **fields: Any) -> LoadedRun:
        rows = {
            task: [one if isinstance(one, Example) else example(task, doc, one) for doc, one in enumerate(given)]
            for task, given in tasks.items()
        }
        precision = fields.pop("precision", "ternary")
        ternary = precision == "ternary"
        scores = tuple(
            Score(
                task=task,
                metric=key,
                value=load_metric(key).value(given),
                stderr=load_metric(key).stderr(given),
                n=len(given),
                signature=load_metric(key).signature(),
                primary=key == metrics[0],
                chance=50.0 if key == metrics[0] else None,
            )
            for task, given in rows.items()
            for key in metrics
        )
        checkpoint = Checkpoint(
            source=f"/models/{name}",
            path=f"/models/{name}",
            architecture="LlamaForCausalLM",
            format="autobitlinear" if ternary else "float",
            scale_direction="divide" if ternary else None,
            dtype="bfloat16",
            sha256="b" * 64,
            weight_bytes={"ternary": 1000} if ternary else {"linear": 8000},
            parameters=4000,
            ternary_parameters=4000 if ternary else 0,
        )
        environment = Environment(
            time="2026-01-01T00:00:00+00:00",
            platform="Linux",
            python="3.11",
            cpu="CPU",
            cores=2,
            threads=2,
            memory_bytes=2**33,
            packages={"bitnet-bench": "0.1.0", "torch": "2.13"},
            command=f"bitnet-bench evaluate --model {name}",
        )
        notices = fields.pop("notices", ())
        training = fields.pop("training", None)
        record = {
            "name": name,
            "checkpoint": checkpoint,
            "backend": "hf",
            "precision": precision,
            "suites": {task.partition(":")[0]: "1" for task in rows},
            "settings": {"tasks": list(rows), "prompts": "default", "shots": 0, "seed": 0, "chat_template": False},
            "data": {task: task.encode().hex().ljust(64, "0")[:64] for task in rows},
            "scores": scores,
            "environment": environment,
            **fields,
        }
        return LoadedRun(RunRecord(**record), rows, notices, training)

    return make
