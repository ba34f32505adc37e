"""Say on the first screen how good the runs are, how certain that is, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_bench.records import Cost, Measured, Measurement, Unavailable
from bitnet_bench.reports.costs import disturbed, machine, main_cost, precision_note, scenario, scenario_words
from bitnet_bench.reports.figures import Figure, factor, figure, missing, points, signed, size, span
from bitnet_bench.reports.pairs import Pair, in_words
from bitnet_bench.reports.runs import NamedRun
from bitnet_bench.reports.scores import Mean, primary_mean, score_interval
from bitnet_bench.statistics import NORMAL_95, interval

FORMATS = {
    "float": "실수(float)",
    "masters": "마스터(masters)",
    "bitlinear": "2비트(bitlinear)",
    "autobitlinear": "2비트(autobitlinear)",
    "tinyllama": "마스터(tinyllama)",
    "baked": "삼진 값의 실수(baked)",
    "packed": "2비트(packed)",
}
STAGES = {"before": "미세조정 전", "after": "미세조정 후"}
NO_COST = "이 실행의 비용을 재지 않았음"


@dataclass(frozen=True)
class Verdict:
    """One sentence, and what it leaves out."""

    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SummaryCell:
    """A figure under its column's heading, with the numbers of its footnotes."""

    label: str
    figure: Figure
    notes: tuple[int, ...]


@dataclass(frozen=True)
class SummaryRow:
    """One run."""

    run: NamedRun
    stage: str
    cells: tuple[SummaryCell, ...]


@dataclass(frozen=True)
class Summary:
    """The first screen."""

    verdict: Verdict
    headings: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...]


def summary(runs: Sequence[NamedRun], pairs: Sequence[Pair]) -> Summary:
    """Return the first screen; footnotes with the same text share a number."""
    notes: list[str] = []
    rows = tuple(_row(run, runs, notes) for run in runs)
    return Summary(_verdict(runs, pairs), tuple(cell.label for cell in rows[0].cells), rows, tuple(notes))


def _row(run: NamedRun, runs: Sequence[NamedRun], notes: list[str]) -> SummaryRow:
    cells, cost = [], main_cost(run)
    for label, shown, remarks in _figures(run, runs):
        if shown.kind == "missing":
            remarks = (shown.detail if cost is None else f"{label} 없음: {shown.detail}",)
        cells.append(SummaryCell(label, shown, tuple(_number(remark, notes) for remark in remarks)))
    return SummaryRow(run, STAGES.get(run.stage or "", run.stage or ""), tuple(cells))


