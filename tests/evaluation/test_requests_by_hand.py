"""What a model is asked: cut to the exact token, ended at the first stop, and kept under everything that decides it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from bitnet_bench.backends.batched_session import Prompt, Writing
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.errors import BenchError, RowError
from bitnet_bench.evaluation.answer_cache import AnswerStore
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.protocols import ALL_REQUESTS, Completion, Session, Share

BOS, EOS = "^", "$"


class Letters:
    """A tokenizer with a token for each character, and `^` before every text."""

    bos_token, eos_token = BOS, EOS
    bos_token_id, eos_token_id = ord(BOS), ord(EOS)
    chat_template = None
    name_or_path = "letters"
    all_special_ids = (ord(BOS), ord(EOS))

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        """Return a number for each character."""
        return [ord(letter) for letter in (BOS if add_special_tokens else "") + text]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the characters."""
        return "".join(chr(i) for i in ids if not (skip_special_tokens and i in self.all_special_ids))


class Recorder(Session, adds=("asked",)):
    """A session that keeps what it is asked as text: a token of a continuation has the log-probability -1."""

    precision = "fp32"

    def __init__(self, max_length: int = 100) -> None:
        self.tokenizer, self.max_length = Letters(), max_length
        self.asked: list[tuple[str, str]] = []
        """Contexts with continuations, or prompts with their limit and stops."""

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Keep what is not known already."""
        for i, (context, continuation) in enumerate(requests):
            if i not in part.known:
                self.asked.append((self.tokenizer.decode(context), self.tokenizer.decode(continuation)))
                yield [(i, (-float(len(continuation)), False))]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str],
        part: Share = ALL_REQUESTS,
        **_: Any,
    ) -> Iterator[Sequence[tuple[int, Completion]]]:
        """Keep what is not known already."""
        for i, prompt in enumerate(prompts):
            if i not in part.known:
                self.asked.append((self.tokenizer.decode(prompt), f"{max_new_tokens} {list(stop)}"))
                yield [(i, Completion(""))]

    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Do nothing."""

    def decode(self, state: Any, steps: int) -> Any:
        """Do nothing."""

    def footprint(self) -> tuple[int, int]:
        """Take nothing."""
        return 0, 0


