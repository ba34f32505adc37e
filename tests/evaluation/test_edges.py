"""Choices at the edges: merged, blank, empty, equal, too long; of three kinds of tokenizer, with and without BOS.

The oracle is lm-eval's own `hf` model where it gives a number, and plain transformers where it gives none.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from bitnet_bench.backends.batched_session import BatchedSession
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.ternary.engine import Engine
from bitnet_bench.backends.ternary.inference import TernarySession
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError, RowError
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import evaluate_task
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.usefixtures("on_the_cpu")

VOCABULARY, CONTEXT = 700, 64
WORDS = ["오늘은", "좋은", "날", "날이", "날이에요.", "에요.", "이다.", "조용하", "조용하다.", "다.", "먹었다", "었다"]
CORPUS = [*WORDS, "오늘은 좋은 날이에요.", "우리 동네는 조용하다.", "밥을 먹었다.", "the end. a b c 1 2 3 \n"] * 20
SPECIAL = ["<s>", "</s>", "<unk>"]
KINDS = ["bytes", "sentencepiece", "unigram", "wordpiece"]


@cache
def make_tokenizer(kind: str, adds_bos: bool, eos_is_bos: bool = False) -> Any:
    """Return a small tokenizer of *kind*, trained on Korean words that merge with their endings."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    shared: dict[str, Any] = {"special_tokens": SPECIAL, "vocab_size": 500, "show_progress": False}
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **shared)
    elif kind == "sentencepiece":  # as Gemma's: spaces are a character, merges go over anything, bytes for the rest
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(**shared)
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **shared)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**shared)
    made.train_from_iterator(CORPUS, trainer)
    if kind == "sentencepiece":
        data = json.loads(made.to_str())
        for octet in octets:
            data["model"]["vocab"].setdefault(octet, len(data["model"]["vocab"]))
        made = Tokenizer.from_str(json.dumps(data))
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    end = "<s>" if eos_is_bos else "</s>"
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=end, unk_token="<unk>")


@cache
def make_model() -> Any:
    """Return a random float model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    shape = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "llama", **shape, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, initializer_range=0.1
    )
    return AutoModelForCausalLM.from_config(config).eval()


class Pair:
    """One model twice: as a session of ours opens it, and as transformers runs it."""

    def __init__(self, session: Callable[[Any], BatchedSession], model: Any, nats: float) -> None:
        self._session, self._model, self.nats = session, model, nats

    def ours(self, tokenizer: Any) -> SessionLM:
        """Return what is tested."""
        return SessionLM(self._session(tokenizer))

    def expected(self, tokenizer: Any, context: str, choice: str) -> tuple[float, bool] | None:
        """Return what lm-eval's `hf` says, or plain transformers; None where there is nothing to score."""
        try:
            ((logprob, greedy),) = self._theirs(tokenizer).loglikelihood([instance(context, choice)], disable_tqdm=True)
            return logprob, greedy
        except (AssertionError, IndexError):
            return self._plain(tokenizer, context, choice)

    @cache  # noqa: B019 - a pair lives as long as its tests
    def _theirs(self, tokenizer: Any) -> Any:
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=self._model, tokenizer=tokenizer, batch_size=1)

    def _plain(self, tokenizer: Any, context: str, choice: str) -> tuple[float, bool] | None:
        stripped = context.rstrip()
        begins = stripped.startswith(tokenizer.bos_token)
        before = tokenizer.encode(stripped, add_special_tokens=not begins) if context else []
        after = tokenizer.encode(context[len(stripped) :] + choice, add_special_tokens=False)
        if not before:  # as lm-eval does for an empty context
            before, after = [tokenizer.bos_token_id], after[after[:1] == [tokenizer.bos_token_id] and len(after) > 1 :]
        if not after or len(after) > CONTEXT:
            return None
        logits = self._model(torch.tensor([[*before, *after][-CONTEXT - 1 :][:-1]])).logits[0, -len(after) :].float()
        found = logits.log_softmax(-1)[torch.arange(len(after)), torch.tensor(after)]
        return float(found.sum()), logits.argmax(-1).tolist() == after


