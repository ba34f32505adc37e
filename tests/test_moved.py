"""Former module names work for one release, and say where their contents are now."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from bitnet_bench.moved import ports, sections

OLD = [
    *(("bitnet_bench.ports", name, place, ports._NAMES.get(name, name)) for name, place in ports._PLACES.items()),
    *(("bitnet_bench.sections", name, place, name) for name, place in sections._PLACES.items()),
]


@pytest.mark.parametrize(("module", "name", "place", "now"), OLD)
def test_a_former_name_gives_the_same_object_and_names_its_new_place(
    module: str, name: str, place: str, now: str
) -> None:
    """What a third party imports is the very object, so that `isinstance` agrees; the warning can be acted on."""
    with pytest.warns(DeprecationWarning, match=f"import {now} from {place}"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(place), now)


def test_a_plugin_of_before_imports_its_protocols() -> None:
    """The statement that a backend of the last release begins with works as it is written, and warns its author."""
    code = "from bitnet_bench.ports import Part, ReportOptions; from bitnet_bench.sections import Section"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert "DeprecationWarning: bitnet_bench.ports is removed in the next release" in done.stderr
    assert "import Section from bitnet_bench.reports.sections" in done.stderr


def test_a_name_that_never_was_there_is_an_attribute_error() -> None:
    """A misspelt import fails as it always did."""
    with pytest.raises(AttributeError, match="no attribute 'Seshion'"):
        importlib.import_module("bitnet_bench.ports").Seshion  # noqa: B018