class Shelf(AnswerStore):
    """A store in memory."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}

    def lookup(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return what is there."""
        return {i: self.answers[request] for i, request in enumerate(requests) if request in self.answers}

    def save(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep all."""
        self.answers.update(pairs)


def choice(context: str, continuation: str) -> Instance:
    """Return the request for a choice."""
    return Instance("loglikelihood", {}, (context, continuation), 0)


def text(prompt: str, stops: Sequence[str] = ("\n",), limit: int = 4) -> Instance:
    """Return the request for a text."""
    return Instance(
        "generate_until", {}, (prompt, {"until": list(stops), "max_gen_toks": limit, "do_sample": False}), 0
    )


@pytest.mark.parametrize(
    ("room", "read", "truncated"),
    [
        (2, "f", 1),  # of three tokens two are the choice's, whose last one is not read
        (3, "ef", 1),
        (4, "def", 1),
        (6, "bcdef", 1),
        (7, "abcdef", 1),  # only BOS is lost
        (8, "^abcdef", 0),
        (9, "^abcdef", 0),
    ],
)
def test_a_context_is_cut_on_the_left_to_the_exact_token(room: int, read: str, truncated: int) -> None:
    """A model of *room* tokens reads all of them: the context, and the choice without its last token."""
    session = Recorder(room)
    lm = SessionLM(session)
    assert lm.loglikelihood([choice("abcdef", "XY")]) == [(-2.0, False)]
    assert session.asked == [(read, "XY")]
    assert len(read) + len("XY") - 1 == min(room, len("^abcdef") + 1)
    assert lm.counts == {"requests": 1, "truncated": truncated, "cached": 0}


def test_each_choice_of_a_question_is_cut_for_its_own_length() -> None:
    """A longer choice leaves its context less room; none loses a token of its own."""
    session = Recorder(5)
    lm = SessionLM(session)
    lm.loglikelihood([choice("abcdef", "X"), choice("abcdef", "XYZ"), choice("abcdef", "VWXYZ"), choice("ab", "X")])
    assert session.asked == [("bcdef", "X"), ("def", "XYZ"), ("f", "VWXYZ"), ("^ab", "X")]
    assert lm.counts["truncated"] == 3


@pytest.mark.parametrize(
    ("room", "limit", "read", "writes", "truncated"),
    [
        (10, 3, "^abcdef", 3, 0),  # exactly ten
        (9, 3, "abcdef", 3, 1),
        (8, 3, "bcdef", 3, 1),
        (8, 7, "cdef", 4, 1),  # a prompt keeps half of a small room, whatever the task allows
        (7, 100, "cdef", 3, 1),
    ],
)
def test_a_prompt_leaves_room_for_the_answer_to_the_exact_token(
    room: int, limit: int, read: str, writes: int, truncated: int
) -> None:
    """Prompt and answer together fill the context, and no token of it is wasted."""
    session = Recorder(room)
    lm = SessionLM(session)
    lm.generate_until([text("abcdef", limit=limit)])
    assert session.asked == [(read, f"{writes} ['\\n']")]
    counted = {"requests": 1, "truncated": truncated, "cached": 0}
    assert lm.counts == (counted | {"shortened": 1} if writes < limit else counted)


@pytest.mark.parametrize(
    ("room", "windows"),
    [
        (7, [("^", "abcdefg")]),
        (6, [("^", "abcdef"), ("abcdef", "g")]),  # the last window reads as much as there is room for
        (4, [("^", "abcd"), ("cd", "efg")]),
        (3, [("^", "abc"), ("c", "def"), ("def", "g")]),
        (2, [("^", "ab"), ("b", "cd"), ("d", "ef"), ("ef", "g")]),
    ],
)
def test_running_text_is_read_in_windows_that_score_every_token_once(room: int, windows: list[tuple[str, str]]) -> None:
    """Each window fills the context, and the first token of the text follows BOS."""
    session = Recorder(room)
    (found,) = SessionLM(session).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("abcdefg",), 0)])
    assert session.asked == windows
    assert found == -7.0


class Pieces:
    """A tokenizer of pieces of text; the last is EOS."""

    pieces = ("서울", "입니다", ".\n질문:", " 부산", "\n\n", "<끝>")
    eos_token_id = 5
    all_special_ids = (5,)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the pieces, EOS only if it is not skipped."""
        return "".join(self.pieces[i] for i in ids if not (skip_special_tokens and i == 5))


class Writer(HFSession):
    """A session that writes the given tokens."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.tokenizer, self._ids = Pieces(), list(ids)

    def prefill(self, batch: Any) -> Any:
        """Write the first token."""
        return Written(self._ids)

    def decode(self, state: Any, steps: int) -> Any:
        """Write the next one."""
        return Written(state.ids[1:])

    def queue(self, state: Any) -> Any:
        """Nothing is written ahead."""


class Written:
    """The tokens that are still to be written."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids, self.tokens = list(ids), torch.tensor(list(ids)[:1])


def write(ids: Sequence[int], stops: Sequence[str], limit: int | None = None) -> str:
    """Return the answer that is made of *ids*."""
    (answer,) = Writer(ids)._continue([Prompt((0,), limit or len(ids))], Writing(stops))
    return answer.text


@pytest.mark.parametrize("stops", permutations((".", "\n", "질문:")))
def test_an_answer_ends_at_the_first_of_several_stops(stops: tuple[str, ...]) -> None:
    """One token brings all three: the one that is first in the text ends it, in whichever order they are given."""
    assert write([0, 1, 2, 3], stops) == "서울입니다"


@pytest.mark.parametrize(
    ("ids", "stops", "answer"),
    [
        ([0, 1, 2, 3], ["\n", "질문:"], "서울입니다."),
        ([0, 1, 2, 3], ["질문:"], "서울입니다.\n"),
        ([2, 0], [".", "\n"], ""),
        ([0, 4, 1], ["\n\n"], "서울"),
        ([0, 1, 4], [], "서울입니다\n\n"),
        ([0, 5, 1], ["\n"], "서울"),  # EOS
        ([0, 1, 0], ["대구"], "서울입니다서울"),
        ([0, 3, 0], ["울 부"], "서"),  # over two tokens
    ],
)
def test_an_answer_holds_what_stands_before_its_stop_and_nothing_of_it(
    ids: list[int], stops: list[str], answer: str
) -> None:
    """Without a stop it has all tokens up to the limit."""
    assert write(ids, stops) == answer


@pytest.mark.parametrize(("limit", "answer"), [(1, "서울"), (2, "서울입니다"), (3, "서울입니다 부산")])
def test_an_answer_has_at_most_as_many_tokens_as_its_limit(limit: int, answer: str) -> None:
    """To the exact token."""
    assert write([0, 1, 3, 4], [], limit) == answer


GENERATED = text("abcdef", stops=("\n", "."), limit=4)
OTHER_TEXTS = {
    "prompt": text("abcdeg", stops=("\n", "."), limit=4),
    "a prompt that is longer": text("abcdeff", stops=("\n", "."), limit=4),
    "stops": text("abcdef", stops=("\n", "!"), limit=4),
    "a stop less": text("abcdef", stops=("\n",), limit=4),
    "a stop that is two": text("abcdef", stops=("\n.",), limit=4),
    "limit": text("abcdef", stops=("\n", "."), limit=5),
}
SCORED = choice("abc", "def")
OTHER_CHOICES = {
    "context": choice("abx", "def"),
    "continuation": choice("abc", "dex"),
    "where the context ends": choice("abcd", "ef"),
}


@pytest.mark.parametrize("what", OTHER_TEXTS)
def test_an_answer_that_was_written_is_not_that_of_another_request(what: str) -> None:
    """Prompt, stops and limit decide it; the same ones take it."""
    shelf, session = Shelf(), Recorder()
    SessionLM(session, answers=shelf).generate_until([GENERATED])
    lm = SessionLM(session, answers=shelf)
    lm.generate_until([GENERATED])
    assert (lm.counts["cached"], len(session.asked)) == (1, 1)
    lm.generate_until([OTHER_TEXTS[what]])
    assert (lm.counts["cached"], len(session.asked)) == (1, 2)


@pytest.mark.parametrize("what", OTHER_CHOICES)
def test_an_answer_that_was_scored_is_not_that_of_another_request(what: str) -> None:
    """Context and continuation decide it, and where one ends and the other begins."""
    shelf, session = Shelf(), Recorder()
    SessionLM(session, answers=shelf).loglikelihood([SCORED])
    lm = SessionLM(session, answers=shelf)
    lm.loglikelihood([SCORED])
    assert (lm.counts["cached"], len(session.asked)) == (1, 1)
    lm.loglikelihood([OTHER_CHOICES[what]])
    assert (lm.counts["cached"], len(session.asked)) == (1, 2)


def test_a_request_for_a_choice_is_none_for_a_text() -> None:
    """The same tokens may be asked in both ways, and a log-probability is no text."""
    shelf, session = Shelf(), Recorder()
    lm = SessionLM(session, answers=shelf)
    lm.loglikelihood([choice("ab", "c")])
    lm.generate_until([text("ab", stops=("c",), limit=1)])
    assert len(session.asked) == len(shelf.answers) == 2


def test_what_the_answer_store_gives_is_what_the_model_gave() -> None:
    """Numbers to the last bit, and texts with whatever characters they have."""

    class Odd(Recorder):
        """A session with answers that are hard to write down."""

        def loglikelihood(self, requests: Any, part: Share = ALL_REQUESTS) -> Iterator[Any]:
            """Return a number without a short form."""
            yield [(i, (-0.1 - 0.2, True)) for i in range(len(requests)) if i not in part.known]

        def generate(self, prompts: Any, max_new_tokens: int, stop: Any, part: Share = ALL_REQUESTS) -> Iterator[Any]:
            """Return odd characters."""
            yield [(i, Completion("한글\u2028\x00😀", cut=True)) for i in range(len(prompts)) if i not in part.known]

    shelf = Shelf()
    for _ in range(2):
        lm = SessionLM(Odd(), answers=shelf)
        assert lm.loglikelihood([SCORED]) == [(-0.1 - 0.2, True)]
        assert lm.generate_until([GENERATED]) == ["한글\u2028\x00😀"]
    assert (lm.counts["cached"], lm.counts["cut"]) == (2, 1)


def frame(part: bytes) -> bytes:
    """Return *part* after its length, in eight bytes from the lowest."""
    return len(part).to_bytes(8, "little") + part


def test_answers_are_found_by_a_later_version_under_the_same_bytes() -> None:
    """The kind, then eight bytes for each token: of the prompt, the limit and the stops, or of context and choice."""
    shelf = Shelf()
    lm = SessionLM(Recorder(), answers=shelf)
    lm.generate_until([text("b", stops=("\n",), limit=4)])
    lm.loglikelihood([choice("b", "c")])
    begins, b, c, four = (number.to_bytes(8, "little") for number in (ord(BOS), ord("b"), ord("c"), 4))
    assert list(shelf.answers) == [
        frame(b"generate") + frame(begins + b) + frame(four) + frame(b'["\\n"]'),
        frame(b"loglikelihood") + frame(begins + b) + frame(c),
    ]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"until": ["x"]}, "256 ['x']"),
        ({"until": "x", "max_gen_toks": 7}, "7 ['x']"),
        ({"until": ["x", "y"], "max_tokens": 8}, "8 ['x', 'y']"),
    ],
)
def test_a_task_that_sets_no_length_asks_for_256_tokens(options: dict[str, Any], asked: str) -> None:
    """As lm-eval's own models do; a length and a stop have several spellings."""
    session = Recorder(1000)
    SessionLM(session).generate_until([Instance("generate_until", {}, ("a", {**options, "do_sample": False}), 0)])
    assert session.asked == [("^a", asked)]


