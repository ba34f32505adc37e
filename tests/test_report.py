"""The HTML report: what it says, what it refuses to say, and that foreign text in it stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.records import (
    Checkpoint,
    Cost,
    Environment,
    Example,
    Measured,
    Measurement,
    Modelled,
    Precision,
    RunRecord,
    Score,
    Unavailable,
)
from bitnet_bench.reports.charts import charts
from bitnet_bench.reports.figures import figure, quantity, signed
from bitnet_bench.reports.html import HTMLReport
from bitnet_bench.reports.pairs import Difference, Refused, difference, in_words, pairs
from bitnet_bench.reports.runs import NamedRun, named
from bitnet_bench.reports.samples import LONGEST, PER_TASK, samples
from bitnet_bench.reports.scores import primary_mean, score_table
from bitnet_bench.reports.summary import summary
from bitnet_bench.reports.visible import visible

TASK = "sample:boolq"
NO_COUNTER = "this machine shows no energy counter"
Run = tuple[RunRecord, Sequence[Example]]


def measured(unit: str, *readings: float) -> Measured:
    return Measured(unit=unit, method="monotonic clock", readings=readings)


def make_cost(precision: Precision = "ternary", speed: float = 100.0, **fields: Any) -> Cost:
    metrics: dict[str, Measurement] = {
        "prefill_tokens_per_s": measured("tokens/s", 1000.0),
        "decode_tokens_per_s": measured("tokens/s", speed, speed + 1, speed + 2),
        "energy_j": Unavailable(reason=NO_COUNTER),
    }
    given = {
        "backend": "hf",
        "precision": precision,
        "prompt_tokens": 128,
        "new_tokens": 32,
        "batch": 1,
        "threads": 2,
        "weight_bytes": {"ternary": 1000, "embedding": 1000},
        "resident_weight_bytes": 2048,
        "kv_bytes": 4096,
        "metrics": metrics,
        "foreign_load": 0.0,
        **fields,
    }
    return Cost(**given)


def make_examples(correct: Sequence[float], **fields: Any) -> list[Example]:
    given = {"task": TASK, "prompt": "질문", "target": "예", "output": "예", **fields}
    return [Example(doc_id=i, correct=c, **given) for i, c in enumerate(correct)]


def make_run(
    name: str = "작은 모델",
    precision: Precision = "ternary",
    examples: Sequence[Example] = (),
    digest: str = "a" * 64,
    scores: Sequence[Score] | None = None,
    **fields: Any,
) -> Run:
    score = Score(task=TASK, metric="accuracy", value=60.0, stderr=5.0, n=4, signature="v1", primary=True, chance=50.0)
    checkpoint = Checkpoint(
        source="demo",
        path="/demo",
        architecture="LlamaForCausalLM",
        format="autobitlinear" if precision == "ternary" else "float",
        dtype="bfloat16",
        sha256="b" * 64,
        weight_bytes={"ternary": 1000} if precision == "ternary" else {"linear": 8000},
        parameters=4000,
        ternary_parameters=4000,
    )
    environment = Environment(
        time="2026-01-01T00:00:00+00:00",
        platform="Linux",
        python="3.11",
        cpu="CPU",
        cores=2,
        threads=2,
        memory_bytes=2**33,
        packages={"torch": "2.13"},
        command="bitnet-bench evaluate demo",
    )
    given = {
        "checkpoint": checkpoint,
        "backend": "hf",
        "data": {TASK: digest},
        "scores": tuple([score] if scores is None else scores),
        "environment": environment,
        **fields,
    }
    return RunRecord(name=name, precision=precision, **given), examples


def render(*runs: Run) -> str:
    return HTMLReport().render(runs)


def pair_of(a: Run, b: Run) -> tuple[NamedRun, NamedRun]:
    first, second = named([a, b])
    return first, second


class Page(HTMLParser):
    """Collects the tags, attributes and inlined contents of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inlined: dict[str, str] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a start tag."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Note text, apart from what the first style and the first script hold."""
        if self.tags and self.tags[-1] in ("style", "script") and self.tags[-1] not in self.inlined:
            self.inlined[self.tags[-1]] = data
        else:
            self.text += data


HOSTILE = '</bdi><script>alert("x")</script><img src=x onerror=alert(1)>'


def test_markup_in_model_output_is_text() -> None:
    """Markup in an output, a prompt, a target, a name or a task is shown as text and makes no element."""
    examples = [
        Example(task=HOSTILE, doc_id=0, prompt=HOSTILE, target=HOSTILE, output=HOSTILE, correct=0.0),
    ]
    page = Page(render(make_run(name=HOSTILE, examples=examples, settings={HOSTILE: HOSTILE})))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.text.count(HOSTILE) >= 6


