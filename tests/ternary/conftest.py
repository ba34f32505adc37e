"""What the tests of checkpoints share: ternary masters of several architectures, and ways to spoil a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitnet_bench.checkpoints.converting import convert_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.ternary import kernel

Models = Callable[[str], Path]
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


def nothing(done: int, total: int, note: str = "") -> None:
    """Show no progress."""


@pytest.fixture(scope="session")
def edit_config() -> Callable[..., None]:
    """Give a function that sets fields in config.json of a folder; None removes one."""

    def edit(folder: Path, **fields: Any) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text()) | fields
        file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return edit


@pytest.fixture(scope="session")
def edit_tensors() -> Callable[[Path, Callable[[dict[str, Tensor]], Any]], None]:
    """Give a function that alters the tensors of a folder with one weight file."""

    def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return edit


@pytest.fixture(scope="session")
def masters(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory, edit_config: Any) -> Models:
    """Give a factory of checkpoints of float32 masters with an online quantization_config; not to be changed."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("masters") / architecture
            made[architecture] = Path(shutil.copytree(tiny_model(architecture), folder))
            edit_config(folder, quantization_config=ONLINE)
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def stored_as(masters: Models, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Give a factory of checkpoints by (architecture, format), converted from the masters; not to be changed."""
    made: dict[tuple[str, str], Path] = {}

    def make(architecture: str, form: Any) -> Path:
        if form == "masters":
            return masters(architecture)
        if (architecture, form) not in made:
            folder = tmp_path_factory.mktemp("converted") / form
            convert_checkpoint(inspect_folder(masters(architecture)), form, folder, nothing, logits=None)
            made[architecture, form] = folder
        return made[architecture, form]

    return make


@pytest.fixture
def logits() -> Callable[[Any], Tensor]:
    """Give a function that returns the logits [3, 17, V] of a model for fixed random ids."""
    ids = torch.randint(3, 300, (3, 17), generator=torch.Generator().manual_seed(3))

    def run(model: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = model.eval()(ids).logits
        return found

    return run


@pytest.fixture(params=kernel.VECTOR_WIDTHS)
def width(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each width of vectors in turn; the widest again afterwards."""
    if not kernel.use_width(request.param):
        pytest.skip(f"this processor has no vectors of {request.param} floats")
    yield request.param
    assert any(map(kernel.use_width, kernel.VECTOR_WIDTHS))


@pytest.fixture(params=kernel.list_instruction_sets())
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn; the best one again afterwards."""
    kernel.use_instruction_set(request.param)
    yield request.param
    kernel.use_instruction_set(kernel.list_instruction_sets()[0])


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