def test_answers_come_back_in_the_order_of_their_requests() -> None:
    """Whatever puts them together, and whatever was stored; documents are counted when they are whole."""

    class Echo(Recorder):
        """Answers with what is asked."""

        def generate(self, prompts: Any, max_new_tokens: int, stop: Any, part: Share = ALL_REQUESTS) -> Iterator[Any]:
            """Return prompt and limit, one by one."""
            for i, prompt in enumerate(prompts):
                if i not in part.known:
                    yield [(i, Completion(f"{self.tokenizer.decode(prompt)}{max_new_tokens}"))]

    told: list[tuple[int, int]] = []
    requests = [text("a", limit=4), text("b", limit=5), text("c", limit=4), text("d", limit=5), text("e", limit=4)]
    for document, request in zip([0, 1, 1, 2, 0], requests, strict=True):
        request.doc_id = document
    shelf = Shelf()
    SessionLM(Echo(), answers=shelf).generate_until(requests[:1])
    lm = SessionLM(Echo(), lambda done, total: told.append((done, total)), shelf)
    assert lm.generate_until(requests) == ["^a4", "^b5", "^c4", "^d5", "^e4"]
    assert told == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (3, 3)]
    assert lm.counts == {"requests": 5, "truncated": 0, "cached": 1}