def test_every_element_is_closed() -> None:
    """Start and end tags match, whatever sections the runs bring along."""
    examples = make_examples([1, 0, 1, 0])
    text = render(make_run(examples=examples, costs=(make_cost(),)), make_run("b", "fp16", examples))
    open_tags: list[str] = []
    for closing, tag, rest in re.findall(r"<(/?)([a-z0-9]+)((?:\"[^\"]*\"|[^>\"])*)>", text):
        if tag in ("meta", "input") or rest.endswith("/"):
            continue
        if closing:
            assert open_tags.pop() == tag
        else:
            open_tags.append(tag)
    assert open_tags == []


def test_bidi_overrides_and_controls_are_visible() -> None:
    """Direction overrides are spelled out, controls and NUL become U+FFFD, and line breaks stay."""
    output = "앞\u202e뒤\x00끝\x1b[31m\r\n줄"
    text = render(make_run(examples=make_examples([1], output=output)))
    assert "앞⟨U+202E⟩뒤\ufffd끝\ufffd[31m\n줄" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("한글 abc\t1\n", "한글 abc\t1\n"),
        ("가족 👨\u200d👩", "가족 👨\u200d👩"),
        ("\u2067a\u2069\u200b", "⟨U+2067⟩a⟨U+2069⟩⟨U+200B⟩"),
        ("\u2028\ud800\x85", "⟨U+2028⟩\ufffd\ufffd"),
    ],
)
def test_visible_leaves_ordinary_text_alone(text: str, shown: str) -> None:
    """Hangul, tabs, line breaks and emoji joiners pass; what hides or reorders does not."""
    assert visible(text) == shown


def test_missing_energy_is_not_zero() -> None:
    """A run without an energy counter shows a dash with the counter's reason, and no 0 J."""
    runs = named([make_run(costs=(make_cost(),))])
    shown = summary(runs, ())
    cell = next(cell for cell in shown.rows[0].cells if cell.label == "에너지")
    assert cell.figure.text == "—"
    assert [shown.notes[note - 1] for note in cell.notes] == [f"에너지 없음: {NO_COUNTER}"]
    text = render(make_run(costs=(make_cost(),)))
    assert NO_COUNTER in text
    assert not re.search(r">\s*(0(\.0+)? J|nan|None)\b", text, re.IGNORECASE)


def test_run_without_costs_shows_dashes() -> None:
    """A run that was only scored shows dashes with one reason for all of its costs."""
    shown = summary(named([make_run()]), ())
    assert [cell.label for cell in shown.rows[0].cells if cell.figure.kind == "missing"] == [
        "상주 가중치",
        "프리필",
        "디코드",
        "최대 메모리",
        "에너지",
    ]
    assert len(shown.notes) == 1


def test_modelled_number_is_marked() -> None:
    """A number from a formula is set apart by style and by word; a measured one shows its readings."""
    energy = Modelled(unit="J", model="65 W x time", value=12.0)
    cost = make_cost(metrics={"energy_j": energy, "load_s": measured("s", 3.0, 1.0, 2.0)})
    text = render(make_run(costs=(cost,)))
    assert '<span class="value modelled">12 J</span>' in text
    assert '<small class="word modelled">모델 추정</small>' in text
    assert "65 W x time" in text
    assert figure(measured("s", 3.0, 1.0, 2.0)).text == "2 s"
    assert figure(measured("s", 3.0, 1.0, 2.0)).detail == "3회, 1 ~ 3 s"


def test_disturbed_cost_is_flagged() -> None:
    """A cost measured while other processes took over a tenth of the machine is called disturbed, a calm one not."""
    assert "방해받은 측정" in render(make_run(costs=(make_cost(foreign_load=0.11),)))
    assert "방해받은 측정" not in render(make_run(costs=(make_cost(foreign_load=0.1),)))


def test_paired_difference_by_hand() -> None:
    """Differences 0, -1, 0, -1 have mean -1/2 and s = 1/sqrt(3), so -50 points with standard error 100/sqrt(12)."""
    a, b = pair_of(make_run(examples=make_examples([1, 0, 1, 0])), make_run("b", "fp16", make_examples([1, 1, 1, 1])))
    found = difference(a, b, TASK)
    assert isinstance(found, Difference)
    assert found.value == pytest.approx(-50.0)
    assert found.stderr == pytest.approx(28.867513459)
    assert found.interval == pytest.approx((-100.0, 6.579286))
    assert in_words(found) == "차이를 확인하지 못했다"