@pytest.fixture(scope="module", params=["hf", "ternary"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Give a random model on the backend `hf`, and a ternary one on the lean engine."""
    with torch.inference_mode():
        if request.param == "hf":
            yield Pair(lambda tokenizer: HFSession(make_model(), tokenizer, "fp32"), make_model(), 1e-3)
            return
        if kernel.load_library() is None:
            pytest.skip("the CPU kernel is not built here")
        folder: Path = tmp_path_factory.mktemp("edges")
        make_model().save_pretrained(folder / "float")
        with torch.inference_mode(False):
            masters = load_model(inspect_folder(folder / "float"), "train", "ternary")
            save_checkpoint(masters, folder / "codes", "autobitlinear", "float32")
        codes = inspect_folder(folder / "codes")
        model = load_model(codes, "run", "ternary")
        engine = Engine(Weights(codes), model.config, "stored")
        # int8 rounding turns the order of float sums into steps
        yield Pair(lambda tokenizer: TernarySession(engine, tokenizer), model, 0.1)


def instance(context: str, choice: str, row: int = 0) -> Instance:
    return Instance("loglikelihood", {}, (context, choice), 0, ("task", row, 1))


def check(pair: Pair, tokenizer: Any, asked: list[tuple[str, str]]) -> None:
    """Compare each of *asked*, scored side by side, with its oracle; what cannot be scored is refused by its row."""
    expected = [pair.expected(tokenizer, *one) for one in asked]
    lm = pair.ours(tokenizer)
    for row, (one, wanted) in enumerate(zip(asked, expected, strict=True)):
        if wanted is None:
            with pytest.raises(RowError) as caught:
                lm.loglikelihood([instance(*one, row)])
            assert caught.value.row == row
    left = [(one, wanted) for one, wanted in zip(asked, expected, strict=True) if wanted is not None]
    if left:
        found = lm.loglikelihood([instance(*one, row) for row, (one, _) in enumerate(left)])
        assert [ll for ll, _ in found] == pytest.approx([wanted[0] for _, wanted in left], abs=pair.nats)


ANY_TEXT = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=4).map("".join),
    st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
    st.text(st.sampled_from("가각힣다이에요 \n.a"), max_size=8),
    st.text(st.sampled_from("가각힣다이에요"), max_size=4).map(lambda text: unicodedata.normalize("NFD", text)),
    st.sampled_from(["", " ", "\n", " \n", "\u3000", "🇰🇷", "👩‍👩‍👧", "뷁", "龘", "\u200b", "<s>", "</s>", "<s>날"]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=4))
def test_any_choice_is_scored_as_its_oracle_scores_it(
    kind: str, adds_bos: bool, pair: Pair, asked: list[tuple[str, str]]
) -> None:
    """Korean with and without spaces, decomposed, emoji, bytes: side by side, each choice has its own number."""
    check(pair, make_tokenizer(kind, adds_bos), asked)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_named_edges_are_scored_as_their_oracle_scores_them(kind: str, adds_bos: bool, pair: Pair) -> None:
    """Blank and empty contexts beside long ones, merged, equal and nearly too long choices, a context that is cut."""
    choices = ["에요.", "에요.", "이", "다.", " 좋은 날", "날이 " * 12]
    contexts = ["", "\n", " \n ", "<s>", "날", "날이", "조용하", "오늘은 좋은 날이", "오늘은 좋은 " * 40]
    check(pair, make_tokenizer(kind, adds_bos), [(context, choice) for context in contexts for choice in choices])


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_that_merges_into_its_context_is_never_certain(kind: str, pair: Pair) -> None:
    """ "날이" + "에요." is one token: lm-eval leaves nothing of the choice, which was certain and always won."""
    tokenizer = make_tokenizer(kind, True)
    assert len(tokenizer.encode("날이")) == len(tokenizer.encode("날")), "the tokens must merge"
    lm = pair.ours(tokenizer)
    ((logprob, _),) = lm.loglikelihood([instance("날", "이")])
    assert logprob < -0.1
    assert lm.counts["merged"] == 1


def test_a_merged_choice_is_scored_without_a_space_that_it_does_not_have() -> None:
    """Llama 2 writes a space before every text: behind a context, the tokens of "에요." are those without it."""
    from tokenizers import pre_tokenizers

    spaced = make_tokenizer.__wrapped__("unigram", True)
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    lm = SessionLM(HFSession(make_model(), spaced, "fp32"))
    assert spaced.convert_ids_to_tokens(spaced.encode("에요.", add_special_tokens=False))[0].startswith("▁")
    ids = lm._own_ids("에요.")
    assert "".join(spaced.convert_ids_to_tokens(ids)) == "에요."


@pytest.mark.parametrize("choice", ["", "날이 " * 200])
def test_a_row_that_cannot_be_scored_is_named_with_file_and_line(choice: str, tmp_path: Path) -> None:
    """An empty choice would be certain, and one beyond the context has no room: the row is refused, not the run."""
    folder = tmp_path / "kobest/copa"
    folder.mkdir(parents=True)
    row = {"premise": "비가 왔다.", "question": "결과", "alternative_1": "땅이 젖었다.", "label": 0}
    rows = [{**row, "alternative_2": text} for text in ("해가 떴다.", choice)]
    (folder / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    ((suite, task),) = select_tasks(["kobest"], ["copa"])
    built = build_task(suite, task, TaskSettings(tmp_path))
    built.lm_task.config.target_delimiter = ""
    lm = SessionLM(HFSession(make_model(), make_tokenizer("bytes", True), "fp32"))
    with torch.inference_mode(), pytest.raises(BenchError, match=r"Line 2 of .*test.jsonl has a choice"):
        evaluate_task(lm, built)


def test_a_session_refuses_a_context_without_tokens() -> None:
    """It would read its first token from another document of the batch."""
    session = HFSession(make_model(), make_tokenizer("bytes", False), "fp32")
    for request in (([], [5]), ([5], [])):
        with pytest.raises(ValueError, match="no token"):
            list(session.loglikelihood([([3], [4]), request]))


def test_an_empty_prompt_is_asked_behind_the_prefix_token() -> None:
    """Without BOS it would be no token at all, which no model can be asked with."""
    lm = SessionLM(HFSession(make_model(), make_tokenizer("bytes", False), "fp32"))
    options = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
    with torch.inference_mode():
        empty, bos = lm.generate_until([Instance("generate_until", {}, (text, options), 0) for text in ("", "<s>")])
    assert empty == bos
