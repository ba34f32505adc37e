"""A method that a base class does not know is an error, and a plugin without our base classes works once more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.task_hooks import TaskHooks, find_hooks
from bitnet_bench.evaluation.tasks import load_module
from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.protocols import (
    CheckedBackend,
    EnergyModel,
    InferenceBackend,
    Meter,
    RuntimeOptions,
    Session,
    TrainingBackend,
)
from bitnet_bench.runs.records import Unavailable

MISSPELT = [
    (InferenceBackend, "prepair", "prepare"),
    (CheckedBackend, "configure", "configured"),
    (TrainingBackend, "fine_tune", "finetune"),
    (Session, "weight_by_kind", "weights_by_kind"),
    (Session, "describe_run_time", "describe_runtime"),
    (MeanMetric, "part", "parts"),
    (Meter, "why_abscent", "why_absent"),
    (EnergyModel, "end", None),
]


@pytest.mark.parametrize(("base", "name", "meant"), MISSPELT)
def test_a_misspelt_method_is_an_error_that_names_the_nearest(base: type, name: str, meant: str | None) -> None:
    """The class cannot be defined, so that a plugin that holds it cannot be loaded."""
    with pytest.raises(BenchError, match=f"Mine defines the method '{name}', which {base.__name__}") as error:
        type("Mine", (base,), {name: lambda self: None})
    assert ("Did you mean" in error.value.hint) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in error.value.hint


@pytest.mark.parametrize("wrapped", [property, staticmethod, classmethod, contextmanager])
def test_no_decorator_hides_a_misspelt_method(wrapped: Callable[..., Any]) -> None:
    """A property and a context manager are methods as well."""
    with pytest.raises(BenchError, match="footprnt"):
        type("Mine", (Session,), {"footprnt": wrapped(lambda *_: iter(()))})


def test_an_attribute_is_an_error_only_where_it_is_nearly_a_known_one() -> None:
    """A constant of one's own is common; `lower_is_beter` is none."""
    type("Mine", (MeanMetric,), {"vocabulary": 3})
    with pytest.raises(BenchError, match="attribute 'lower_is_beter'") as error:
        type("Mine", (MeanMetric,), {"lower_is_beter": True})
    assert "Did you mean lower_is_better?" in error.value.hint


def test_a_class_adds_methods_by_naming_them_by_an_underscore_or_by_declaring_them_abstract() -> None:
    """What one class adds is known to the classes below it, which may not misspell it either."""
    from abc import abstractmethod

    class Grown(Session, adds=("logits",)):
        def logits(self) -> None: ...

        def _helper(self) -> None: ...

        @abstractmethod
        def cut_batches(self) -> None: ...

    type("Mine", (Grown,), {"logits": lambda self: None, "cut_batches": lambda self: None})
    with pytest.raises(BenchError, match="cut_batch"):
        type("Mine", (Grown,), {"cut_batch": lambda self: None})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("refrences", "references"), ("label", "labels"), ("values", "value"), ("VALUE", "VALUES"), ("parses", "parse")],
)
def test_a_misspelt_hook_of_a_task_is_an_error(name: str, meant: str, tmp_path: Path) -> None:
    """It would never be called, and the task scored as if the file had none; a file's own names stay free."""
    file = tmp_path / "mine.py"
    file.write_text("import re\nfrom typing import Any\nSLOTS = (1,)\ndef target(doc): return doc\n")
    assert find_hooks(load_module(file)) == TaskHooks()
    file.write_text(f"def {name}(doc): return doc\n")
    with pytest.raises(BenchError, match=rf"mine.py has '{name}'") as error:
        find_hooks(load_module(file))
    assert f"Did you mean {meant}?" in error.value.hint


class PlainSession:
    """What the last release asked of a session."""

    tokenizer, max_length, precision = None, 8, "fp32"
    loglikelihood = generate = prefill = decode = footprint = lambda self, *_: (0, 0)


class PlainBackend:
    """What the last release asked of a backend."""

    def open(self, checkpoint: Any, precision: str) -> Any:
        """Open nothing."""
        return nullcontext(PlainSession())


class PlainMeter:
    """What the last release asked of a meter."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> Unavailable:
        """Read nothing."""
        return Unavailable(reason="plain")


def test_plugins_without_base_classes_get_the_defaults_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """They work for one more release, and who wrote them reads what to inherit from."""
    with caplog.at_level(logging.WARNING):
        backend = plugins.create_backend(f"{__name__}:PlainBackend")
        assert isinstance(backend, InferenceBackend)
        assert not isinstance(backend, TrainingBackend)
        assert backend.configured(RuntimeOptions()) is backend
        with plugins.open_session(backend, open_checkpoint("demo"), "ternary") as session:
            assert (session.describe_runtime(), session.weights_by_kind(), session.budget) == (None, {}, None)
            assert session.footprint() == (0, 0)
        meter = plugins.create_meter(f"{__name__}:PlainMeter")
        assert (meter.modelled, meter.why_absent()) == (False, None)
        assert meter.stop() == Unavailable(reason="plain")
    for plain, base in (("Backend", "InferenceBackend"), ("Session", "Session"), ("Meter", "Meter")):
        assert f"Plain{plain} does not inherit from `bitnet_bench.protocols.{base}`" in caplog.text


def test_a_plugin_that_lacks_a_required_method_is_refused_with_its_name() -> None:
    """A session that cannot say its footprint would fail in the middle of a measurement."""

    class Half:
        def open(self, checkpoint: Any, precision: str) -> Any:
            return nullcontext(type("HalfSession", (), {"loglikelihood": None, "generate": None, "prefill": None})())

    backend = plugins._create("backends", Half)
    with (
        pytest.raises(BenchError, match="HalfSession has no method decode, footprint"),
        plugins.open_session(backend, open_checkpoint("demo"), "ternary"),
    ):
        pass