def test_pairs_go_by_document_not_by_position() -> None:
    """Examples that come in another order are still compared with their own twins."""
    examples = make_examples([1, 0, 1, 0])
    a, b = pair_of(make_run(examples=examples), make_run("b", "fp16", examples[::-1]))
    found = difference(a, b, TASK)
    assert isinstance(found, Difference)
    assert (found.value, found.stderr) == (0.0, 0.0)


def test_clear_difference_is_said() -> None:
    """An interval that excludes 0 is a difference, and the verdict says which way it goes."""
    better = make_examples([1.0] * 40)
    worse = make_examples([0.0] * 38 + [1.0] * 2)
    text = render(make_run("삼진", examples=worse), make_run("쌍둥이", "fp16", better))
    assert "1개 과제 평균 95.0점 낮고(95% 구간 −100.0 ~ −88.2: 차이가 있다)" in text
    assert "저장 가중치는 8.0배 작고" in text


def test_unequal_digests_are_refused() -> None:
    """Runs over different rows get the reason where a difference would stand."""
    examples = make_examples([1, 0, 1, 0])
    runs = make_run(examples=examples), make_run("b", "fp16", examples, digest="c" * 64)
    refused = difference(*pair_of(*runs), TASK)
    assert refused == Refused("채점한 데이터가 서로 다르다(다이제스트 aaaaaaaa… ≠ cccccccc…).")
    assert refused.reason in render(*runs)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (make_run("b", "fp16"), "예제 기록이 없어"),
        (make_run("b", "fp16", make_examples([1, 0]), data={}), "다이제스트가 없어"),
        (make_run("b", "fp16", make_examples([1, 0, 1])), "문항이 서로 다르다(2개와 3개)"),
        (make_run("b", "fp16", make_examples([1, 0]), scores=()), "서명이 서로 다르다"),
    ],
)
def test_what_is_no_pair_is_refused(other: Run, reason: str) -> None:
    """Missing examples, a missing digest, other documents or another metric each give their own reason."""
    found = difference(*pair_of(make_run(examples=make_examples([1, 0])), other), TASK)
    assert isinstance(found, Refused)
    assert reason in found.reason


def test_stages_are_not_mixed() -> None:
    """Runs pair within their stage; a run without a stage pairs with any."""
    stages = [("ternary", "before"), ("fp16", "before"), ("ternary", "after"), ("fp16", "after"), ("bf16", None)]
    runs = named([make_run(f"{p}-{s}", p, settings={"stage": s} if s else {}) for p, s in stages])  # type: ignore[arg-type]
    assert [(pair.ternary.key, pair.other.key) for pair in pairs(runs)] == [
        ("A", "B"),
        ("A", "E"),
        ("C", "D"),
        ("C", "E"),
    ]


def test_verdict_is_about_the_tuned_pair() -> None:
    """With both stages in the report the verdict speaks of the runs after fine-tuning."""
    examples = make_examples([1, 0, 1, 0])
    runs = [
        make_run(f"{precision}-{stage}", precision, examples, settings={"stage": stage})
        for stage in ("before", "after")
        for precision in ("ternary", "fp16")
    ]
    named_runs = named(runs)
    assert "‘ternary-after’" in summary(named_runs, pairs(named_runs)).verdict.sentence


def test_speeds_are_compared_in_the_same_scenario_only() -> None:
    """The verdict compares speeds of the same scenario and machine, and says so where there are none."""
    ours = make_run(costs=(make_cost(speed=300.0),))
    same = named([ours, make_run("b", "fp16", costs=(make_cost("fp16"),))])
    other = named([ours, make_run("b", "fp16", costs=(make_cost("fp16", prompt_tokens=64),))])
    assert "디코드는 3.0배 빠르다" in summary(same, pairs(same)).verdict.sentence
    verdict = summary(other, pairs(other)).verdict
    assert "디코드는 견주지 못했다" in verdict.sentence
    assert "속도: 같은 조건에서 잰 짝이 없다." in verdict.notes


