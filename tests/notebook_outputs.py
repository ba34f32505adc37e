"""Run the notebooks and keep their outputs in them: `make notebook-outputs`.

A notebook's metadata hold a digest of what decides its outputs: its cells, the version of the package, and the files of
the embedded models and of the suite `sample`. A test compares that digest, so that stale outputs are noticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"
METADATA_KEY = "bitnet_bench"
MEASURED_TAG = "measured"
"""Tag of a cell whose output holds times or other readings of the machine that ran it."""
CELL_TIMEOUT_S = 900
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def digest_inputs(notebook: dict[str, Any]) -> str:
    """Return the sha256 of what decides the outputs of a notebook, as read from its JSON."""
    import bitnet_bench

    digest = hashlib.sha256(bitnet_bench.__version__.encode())
    for cell in notebook["cells"]:
        digest.update(json.dumps([cell["cell_type"], "".join(cell["source"])]).encode())
    for name, content in _read_embedded_files():
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_embedded_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the embedded models and of the suite `sample`, each with its name."""
    import bitnet_bench.demo
    import bitnet_bench.tasks

    for folder in (bitnet_bench.demo.__path__[0], f"{bitnet_bench.tasks.__path__[0]}/sample"):
        for file in sorted(Path(folder).rglob("*")):
            if file.suffix in {".json", ".jsonl", ".safetensors", ".yaml"}:
                yield file.relative_to(folder).as_posix(), file.read_bytes()


def run_notebook(file: Path, folder: Path) -> Any:
    """Return the notebook after a run of every cell in *folder*, in a kernel of its own, without the traces of it."""
    import nbclient
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    work = folder / "work"
    work.mkdir()
    nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(work)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _clean_outputs(cell.outputs, str(work))
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata[METADATA_KEY] = {"inputs": digest_inputs(notebook)}
    return notebook


def _clean_outputs(outputs: list[Any], work: str) -> list[Any]:
    """Return *outputs* without progress and logs on standard error, and without the path of the folder of the run."""
    kept = [one for one in outputs if not (one.output_type == "stream" and one.name == "stderr")]
    for one in kept:
        if one.output_type == "stream":
            one.text = one.text.replace(f"{work}/", "")
    return kept


def mask_numbers(text: str) -> str:
    """Return *text* with # for every number."""
    return NUMBER.sub("#", text)


def read_numbers(text: str) -> list[float]:
    """Return the numbers of *text*, in their order."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def main() -> None:
    """Run the named notebooks, or all, and write them with their outputs."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    for file in parser.parse_args().files:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(file, Path(folder))
        nbformat.write(notebook, file)
        print(file)


if __name__ == "__main__":
    main()