def _number(note: str, notes: list[str]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _figures(run: NamedRun, runs: Sequence[NamedRun]) -> list[tuple[str, Figure, tuple[str, ...]]]:
    record, cost = run.record, main_cost(run)
    stored = record.checkpoint.weight_bytes
    resident = Figure(size(cost.resident_weight_bytes)) if cost else missing(NO_COST)
    timing, precision = _timing_remarks(cost, runs), _precision_remarks(run, cost)
    return [
        ("형식", Figure(FORMATS[record.checkpoint.format]), ()),
        ("정밀도", Figure(record.precision), ()),
        ("평균 점수", *_mean(run, runs)),
        ("저장 가중치", Figure(size(sum(stored.values()))) if stored else missing("가중치 크기가 기록되지 않음"), ()),
        ("상주 가중치", resident, precision),
        ("프리필", _metric(cost, "prefill_tokens_per_s"), (*precision, *timing)),
        ("디코드", _metric(cost, "decode_tokens_per_s"), (*precision, *timing)),
        ("최대 메모리", _metric(cost, "peak_bytes"), precision),
        ("에너지", _metric(cost, "energy_j"), precision),
    ]


def _metric(cost: Cost | None, name: str) -> Figure:
    return figure(cost.metrics.get(name)) if cost else missing(NO_COST)


def _precision_remarks(run: NamedRun, cost: Cost | None) -> tuple[str, ...]:
    note = precision_note(run, cost) if cost else None
    return (note,) if note else ()


def _timing_remarks(cost: Cost | None, runs: Sequence[NamedRun]) -> tuple[str, ...]:
    """Say under which scenario a cost was timed if the runs differ in that, and whether it was disturbed."""
    if cost is None:
        return ()
    scenarios = {scenario(other) for run in runs if (other := main_cost(run))}
    remarks = [f"조건: {scenario_words(cost)}"] if len(scenarios) > 1 else []
    if disturbed(cost):
        remarks.append(f"방해받은 측정: 다른 프로세스가 기계의 {cost.foreign_load:.0%}를 썼음")
    return tuple(remarks)


def _mean(run: NamedRun, runs: Sequence[NamedRun]) -> tuple[Figure, tuple[str, ...]]:
    mean = primary_mean(run)
    if mean is None:
        return missing("주 지표 점수가 없음"), ()
    margin = "" if mean.stderr is None else f" ± {points(NORMAL_95 * mean.stderr)}"
    remarks = []
    if len({frozenset(other.primary) for other in runs if other.primary}) > 1:
        remarks.append("채점한 과제가 실행마다 달라 평균끼리 견줄 수 없음")
    if mean.stderr is None:
        remarks.append("평균의 구간 없음: 표준오차가 없는 과제가 있음")
    return Figure(points(mean.value) + margin, detail=f"{mean.tasks}개 과제"), tuple(remarks)


def _verdict(runs: Sequence[NamedRun], pairs: Sequence[Pair]) -> Verdict:
    if not pairs:
        return Verdict(_alone(runs[0]), _chance_notes(runs))
    pair = max(pairs, key=lambda pair: (bool(pair.differences), pair.ternary.stage == "after"))
    sentence, notes = _versus(pair)
    if len(pairs) > 1:
        notes = (*notes, f"이 문장은 {len(pairs)}개의 짝 가운데 하나를 요약한다. 나머지는 아래 짝 비교에 있다.")
    return Verdict(sentence, (*notes, *_chance_notes(runs)))


def _alone(run: NamedRun) -> str:
    mean, decode = primary_mean(run), _metric(main_cost(run), "decode_tokens_per_s")
    quality = _mean_words(mean) if mean else "점수가 없고"
    stored = size(sum(run.record.checkpoint.weight_bytes.values()))
    speed = "디코드 속도는 재지 않았다" if decode.kind == "missing" else f"디코드 속도는 {decode.text}이다"
    return f"실행 ‘{run.name}’의 {quality}, 저장 가중치는 {stored}이고, {speed}. 견줄 다른 정밀도의 실행은 없다."


def _mean_words(mean: Mean) -> str:
    limits = span(interval(mean.value, mean.stderr)) if mean.stderr is not None else "없음"
    return f"{mean.tasks}개 과제 평균 점수는 {points(mean.value)}점(95% 구간 {limits})이고"


def _versus(pair: Pair) -> tuple[str, tuple[str, ...]]:
    a, b = pair.ternary, pair.other
    prefill, decode, notes = _speeds(a, b)
    sentence = (
        f"삼진 실행 ‘{a.name}’의 점수는 {b.record.precision} 실행 ‘{b.name}’에 견주어 {_quality(pair)}, "
        f"{_sizes(a, b)}, 프리필은 {prefill}고, 디코드는 {decode}다."
    )
    refused = len(pair.tasks) - len(pair.differences)
    skipped = (f"{len(pair.tasks)}개 과제 가운데 {refused}개는 짝을 지을 수 없어 뺐다.",) if refused else ()
    return sentence, (*skipped, *_storage_notes(a, b), *notes)


def _quality(pair: Pair) -> str:
    mean = pair.mean
    if mean is None:
        return "알 수 없고(짝지을 수 있는 과제가 없다)"
    limits = mean.interval
    shown = f"95% 구간 {signed(limits[0])} ~ {signed(limits[1])}: " if limits else ""
    size_of = points(abs(mean.value))
    amount = "0.1점 미만으로" if size_of == "0.0" else f"{size_of}점"
    moved = f" {amount} {'높고' if mean.value > 0 else '낮고'}" if mean.value else "이 같고"
    return f"{len(pair.differences)}개 과제 평균{moved}({shown}{in_words(mean)})"


def _sizes(a: NamedRun, b: NamedRun) -> str:
    stored = [sum(run.record.checkpoint.weight_bytes.values()) for run in (a, b)]
    words = f"저장 가중치는 {_size(*stored)}"
    ours, theirs = _alike(a, b)
    if ours is None or theirs is None:
        return words
    return f"{words}, 메모리의 가중치는 {_size(ours.resident_weight_bytes, theirs.resident_weight_bytes)}"


def _size(ours: int, theirs: int) -> str:
    if not ours or not theirs:
        return "견줄 수 없고"
    if ours == theirs:
        return "크기가 같고"
    return f"{factor(theirs / ours)} 작고" if ours < theirs else f"{factor(ours / theirs)} 크고"


def _storage_notes(a: NamedRun, b: NamedRun) -> tuple[str, ...]:
    """Say what makes the ratio of stored bytes differ from that of 2 bits to 16."""
    notes = []
    if not a.record.checkpoint.has_codes_only:
        notes.append(f"{a.key}의 체크포인트는 2비트로 묶지 않은 채 저장되어 있다.")
    for run in (a, b):
        if "32" in run.record.checkpoint.dtype and run.record.precision != "fp32":
            notes.append(f"{run.key}의 체크포인트는 {run.record.checkpoint.dtype}라 16비트보다 크다.")
    return tuple(notes)


def _speeds(a: NamedRun, b: NamedRun) -> tuple[str, str, tuple[str, ...]]:
    """Return how the prefill and decode speeds compare, as stems before -고 and -다, and what to add to that."""
    if machine(a) != machine(b):
        return "견주지 못했", "견주지 못했", ("속도: 두 실행을 서로 다른 기계에서 쟀다.",)
    ours, theirs = _alike(a, b)
    if ours is None or theirs is None:
        return "견주지 못했", "견주지 못했", ("속도: 같은 조건에서 잰 짝이 없다.",)
    notes = [f"속도 조건: {scenario_words(ours)}.", *(f"{note}." for note in _precision_remarks(b, theirs))]
    if disturbed(ours) or disturbed(theirs):
        notes.append("속도를 재는 동안 다른 프로세스가 기계를 많이 썼다. 다시 재는 것이 좋다.")
    stems = [
        _speed(ours.metrics.get(name), theirs.metrics.get(name))
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s")
    ]
    return stems[0], stems[1], tuple(notes)


def _alike(a: NamedRun, b: NamedRun) -> tuple[Cost | None, Cost | None]:
    """Return a cost of each in the first scenario that both were measured in; (None, None) if there is none."""
    for wanted in dict.fromkeys(map(scenario, a.record.costs)):
        ours, theirs = main_cost(a, wanted), main_cost(b, wanted)
        if ours and theirs:
            return ours, theirs
    return None, None


def _speed(ours: Measurement | None, theirs: Measurement | None) -> str:
    if not isinstance(ours, Measured) or not isinstance(theirs, Measured) or not ours.median or not theirs.median:
        modelled = ours and theirs and not isinstance(ours, Unavailable) and not isinstance(theirs, Unavailable)
        return "측정값이 아니라 견주지 않았" if modelled else "견주지 못했"
    ratio = ours.median / theirs.median
    shown = f"{factor(max(ratio, 1 / ratio))} {'빠르' if ratio > 1 else '느리'}"
    if min(ours.readings) > max(theirs.readings) or max(ours.readings) < min(theirs.readings):
        return shown
    return f"반복 측정의 흔들림 안에서 {shown}" if ratio != 1 else "같"


def _chance_notes(runs: Sequence[NamedRun]) -> tuple[str, ...]:
    """Say how many tasks each run does better than chance: two runs that guess do not differ either."""
    counts = []
    for run in runs:
        scores = [s for s in run.primary.values() if not s.lower_is_better]
        guessed = [s for s in scores if s.chance and s.stderr is not None]
        above = [s for s in guessed if (i := score_interval(s)) and s.chance is not None and i[0] > s.chance]
        if guessed:
            counts.append(f"{run.key} {len(above)}/{len(guessed)}")
    return (f"95% 구간이 우연 수준보다 위에 있는 과제: {', '.join(counts)}.",) if counts else ()
