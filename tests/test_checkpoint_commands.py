"""inspect, convert and init as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError


def told(*arguments: str) -> str:
    """Run a command that succeeds and return what it printed on standard output."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_inspect_says_what_the_embedded_checkpoint_is() -> None:
    """Format, direction, ternary layers with their zeros, bits per weight, and whether it trains, as JSON."""
    found = json.loads(told("inspect", "demo", "--json"))
    assert found["checkpoint"]["format"] == "autobitlinear"
    assert found["checkpoint"]["scale_direction"] == "multiply"
    assert len(found["layers"]) == 4 * 7
    assert all(0.2 < layer["zero_density"] < 0.5 for layer in found["layers"])
    assert found["ternary_bits_per_weight"] == pytest.approx(2, rel=1e-3)
    assert found["trainable"] is True
    assert "autobitlinear" in told("inspect", "demo")


def test_a_converted_checkpoint_is_proven_equal(tmp_path: Path) -> None:
    """convert --to packed ends with equal codes, equal scales and the same logits."""
    found = json.loads(told("convert", "demo", "--to", "packed", str(tmp_path / "out"), "--json"))
    assert found["checkpoint"]["format"] == "packed"
    assert found["parity"]["layers"] == 4 * 7
    assert found["parity"]["largest_scale_error"] == 0
    assert found["parity"]["prompt_tokens"] > 10
    assert found["parity"]["largest_logit_error"] == 0


def test_a_random_checkpoint_has_the_published_shape(tmp_path: Path) -> None:
    """init writes the same model for the same seed, in several files where one would be too large, and no other way."""
    out = tmp_path / "a"
    first = json.loads(
        told("init", str(out), "--preset", "bitnet-125m", "--seed", "3", "--shard-size", "0.04", "--json")
    )
    again = json.loads(told("init", str(tmp_path / "b"), "--preset", "bitnet-125m", "--seed", "3", "--json"))
    other = json.loads(told("init", str(tmp_path / "c"), "--preset", "bitnet-125m", "--seed", "4", "--json"))
    assert first["parameters"] == again["parameters"] == 109_563_648
    assert first["ternary_parameters"] == 84_934_656
    assert len(list(out.glob("*.safetensors"))) > 1
    assert again["sha256"] != other["sha256"]
    assert again["zero_density"] == pytest.approx(0.31, abs=0.01)


def test_an_unknown_preset_is_named_with_those_there_are(tmp_path: Path) -> None:
    """A misspelt preset is a sentence, and nothing is written."""
    with pytest.raises(BenchError, match="bitnet-3b") as caught:
        CliRunner().invoke(app, ["init", str(tmp_path / "o"), "--preset", "bitnet-3b"], catch_exceptions=False)
    assert "bitnet-2b-4t" in str(caught.value)
    assert not (tmp_path / "o").exists()
