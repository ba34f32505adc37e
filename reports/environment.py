"""List where each run's numbers come from: checkpoint, data, command, machine and software."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bitnet_bench.records import Checkpoint, Environment, RunRecord
from bitnet_bench.reports.figures import DASH, number, size
from bitnet_bench.reports.runs import NamedRun
from bitnet_bench.reports.summary import FORMATS

DIRECTIONS = {"multiply": "곱함(multiply)", "divide": "나눔(divide)"}


@dataclass(frozen=True)
class Fact:
    """A labelled value; *code* for what is to be copied as it stands."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class FactList:
    """All that is known about one run."""

    run: NamedRun
    facts: tuple[Fact, ...]


def facts(run: NamedRun) -> FactList:
    """Return what is known about where a run comes from."""
    return FactList(
        run, (*_run_facts(run.record), *_checkpoint(run.record.checkpoint), *_machine(run.record.environment))
    )


def _run_facts(record: RunRecord) -> list[Fact]:
    counts = {"requests": "요청", "cached": "저장된 답", "truncated": "잘린 프롬프트", "malformed": "형식이 틀린 출력"}
    return [
        Fact("명령", record.environment.command, code=True),
        Fact("시각", record.environment.time),
        Fact("걸린 시간", f"{number(record.seconds)} s" if record.seconds else DASH),
        Fact("백엔드", record.backend),
        Fact("스위트", _list(record.suites)),
        Fact("설정", json.dumps(record.settings, ensure_ascii=False, sort_keys=True, default=str), code=True),
        Fact("프롬프트 수", _list({counts.get(key, key): f"{count:,}" for key, count in record.counts.items()})),
        Fact("데이터 sha256", "\n".join(f"{task} {digest}" for task, digest in record.data.items()) or DASH, code=True),
    ]


def _checkpoint(checkpoint: Checkpoint) -> list[Fact]:
    density = checkpoint.zero_density
    direction = checkpoint.scale_direction
    return [
        Fact("체크포인트", checkpoint.source, code=True),
        Fact("리비전", checkpoint.revision or DASH, code=True),
        Fact("가중치 sha256", checkpoint.sha256, code=True),
        Fact("구조", f"{checkpoint.architecture}, {FORMATS[checkpoint.format]}, {checkpoint.dtype}"),
        Fact("스케일 방향", DIRECTIONS[direction] if direction else f"{DASH} (묶인 코드가 없음)"),
        Fact("매개변수", f"{checkpoint.parameters:,}개, 그중 삼진 {checkpoint.ternary_parameters:,}개"),
        Fact("0인 코드의 비율", f"{DASH} (저장된 코드가 없음)" if density is None else f"{density:.1%}"),
    ]


def _machine(environment: Environment) -> list[Fact]:
    return [
        Fact("운영체제", environment.platform),
        Fact("CPU", f"{environment.cpu}, 코어 {environment.cores}개, 스레드 {environment.threads}개"),
        Fact("메모리", size(environment.memory_bytes)),
        Fact("패키지", _list({"python": environment.python, **environment.packages})),
    ]


def _list(items: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in items.items()) or DASH