def test_float_run_is_represented_by_its_fastest_precision() -> None:
    """A run scored at fp32 and measured at fp16 and bf16 is compared at the faster one, and the report says so."""
    costs = (make_cost("fp16", speed=10.0), make_cost("bf16", speed=100.0), make_cost("ternary", speed=900.0))
    runs = named([make_run(costs=(make_cost(speed=300.0),)), make_run("b", "fp32", costs=costs)])
    verdict = summary(runs, pairs(runs)).verdict
    assert "디코드는 3.0배 빠르다" in verdict.sentence
    assert "B의 점수는 fp32, 비용은 bf16 기준, 잰 것 가운데 디코드가 가장 빠른 것." in verdict.notes


def test_ternary_run_never_borrows_a_float_cost() -> None:
    """A ternary run whose checkpoint was measured as float only has no cost to show."""
    runs = named([make_run(costs=(make_cost("fp16"),))])
    assert [cell.figure.kind for cell in summary(runs, ()).rows[0].cells if cell.label == "디코드"] == ["missing"]


def test_speed_within_the_spread_is_no_claim() -> None:
    """Readings that overlap are called a difference within the spread."""
    runs = named([make_run(costs=(make_cost(speed=101.0),)), make_run("b", "fp16", costs=(make_cost("fp16"),))])
    assert "반복 측정의 흔들림 안에서 1.01배 빠르다" in summary(runs, pairs(runs)).verdict.sentence


def test_score_without_standard_error_has_no_interval() -> None:
    """A score without a standard error shows a dash for its margin and takes the mean's margin away."""
    lone = Score(task=TASK, metric="bleu", value=12.0, stderr=None, n=1, signature="v1", primary=True)
    (run,) = named([make_run(scores=[lone])])
    cell = score_table([run]).rows[0].cells[0]
    assert (cell.value, cell.margin, cell.span) == ("12.0", "—", "")
    mean = primary_mean(run)
    assert mean is not None
    assert mean.stderr is None


def test_primary_metrics_come_first() -> None:
    """Primary metrics stand above the others, whatever their order in the record."""
    minor = Score(task="a", metric="accuracy", value=1.0, stderr=1.0, n=2, signature="x")
    major = Score(task="a", metric="macro_f1", value=2.0, stderr=1.0, n=2, signature="y", primary=True)
    rows = score_table(named([make_run(scores=[minor, major])])).rows
    assert [row.metric for row in rows] == ["macro_f1", "accuracy"]


def test_other_signature_is_a_warning() -> None:
    """Scores of one task with different signatures are called not comparable."""
    score = Score(task=TASK, metric="accuracy", value=60.0, stderr=5.0, n=4, signature="v2", primary=True)
    table = score_table(named([make_run(), make_run("b", scores=[score])]))
    assert table.conflicts == (f"{TASK} (accuracy)",)
    assert [(row.signature, row.runs) for row in table.signatures] == [("v1", "A"), ("v2", "B")]


def test_policy_allows_exactly_the_inlined_parts() -> None:
    """The hashes in the Content-Security-Policy are those of the inlined stylesheet and script."""
    page = Page(render(make_run()))
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none';")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        digest = base64.b64encode(hashlib.sha256(page.inlined[tag].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


