"""A GGUF file of a ternary type that is mostly floats is said to be that, with the shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.gguf.float_share import warn_float_share
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, count_types
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.protocols import no_progress


def write(folder: Path, form: Any, embeddings: Any = None) -> Path:
    """Return the embedded ternary model as a file of type *form*."""
    file = folder / f"{form}-{embeddings}.gguf"
    write_gguf(open_checkpoint("demo"), form, file, no_progress, embeddings)
    return file


def test_the_share_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Embedding and layers without whole blocks are named apart, and the option that makes the embedding smaller."""
    file = write(tmp_path, "tq2_0")
    sizes = count_types(GgufFile(file).tensors.values())
    share = (sizes["F16"] + sizes["F32"]) / sum(sizes.values())
    warning = str(warn_float_share(file, "tq2_0"))
    assert f"{share:.0%} of {file} stays F16" in warning
    assert "embedding and head are " in warning
    assert "4 layers whose rows are not whole blocks of 256 values" in warning  # the embedded model has rows of 704
    assert "`embeddings=q8_0`" in warning


@pytest.mark.parametrize(("form", "embeddings"), [("tq2_0", "q8_0"), ("f16", None), ("q8_0", None)])
def test_other_files_have_no_warning(tmp_path: Path, form: str, embeddings: str | None) -> None:
    """A file that is less than half floats, and one that was never to be ternary."""
    assert warn_float_share(write(tmp_path, form, embeddings), form, embeddings) is None  # type: ignore[arg-type]


def test_the_command_warns_on_standard_error(run_command: Callable[..., Any], tmp_path: Path) -> None:
    """The warning names the command's own option."""
    done = run_command("convert", "demo", tmp_path / "x.gguf", "--to", "gguf-tq2_0", "--json")
    assert done.returncode == 0, done.stderr
    assert "stays F16, and is not ternary" in done.stderr
    assert "--embeddings q8_0" in done.stderr
    assert "stays F16" not in done.stdout
