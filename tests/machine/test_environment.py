"""A number's environment says what tells two machines apart."""

from __future__ import annotations

import pytest

from bitnet_bench.machine.environment import parse_processor, read_environment

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse {}\n\nprocessor\t: 1\nmodel name\t: other\n"


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (X86.format("avx2 fsrm"), "AMD EPYC (avx2)"),
        (X86.format("avx512_vnni avx512f avx2"), "AMD EPYC (avx2 avx512f avx512_vnni)"),
        (X86.format(""), "AMD EPYC"),
        ("processor\t: 0\nFeatures\t: fp asimddp\n", None),
        ("", None),
    ],
)
def test_two_processors_of_one_name_are_told_apart_by_their_instructions(cpuinfo: str, said: str | None) -> None:
    """A virtual machine's name says neither generation nor vector width."""
    assert parse_processor(cpuinfo) == said


def test_the_processor_of_this_machine_has_a_name() -> None:
    assert read_environment().cpu
