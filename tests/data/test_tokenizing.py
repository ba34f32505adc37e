"""Token ids and labels: the loss is on the response, on all of it, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.tokenizing import IGNORED_LABEL, EncodedRows, tokenize_pairs, tokenize_rows
from bitnet_bench.errors import BenchError

BOS, EOS = 0, 1
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROW = Row((Turn("user", "한국의 수도는?"), Turn("model", "서울이에요.")))
DIALOGUE = Row((Turn("user", "안녕?"), Turn("model", "안녕하세요!"), Turn("user", "오늘은?"), Turn("model", "네 네")))
VERBATIM = Row((Turn("user", "문장: 좋다\n감정:"), Turn("model", " 긍정")), verbatim=True)
TEXTS = [Row((Turn("text", text),)) for text in ("오늘 날씨는 맑아요.", "서울", "한국의 수도는 서울이에요. " * 5)]


@pytest.fixture(scope="module", params=["offsets begin at the word", "offsets begin at the space"])
def either_tokenizer(request: pytest.FixtureRequest, make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer whose " 답" begins at 답 (GPT-2's way), or at the space (Llama 3's and Qwen's way)."""
    return make_tokenizer(request.param == "offsets begin at the word")


@pytest.fixture
def chat_tokenizer(make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer with a chat template."""
    made = make_tokenizer(False)
    made.chat_template = CHAT
    return made


def sft(rows: list[Row], tokenizer: Any, template: str = "auto", length: int = 512) -> EncodedRows:
    return tokenize_rows(rows, tokenizer, template, length, pretrain=False)


def labelled(encoded: EncodedRows, tokenizer: Any) -> list[str]:
    """Return the text of the labelled tokens of each example, after checking that labels are ids."""
    texts = []
    for example in encoded.examples:
        assert len(example.labels) == len(example.input_ids)
        kept = [i for i, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED_LABEL]
        assert kept == [label for label in example.labels if label != IGNORED_LABEL]
        texts.append(tokenizer.decode(kept))
    return texts


def test_the_fixture_joins_a_space_to_the_word_after_it(tokenizer: Any) -> None:
    """The tests below mean something only if " 서" begins inside one token, as in any real tokenizer."""
    ids = tokenizer("모델: 서울", add_special_tokens=False).input_ids
    assert any(token.startswith("Ġ") and len(token) > 1 for token in tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst"])
def test_the_loss_is_on_the_response_and_eos(template: str, either_tokenizer: Any) -> None:
    """The labelled tokens decode to the response and EOS; a token may begin with the space before it."""
    (text,) = labelled(sft([ROW], either_tokenizer, template), either_tokenizer)
    assert text.lstrip(" ") == "서울이에요.</s>"


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst"])
def test_the_loss_is_on_every_response_of_a_dialogue(template: str, either_tokenizer: Any) -> None:
    """Each model turn is labelled up to its own EOS, and no user turn is."""
    (text,) = labelled(sft([DIALOGUE], either_tokenizer, template), either_tokenizer)
    assert [part.lstrip(" ") for part in text.split("</s>")] == ["안녕하세요!", "네 네", ""]


@pytest.mark.parametrize("rows", [[ROW], [DIALOGUE]])
def test_the_loss_of_a_chat_is_on_the_responses(rows: list[Row], chat_tokenizer: Any) -> None:
    """Under a chat template the labelled tokens are the answers and their EOS."""
    (text,) = labelled(sft(rows, chat_tokenizer), chat_tokenizer)
    answers = [turn.text for turn in rows[0].turns if turn.role == "model"]
    assert text == "".join(f"{answer}</s>" for answer in answers)


def test_the_loss_of_an_evaluation_row_begins_with_its_delimiter(either_tokenizer: Any) -> None:
    """A verbatim row learns " 긍정" with its space, exactly the tokens that evaluation scores, and EOS."""
    encoded = sft([VERBATIM], either_tokenizer)
    assert labelled(encoded, either_tokenizer) == [" 긍정</s>"]
    (example,) = encoded.examples
    prompt = either_tokenizer("문장: 좋다\n감정:").input_ids
    assert example.input_ids[: len(prompt)] == prompt
    assert set(example.labels[: len(prompt)]) == {IGNORED_LABEL}


def test_the_prompt_is_a_token_prefix_of_the_example(either_tokenizer: Any) -> None:
    """What stands before the labels is how the prompt alone is tokenized, as it will be when the model is used."""
    for template, prompt in (
        ("plain", "한국의 수도는?"),
        ("instruction", "### Instruction:\n한국의 수도는?\n\n### Response:\n"),
        ("inst", "[INST] 한국의 수도는? [/INST]"),
    ):
        (example,) = sft([ROW], either_tokenizer, template).examples
        first = next(i for i, label in enumerate(example.labels) if label != IGNORED_LABEL)
        assert example.input_ids[:first] == either_tokenizer(prompt).input_ids


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst"])
def test_there_is_one_bos_and_an_eos_for_each_response(template: str, either_tokenizer: Any) -> None:
    """A sequence begins with BOS, has no second one, and has one EOS for each response."""
    (example,) = sft([DIALOGUE], either_tokenizer, template).examples
    assert example.input_ids[0] == BOS
    assert example.input_ids.count(BOS) == 1
    assert example.input_ids.count(EOS) == 2
    assert example.labels[0] == IGNORED_LABEL


def test_a_chat_template_brings_its_own_bos(chat_tokenizer: Any) -> None:
    """The BOS that a chat template writes is the only one."""
    (example,) = sft([ROW], chat_tokenizer).examples
    assert example.input_ids[0] == BOS
    assert example.input_ids.count(BOS) == 1


@pytest.mark.parametrize("rows", [[VERBATIM, ROW], [ROW, VERBATIM]])
def test_chat_rows_and_evaluation_rows_mix(rows: list[Row], chat_tokenizer: Any) -> None:
    """Rows of two templates in one job are tokenized as each would be alone, one BOS each."""
    together = sft(rows, chat_tokenizer).examples
    alone = [sft([row], chat_tokenizer).examples[0] for row in rows]
    assert together == alone


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20)


@settings(deadline=None, max_examples=60)
@given(prompt=ANY_TEXT, response=ANY_TEXT, template=st.sampled_from(["plain", "instruction"]))
def test_any_response_is_labelled_whole(prompt: str, response: str, template: str, either_tokenizer: Any) -> None:
    """For any prompt and response that tokenize apart, the labels are the tokens of the response and EOS."""
    normalise = either_tokenizer.backend_tokenizer.normalizer.normalize_str
    row = Row((Turn("user", normalise(prompt)), Turn("model", normalise(response))))
    before = "{}" if template == "plain" else "### Instruction:\n{}\n\n### Response:\n"
    parts = (before.format(row.turns[0].text), f"{row.turns[1].text}</s>")
    apart = [either_tokenizer(part, add_special_tokens=False).input_ids for part in parts]
    (example,) = sft([row], either_tokenizer, template).examples
    if example.input_ids == [BOS, *apart[0], *apart[1]]:
        assert example.labels == [IGNORED_LABEL] * (1 + len(apart[0])) + apart[1]


@pytest.mark.parametrize("answer", ["네  네", "네 ㅋ", "  네", "네\n\n네 ", "1 + 1 = 2"])
def test_spaces_inside_a_response_are_learned(answer: str, either_tokenizer: Any) -> None:
    """A space that is a token of its own carries the loss like any other token of the response."""
    row = Row((Turn("user", "질문"), Turn("model", answer)))
    assert labelled(sft([row], either_tokenizer, "plain"), either_tokenizer) == [f"{answer}</s>"]


def test_what_is_cut_off_is_counted(tokenizer: Any) -> None:
    """Rows that lose tokens are truncated and kept; rows that lose their whole response are dropped."""
    short = Row((Turn("user", "네"), Turn("model", "네")))
    long_answer = Row((Turn("user", "네"), Turn("model", "네 " * 50)))
    long_prompt = Row((Turn("user", "네 " * 50), Turn("model", "네")))
    encoded = sft([short, long_answer, long_prompt], tokenizer, "plain", 16)
    assert (encoded.rows, encoded.lost, encoded.dropped, encoded.truncated) == (3, (2,), 1, 1)
    assert [len(example.input_ids) for example in encoded.examples] == [
        len(tokenizer("네네</s>").input_ids),
        16,
    ]
    assert EOS not in encoded.examples[1].input_ids


def test_the_row_that_just_fits_is_not_truncated(tokenizer: Any) -> None:
    """A row of exactly max_length tokens is whole; with one token fewer it is truncated."""
    (whole,) = sft([ROW], tokenizer, "plain").examples
    length = len(whole.input_ids)
    assert sft([ROW], tokenizer, "plain", length).truncated == 0
    assert sft([ROW], tokenizer, "plain", length - 1).truncated == 1


def test_rows_that_are_all_dropped_are_an_error(tokenizer: Any) -> None:
    """If no response is left, the error says how many rows there were and what to raise."""
    rows = [Row((Turn("user", "네 " * 50), Turn("model", "네")))] * 3
    with pytest.raises(BenchError, match="None of the 3 rows has a response token within 8 tokens") as caught:
        sft(rows, tokenizer, "plain", 8)
    assert "`max_length`" in caught.value.hint


@pytest.mark.parametrize("template", ["{{ messages[0].content }}", "x"])
def test_a_template_that_renders_no_answer_is_named_as_the_cause(template: str, tokenizer: Any, tmp_path: Path) -> None:
    """No length would help, neither for rows nor for pairs."""
    (tmp_path / "t.jinja").write_text(template, encoding="utf-8")
    pair = Row(ROW.turns, rejected="부산이에요.")
    for tokenize in (
        lambda: sft([ROW], tokenizer, str(tmp_path / "t.jinja")),
        lambda: tokenize_pairs([pair], tokenizer, str(tmp_path / "t.jinja"), 512),
    ):
        with pytest.raises(BenchError, match="does not render the answers") as raised:
            tokenize()
        assert "max_length" not in raised.value.hint


def test_running_text_needs_pretraining(tokenizer: Any) -> None:
    """Text without sides given to SFT names the other method."""
    with pytest.raises(BenchError, match="running text") as caught:
        sft(TEXTS, tokenizer)
    assert "`method=pretrain`" in caught.value.hint


@pytest.mark.parametrize("length", [2, 3, 7, 16, 1000])
def test_pieces_cover_every_token_in_order(length: int, tokenizer: Any) -> None:
    """Joined again, the pieces are the documents' tokens; at most one token at the very end is left out."""
    encoded = tokenize_rows(TEXTS, tokenizer, "auto", length, pretrain=True)
    documents = [tokenizer(f"{row.turns[0].text}</s>").input_ids for row in TEXTS]
    expected = [i for ids in documents for i in ids]
    joined = [i for example in encoded.examples for i in example.input_ids]
    assert joined == expected[: len(joined)]
    assert len(expected) - len(joined) == (1 if len(expected) % length == 1 else 0)
    assert all(len(example.input_ids) == length for example in encoded.examples[:-1])
    assert all(example.labels == example.input_ids for example in encoded.examples)
    assert (encoded.rows, encoded.dropped, encoded.truncated) == (3, 0, 0)


def test_each_document_has_one_bos_and_one_eos(tokenizer: Any) -> None:
    """In the pieces every document begins with BOS once and ends with EOS once."""
    encoded = tokenize_rows(TEXTS, tokenizer, "auto", 1000, pretrain=True)
    (piece,) = encoded.examples
    assert piece.input_ids.count(BOS) == piece.input_ids.count(EOS) == len(TEXTS)
    assert piece.input_ids[0] == BOS
    assert piece.input_ids[-1] == EOS
    assert all(
        after == BOS for before, after in zip(piece.input_ids, piece.input_ids[1:], strict=False) if before == EOS
    )


def test_a_tokenizer_that_adds_eos_itself_still_gives_one(make_tokenizer: Callable[[bool], Any]) -> None:
    """With an EOS added by the tokenizer too (`add_eos_token`), each document and each response still has one EOS."""
    from tokenizers import processors

    made = make_tokenizer(False)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    assert sft([ROW], made, "plain").examples[0].input_ids.count(EOS) == 1
    (piece,) = tokenize_rows(TEXTS[:1], made, "auto", 1000, pretrain=True).examples
    assert piece.input_ids.count(EOS) == 1


def test_dialogues_can_be_pretrained_on(tokenizer: Any) -> None:
    """Rows with sides are pretraining documents as their template writes them."""
    (piece,) = tokenize_rows([ROW], tokenizer, "dialogue", 1000, pretrain=True).examples
    assert tokenizer.decode(piece.input_ids) == "<s>사용자: 한국의 수도는?\n모델: 서울이에요.</s>"
    assert piece.labels == piece.input_ids


def test_the_digest_tells_data_apart(tokenizer: Any) -> None:
    """The digest is the same for the same sequences, and changes with ids, with labels and with order."""
    rows = [ROW, DIALOGUE]
    digest = sft(rows, tokenizer).sha256
    assert sft(rows, tokenizer).sha256 == digest
    others = {
        sft(rows[::-1], tokenizer).sha256,
        sft(rows[:1], tokenizer).sha256,
        sft(rows, tokenizer, "plain").sha256,
        tokenize_rows(rows, tokenizer, "auto", 512, pretrain=True).sha256,
    }
    assert len(others) == 4
    assert digest not in others


def test_tokenizing_in_chunks_changes_nothing(tokenizer: Any) -> None:
    """Thousands of rows, more than one chunk, are tokenized as each alone."""
    rows = [Row((Turn("user", f"{i}"), Turn("model", f"{i} 네"))) for i in range(2050)]
    encoded = sft(rows, tokenizer, "plain")
    for i in (0, 2047, 2048, 2049):
        assert encoded.examples[i] == sft([rows[i]], tokenizer, "plain").examples[0]