def test_requests_without_a_document_are_documents_of_their_own() -> None:
    told: list[tuple[int, int]] = []
    requests = [choice("a", "b"), choice("a", "c")]
    for request in requests:
        request.doc_id = None
    SessionLM(Recorder(), lambda done, total: told.append((done, total))).loglikelihood(requests)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_an_empty_prompt_is_the_beginning_of_a_text() -> None:
    """A tokenizer that puts nothing before a text has no tokens for an empty one."""
    session = Recorder()
    session.tokenizer.encode = lambda text, **_: [ord(letter) for letter in text]  # type: ignore[method-assign]
    SessionLM(session).generate_until([text("")])
    SessionLM(session).loglikelihood([choice("", "ab"), choice("", "^a"), choice("  ", "ab")])
    assert session.asked == [("^", "4 ['\\n']"), ("^", "ab"), ("^", "a"), ("^", "  ab")]


class Fast(Letters):
    """A tokenizer that encodes many texts at once, and keeps what it is asked."""

    is_fast = True

    def __init__(self) -> None:
        self.alone: list[Any] = []
        self.together: list[Any] = []

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        """Keep the text, and whether it may warn of its length."""
        self.alone.append((text, add_special_tokens, verbose))
        return super().encode(text, add_special_tokens)

    def __call__(self, texts: list[str], **settings: Any) -> dict[str, list[list[int]]]:
        """Keep the texts with their settings."""
        self.together.append((texts, settings))
        return {"input_ids": [super(Fast, self).encode(text, settings["add_special_tokens"]) for text in texts]}


