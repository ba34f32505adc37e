"""Lay out what runs cost: one table per scenario, so that what stands side by side was measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitnet_bench.records import TERNARY_PRECISIONS, Cost, Measured
from bitnet_bench.reports.figures import Figure, figure, missing, size
from bitnet_bench.reports.runs import NamedRun

DISTURBED = 0.1
"""Above this foreign load other processes have probably changed the timings."""

KINDS = {
    "ternary": "삼진 가중치",
    "embedding": "임베딩",
    "head": "출력층(head)",
    "linear": "밀집 선형층",
    "norm": "정규화",
}
METRICS = {
    "load_s": "불러오기",
    "prefill_s": "프리필 시간",
    "prefill_tokens_per_s": "프리필 속도",
    "decode_s": "디코드 시간",
    "decode_tokens_per_s": "디코드 속도",
    "peak_bytes": "최대 메모리",
    "energy_j": "에너지",
}
Scenario = tuple[int, int, int, int]


@dataclass(frozen=True)
class CostColumn:
    """One cost of one run."""

    run: NamedRun
    cost: Cost

    @property
    def disturbed(self) -> bool:
        """Whether other processes were busy meanwhile."""
        return disturbed(self.cost)


@dataclass(frozen=True)
class CostRow:
    """One item over the columns of a table."""

    label: str
    cells: tuple[Figure, ...]


@dataclass(frozen=True)
class CostGroup:
    """Items of one sort."""

    label: str
    rows: tuple[CostRow, ...]


@dataclass(frozen=True)
class Method:
    """How an item was measured."""

    label: str
    method: str


@dataclass(frozen=True)
class CostTable:
    """All costs of one scenario. *machines* is true if they come from more than one machine."""

    scenario: str
    columns: tuple[CostColumn, ...]
    groups: tuple[CostGroup, ...]
    methods: tuple[Method, ...]
    machines: bool


def scenario(cost: Cost) -> Scenario:
    """Return what two costs must share to be compared."""
    return cost.prompt_tokens, cost.new_tokens, cost.batch, cost.threads


def scenario_words(cost: Cost) -> str:
    """Say what was timed."""
    prompt, new, batch, threads = scenario(cost)
    return f"프롬프트 {prompt:,}토큰 · 새 토큰 {new:,}개 · 배치 {batch:,} · 스레드 {threads:,}개"


def disturbed(cost: Cost) -> bool:
    """Return whether other processes took so much of the machine that the timings are in doubt."""
    return cost.foreign_load > DISTURBED


def machine(run: NamedRun) -> tuple[str, str]:
    """Return what two runs must share for their timings to be compared."""
    return run.record.environment.cpu, run.record.environment.platform


def main_cost(run: NamedRun, wanted: Scenario | None = None) -> Cost | None:
    """Return the cost that stands for *run*, in the *wanted* scenario or else in its first one.

    That is the cost at the precision of its scores. A float run that was not measured at that precision is
    represented by its fastest float cost: ternary has to beat that one, not the slowest.
    """
    ternary = run.record.precision == "ternary"
    costs = [cost for cost in run.record.costs if (cost.precision in TERNARY_PRECISIONS) == ternary]
    if wanted is None and costs:
        wanted = scenario(costs[0])
    costs = [cost for cost in costs if scenario(cost) == wanted]
    exact = [cost for cost in costs if cost.precision == run.record.precision]
    return exact[0] if exact else max(costs, key=_decode_speed, default=None)


def _decode_speed(cost: Cost) -> float:
    speed = cost.metrics.get("decode_tokens_per_s")
    return speed.median if isinstance(speed, Measured) else 0.0


def precision_note(run: NamedRun, cost: Cost) -> str | None:
    """Say that costs and scores are of different precisions, if they are."""
    if cost.precision == run.record.precision:
        return None
    tried = [other.precision for other in run.record.costs if other.precision not in TERNARY_PRECISIONS]
    fastest = ", 잰 것 가운데 디코드가 가장 빠른 것" if len(set(tried)) > 1 else ""
    return f"{run.key}의 점수는 {run.record.precision}, 비용은 {cost.precision} 기준{fastest}"


def cost_tables(runs: Sequence[NamedRun]) -> tuple[CostTable, ...]:
    """Return a table for each scenario, in the order in which they come."""
    columns: dict[Scenario, list[CostColumn]] = {}
    for run in runs:
        for cost in run.record.costs:
            columns.setdefault(scenario(cost), []).append(CostColumn(run, cost))
    return tuple(_table(tuple(group)) for group in columns.values())


def _table(columns: tuple[CostColumn, ...]) -> CostTable:
    costs = [column.cost for column in columns]
    return CostTable(
        scenario=scenario_words(costs[0]),
        columns=columns,
        groups=(
            CostGroup("저장 가중치", _weight_rows(costs)),
            CostGroup("메모리", _memory_rows(costs)),
            CostGroup("실행", _metric_rows(costs)),
        ),
        methods=_methods(costs),
        machines=len({machine(column.run) for column in columns}) > 1,
    )


def _weight_rows(costs: Sequence[Cost]) -> tuple[CostRow, ...]:
    kinds = _labelled(KINDS, [kind for cost in costs for kind in cost.weight_bytes])
    rows = [CostRow(label, tuple(_bytes(cost, kind) for cost in costs)) for kind, label in kinds]
    total = tuple(Figure(size(sum(cost.weight_bytes.values()))) for cost in costs)
    return (*rows, CostRow("합계", total))


def _memory_rows(costs: Sequence[Cost]) -> tuple[CostRow, ...]:
    return (
        CostRow("상주 가중치", tuple(Figure(size(cost.resident_weight_bytes)) for cost in costs)),
        CostRow("KV 캐시", tuple(Figure(size(cost.kv_bytes)) for cost in costs)),
    )


def _metric_rows(costs: Sequence[Cost]) -> tuple[CostRow, ...]:
    names = _labelled(METRICS, [name for cost in costs for name in cost.metrics])
    rows = [CostRow(label, tuple(figure(cost.metrics.get(name)) for cost in costs)) for name, label in names]
    return (*rows, CostRow("다른 프로세스의 부하", tuple(map(_load, costs))))


def _labelled(known: dict[str, str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the *known* keys with their labels, then the others under their own names."""
    return list({**known, **{key: key for key in others if key not in known}}.items())


def _bytes(cost: Cost, kind: str) -> Figure:
    if not cost.weight_bytes.get(kind):
        return missing("따로 저장되지 않음")
    return Figure(size(cost.weight_bytes[kind]))


def _load(cost: Cost) -> Figure:
    shown = Figure(f"{cost.foreign_load:.0%}")
    return replace(shown, detail="방해받은 측정", warning=True) if disturbed(cost) else shown


def _methods(costs: Sequence[Cost]) -> tuple[Method, ...]:
    found = dict.fromkeys(
        Method(METRICS.get(name, name), measurement.method)
        for cost in costs
        for name, measurement in cost.metrics.items()
        if isinstance(measurement, Measured)
    )
    return tuple(found)