def test_file_asks_for_nothing() -> None:
    """No attribute loads anything or holds code or style, and links stay within the page."""
    hostile = make_examples([1], output="http://example.com/a.png")
    page = Page(render(make_run(examples=hostile, costs=(make_cost(),)), make_run("b", "fp16", hostile)))
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "style", "action", "data")
        assert not name.startswith("on")
        assert name != "href" or (value or "").startswith("#")
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(", page.inlined["style"])
    assert not re.search(r"fetch|XMLHttp|import|innerHTML", page.inlined["script"])


def test_same_runs_give_the_same_file() -> None:
    """Rendering twice gives the same bytes."""
    runs = make_run(examples=make_examples([1, 0, 1]), costs=(make_cost(),)), make_run("b", "fp16")
    assert render(*runs) == render(*runs)


def test_names_are_kept_apart() -> None:
    """Runs of one name get a number, and a name that looks numbered already is not taken twice."""
    runs = named([make_run("a"), make_run("a"), make_run("a (2)"), make_run("a")])
    assert [run.name for run in runs] == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_no_runs_is_an_error() -> None:
    """A report about nothing is refused."""
    with pytest.raises(BenchError, match="no run"):
        render()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_is_not_finite_is_refused(value: float) -> None:
    """A number that slipped past the records' own check names the run and where it is."""
    record, (example,) = make_run(examples=make_examples([1.0]), costs=(make_cost(),))
    score = record.scores[0].model_copy(update={"value": value})
    with pytest.raises(BenchError, match=rf"'작은 모델'.*accuracy of {TASK}"):
        render((record.model_copy(update={"scores": (score,)}), []))
    with pytest.raises(BenchError, match=rf"'작은 모델'.*example 0 of {TASK}"):
        render((record, [example.model_copy(update={"correct": value})]))
    reading = measured("s", 1.0).model_copy(update={"readings": (value,)})
    cost = record.costs[0].model_copy(update={"metrics": {"load_s": reading}})
    with pytest.raises(BenchError, match=r"'작은 모델'.*load_s"):
        render((record.model_copy(update={"costs": (cost,)}), []))


def test_samples_are_the_first_rows_and_say_who_was_right() -> None:
    """The first rows by number are shown, wrong outputs are marked in words, and differing ones are known."""
    right = make_examples([1.0] * 30)
    wrong = make_examples([0.0] * 30, output="아니오")
    (task,) = samples(named([make_run(examples=right[::-1]), make_run("b", "fp16", wrong)]))
    assert [sample.doc_id for sample in task.samples] == list(range(PER_TASK))
    assert (task.total, task.differing) == (30, PER_TASK)
    assert [output.mark for output in task.samples[0].outputs] == ["✓ 맞음", "✗ 틀림"]


def test_rows_of_other_data_do_not_share_a_line() -> None:
    """Rows with the same number but another prompt are not put side by side."""
    other = make_run("b", examples=make_examples([1], prompt="다른 질문"))
    (task,) = samples(named([make_run(examples=make_examples([1])), other]))
    assert [len(sample.outputs) for sample in task.samples] == [1, 1]


def test_long_output_is_cut_with_a_note() -> None:
    """An output beyond the limit is cut, and a note says how long it was."""
    text = render(make_run(examples=make_examples([1], output="가" * 5000)))
    assert "가" * LONGEST in text
    assert "가" * (LONGEST + 1) not in text
    assert "전체 5,000자 가운데 앞 2,000자만 보임" in text


def test_environment_is_listed() -> None:
    """Command, checkpoint digest, data digest, packages and counts of a run are in the file."""
    text = Page(render(make_run(counts={"requests": 8, "truncated": 1}))).text
    for fact in ("bitnet-bench evaluate demo", "b" * 64, f"{TASK} {'a' * 64}", "torch 2.13", "요청 8, 잘린 프롬프트 1"):
        assert fact in text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.0042, "s/token", "4.2 ms/token"),
        (1234.5, "tokens/s", "1,234 tok/s"),
        (1536, "B", "1.5 KiB"),
        (0.0, "J", "0 J"),
    ],
)
def test_quantities_read_well(value: float, unit: str, shown: str) -> None:
    """Quantities have three significant digits and the unit that suits their size."""
    assert quantity(value, unit) == shown


def test_signs() -> None:
    """A difference has a true minus sign, and what rounds to zero has none."""
    assert [signed(value) for value in (-1.25, 2.0, -0.01)] == ["−1.2", "+2.0", "0.0"]


def test_a_metric_of_which_less_is_better_stands_apart() -> None:
    """Bits per byte are shown to three decimals with an arrow, and are in no mean, no chart and no count of chance."""
    bits = Score(
        task="lm:text",
        metric="bits_per_byte",
        value=1.2345,
        stderr=0.01,
        n=4,
        signature="v1",
        primary=True,
        chance=8.0,
        limits=(0.0, None),
        lower_is_better=True,
    )
    usual = Score(task=TASK, metric="accuracy", value=60.0, stderr=5.0, n=4, signature="v1", primary=True, chance=50.0)
    (run,) = named([make_run(scores=[bits, usual])])
    mean = primary_mean(run)
    assert mean is not None
    assert (mean.value, mean.tasks) == (60.0, 1)
    assert [chart.task for chart in charts([run])] == [TASK]
    page = render(make_run(scores=[bits, usual]))
    assert "bits_per_byte ↓" in page
    assert "1.234" in page
    assert "1.215 ~ 1.254" in page
    assert "우연 수준보다 위에 있는 과제: A 1/1" in page


def test_a_correlation_below_zero_has_its_whole_interval() -> None:
    """Pearson's r goes from -100 to 100, and so does its interval."""
    r = Score(
        task=TASK,
        metric="pearson",
        value=-41.6,
        stderr=10.0,
        n=20,
        signature="v1",
        primary=True,
        limits=(-100.0, 100.0),
        majority=0.0,
    )
    page = render(make_run(scores=[r]))
    assert "−61.2 ~ −22.0" in page
    assert '<td data-label="최빈"><span>0.0</span></td>' in page