def test_texts_are_encoded_together_and_each_once() -> None:
    """Those with a beginning of their own get no second one; nothing is computed in vain, and nothing warns."""
    session = Recorder()
    session.tokenizer = Fast()
    lm = SessionLM(session)
    session.tokenizer.alone.clear()
    lm.loglikelihood([choice("ab ", "c"), choice("ab ", "d"), choice("^x", "y"), choice("", "q")])
    plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    assert session.tokenizer.together == [
        (["ab", "ab c", "ab d"], {"add_special_tokens": True, **plain}),
        (["^x", "^xy"], {"add_special_tokens": False, **plain}),
    ]
    assert session.tokenizer.alone == [("q", False, False)]
    assert session.asked == [("^ab", " c"), ("^ab", " d"), ("^x", "y"), ("^", "q")]
    session.tokenizer.together.clear()
    lm.generate_until([text("ab"), text("ab")])
    assert [texts for texts, _ in session.tokenizer.together] == [["ab"]]
    assert lm.tok_encode("ab") == session.tokenizer.encode("ab")  # nothing is left of a batch
    assert len(session.tokenizer.alone) == 3


class Merging(Letters):
    """A tokenizer with a token for `ab`, and one for `a b`."""

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        """Return a number for each character or token."""
        return super().encode(text.replace("ab", "X").replace("a b", "Y"), add_special_tokens)

    def convert_ids_to_tokens(self, number: int) -> str:
        """Return a character."""
        return chr(number)


def test_a_choice_that_merges_into_its_question_is_scored_by_its_own_tokens() -> None:
    """With the space that the question ends in; such choices are counted."""
    session = Recorder()
    session.tokenizer = Merging()
    lm = SessionLM(session)
    lm.loglikelihood([choice("a", "b"), choice("a ", "b"), choice("a", "c")])
    assert session.asked == [("^a", "b"), ("^a", " b"), ("^a", "c")]
    assert lm.counts == {"requests": 3, "truncated": 0, "cached": 0, "merged": 2}


class Spaced(Letters):
    """A tokenizer that writes a space before every text, unless it `loses` it before a line's end."""

    loses = False

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        """Return a number for each character."""
        lost = self.loses and len(text) > 1 and text[0] == "\n"
        return super().encode("" if not text else text if lost else f"\u2581{text}", add_special_tokens)

    def convert_ids_to_tokens(self, number: int) -> str:
        """Return a character."""
        return chr(number)


@pytest.mark.parametrize(
    ("given", "loses", "own"),
    [("ab", False, "ab"), (" ab", False, "\u2581 ab"), ("ab", True, "\u2581ab"), ("", False, "")],
)
def test_the_own_tokens_of_a_choice_have_no_space_of_the_tokenizer_s(given: str, loses: bool, own: str) -> None:
    """Only where it can be told apart: behind the end of a line."""
    session = Recorder()
    session.tokenizer = Spaced()
    session.tokenizer.loses = loses
    assert session.tokenizer.decode(SessionLM(session)._own_ids(given)) == own


@pytest.mark.parametrize(
    ("continuation", "what", "hint"),
    [
        ("", "has a choice with nothing to score: ''", "Correct or remove the row: an empty choice would be certain"),
        ("abcdef", "has a choice of 6 tokens, which exceed the model's context of 5", "Use a checkpoint with a longer"),
    ],
)
def test_a_choice_that_cannot_be_scored_is_of_its_row(continuation: str, what: str, hint: str) -> None:
    """The longest that fits takes the whole context."""
    lm = SessionLM(Recorder(5))
    lm.loglikelihood([choice("x", "abcde")])
    request = choice("x", continuation)
    request.doc_id = 7
    with pytest.raises(RowError) as caught:
        lm.loglikelihood([request])
    assert (caught.value.row, caught.value.what) == (7, what)
    assert caught.value.hint.startswith(hint)


def test_several_running_texts_are_scored_each_by_itself() -> None:
    """In windows that are asked together; a text is done when its last window is."""
    told: list[tuple[int, int]] = []
    session = Recorder(3)
    requests = [Instance("loglikelihood_rolling", {}, (words,), 0) for words in ("abcd", "x", "pq")]
    for document, request in enumerate(requests):
        request.doc_id = document
    lm = SessionLM(session, lambda done, total: told.append((done, total)))
    assert lm.loglikelihood_rolling(requests) == [-4.0, -1.0, -2.0]
    assert session.asked == [("^", "abc"), ("abc", "d"), ("^", "x"), ("^", "pq")]
    assert told == [(0, 3), (0, 3), (1, 3), (2, 3), (3, 3)]


class Colleague:
    """One of two workers, whose other has answered all that this one has not."""

    worker, count, are_joined = 1, 2, True

    def __init__(self, total: int) -> None:
        self._total = total
        self.told: list[Any] = []

    def gather(self, found: dict[int, Any], error: Any) -> dict[int, Any]:
        """Return what both have found."""
        self.told.append((sorted(found), error))
        return dict.fromkeys(range(self._total), (0.5, True)) | found


def test_a_worker_answers_its_share_and_takes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is assumed that the others are equally far, and nothing is done before all is."""
    shares: list[Share] = []

    class Half(Recorder):
        """Answers the third and the fourth request."""

        def loglikelihood(self, requests: Any, part: Share = ALL_REQUESTS) -> Iterator[Any]:
            """Keep the share."""
            shares.append(part)
            yield from ([(i, (-float(i), False))] for i in (2, 3))

    told: list[tuple[int, int]] = []
    requests = [choice("a", letter) for letter in "bcde"]
    for document, request in enumerate(requests):
        request.doc_id = document
    shelf = Shelf()
    SessionLM(Recorder(), answers=shelf).loglikelihood(requests[:1])
    colleague: Any = Colleague(4)
    lm = SessionLM(Half(), lambda done, total: told.append((done, total)), shelf, colleague)
    assert lm.loglikelihood(requests) == [(-1.0, False), (0.5, True), (-2.0, False), (-3.0, False)]
    (share,) = shares
    assert (share.known, share.worker, share.workers) == (frozenset({0}), 1, 2)
    assert colleague.told == [([0, 2, 3], None)]
    assert told == [(2, 4), (3, 4), (3, 4), (4, 4)]


def test_what_a_model_answered_before_it_failed_is_kept() -> None:
    """And all workers hear of the failure."""
    broke = BenchError("It broke.", "Mend it.")

    class Breaking(Recorder):
        """Answers once, one request of which was known."""

        def loglikelihood(self, requests: Any, part: Share = ALL_REQUESTS) -> Iterator[Any]:
            """Answer, and break."""
            yield [(0, (-9.0, True)), (1, (-2.0, False))]
            raise broke

    shelf = Shelf()
    SessionLM(Recorder(), answers=shelf).loglikelihood([choice("a", "b")])
    before = dict(shelf.answers)
    requests = [choice("a", letter) for letter in "bcd"]
    colleague: Any = Colleague(3)
    found = SessionLM(Breaking(), answers=shelf, workers=colleague).loglikelihood(requests)
    assert found == [(-1.0, False), (-2.0, False), (0.5, True)]
    assert colleague.told == [([0, 1], broke)]
    assert before.items() <= shelf.answers.items()
    assert len(shelf.answers) == 2
    with pytest.raises(BenchError, match="It broke"):
        SessionLM(Breaking()).loglikelihood(requests)
