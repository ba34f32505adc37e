"""Run mutation tests on one part of the library, and print how many mutants the tests notice.

`make mutants PART=metrics SAMPLE=150 SEED=1`. A mutant is a small change of one function (`<` for `<=`, an argument for
None), made by mutmut; a test that then fails kills it. Equal seeds give equal samples of equal sources.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = ROOT / ".ci" / "mutation"
BUILD = ROOT / "build" / "mutants"
TOOL = ("mutmut==3.8.1", "libcst==1.9.0")
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "metrics": (("bitnet_bench/metrics/*.py",), ("tests/metrics", "tests/tasks")),
    "statistics": (("bitnet_bench/statistics/*.py",), ("tests/statistics", "tests/comparison")),
    "quantizer": (
        tuple(f"bitnet_bench/ternary/{name}.py" for name in ("quantizer", "packing", "panels", "linear", "ops")),
        tuple(
            f"tests/ternary/test_{name}.py"
            for name in ("quantizer", "packing", "panels", "linear", "matrices", "kernel", "engine", "*by_hand")
        ),
    ),
    "cache": (("bitnet_bench/evaluation/answer_cache.py",), ("tests/evaluation",)),
    "evaluation": (("bitnet_bench/evaluation/*.py",), ("tests/evaluation", "tests/tasks")),
    "measurement": (("bitnet_bench/measurement/**/*.py",), ("tests/measurement",)),
}
"""Modules and tests of each part."""
ELSEWHERE = {"evaluation": ("bitnet_bench/evaluation/answer_cache.py",)}
TOO_SLOW = tuple(
    f"tests/evaluation/test_{name}.py" for name in ("kill", "parity", "official", "several", "gpu_failure", "resume")
)
"""Tests that take so long that a survivor of theirs would take minutes."""
LIVED = ("survived", "not reached")
READS_TO_PEOPLE = re.compile(r"""(["'])(?:(?!\1).)*[^\s"'] [^\s"'](?:(?!\1).)*\1""")


def main() -> None:
    """Mutate, sample, run, print."""
    options = _parse()
    work = BUILD / "-".join(options.parts)
    tree = work / "tree"
    copy_tree(tree)
    modules = {part: list_modules(part) for part in options.parts}
    mutants = generate(tree, work, sorted({module for listed in modules.values() for module in listed}))
    caught = check_types(tree, mutants) if options.mypy else set()
    names = {part: choose(mutants, modules[part], options) for part in options.parts}
    results = work / f"results-{options.seed}-{options.sample}.jsonl"
    results.unlink(missing_ok=True)
    run(tree, work, options, mutants, [name for chosen in names.values() for name in chosen], results)
    for part, chosen in names.items():
        print_table(f"{part}, seed {options.seed}", mutants, chosen, caught, results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", choices=PARTS, nargs="+")
    parser.add_argument("--sample", type=int, default=150, help="how many mutants of each part; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=40, help="seconds of tests for a mutant, quickest first")
    parser.add_argument("--mypy", action="store_true", help="also ask mypy, which `make check` runs")
    parser.add_argument("--texts", action="store_true", help="also mutate sentences for readers")
    parser.add_argument("--names", type=Path, help="a file that lists the mutants instead of a sample")
    parser.add_argument("--tests", nargs="*", help="tests instead of the parts'")
    return parser.parse_args()


def copy_tree(tree: Path) -> None:
    """Copy what git knows, and the built kernel."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    files = [Path(os.fsdecode(one)) for one in listed.stdout.split(b"\0") if one]
    files += [file.relative_to(ROOT) for file in ROOT.glob("bitnet_bench/ternary/kernel/_library.*")]
    for file in files:
        if (ROOT / file).exists() or (ROOT / file).is_symlink():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, tree / file, follow_symlinks=False)
    for name in ("trampoline", "plugin"):
        shutil.copy2(OURS / f"{name}.py", tree / f"mutation_{name}.py")


def list_modules(part: str) -> list[str]:
    """Return the files that are mutated, relative to the root."""
    found = {str(file.relative_to(ROOT)) for pattern in PARTS[part][0] for file in ROOT.glob(pattern)}
    return sorted(found - set(ELSEWHERE.get(part, ())))


def generate(tree: Path, work: Path, modules: list[str]) -> dict[str, dict[str, Any]]:
    """Mutate *tree* and return its mutants; the tool is in a folder of its own, which no test sees."""
    tool = BUILD / "tool"
    if not tool.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tool), *TOOL]
        subprocess.run(pip, check=True)
    command = [sys.executable, str(OURS / "generate.py"), str(tree), str(work / "mutants.json"), *modules]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tool)})
    made: dict[str, dict[str, Any]] = json.loads((work / "mutants.json").read_text(encoding="utf-8"))
    return made


def choose(mutants: dict[str, dict[str, Any]], modules: list[str], options: argparse.Namespace) -> list[str]:
    """Return the names of *modules* to try: a sample, without changes of sentences for readers unless asked for."""
    every = [name for name, mutant in mutants.items() if mutant["file"] in modules]
    if options.names:
        named = set(options.names.read_text(encoding="utf-8").split())
        return [name for name in every if name in named]
    names = [name for name in every if options.texts or not changes_a_text(mutants[name])]
    print(f"{len(every)} mutants; {len(every) - len(names)} change only a sentence for a reader and are left out")
    if options.sample and options.sample < len(names):
        names = random.Random(options.seed).sample(names, options.sample)
    return names


def changes_a_text(mutant: dict[str, Any]) -> bool:
    """Return whether a mutant changes nothing but a string with a space between two words."""

    def strip(code: str) -> str:
        return READS_TO_PEOPLE.sub("''", code)

    return strip(mutant["was"]) == strip(mutant["is"])


def check_types(tree: Path, mutants: dict[str, dict[str, Any]]) -> set[str]:
    """Return the mutants that mypy refuses."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        f"--cache-dir={BUILD / 'mypy'}",
        "--config-file",
        "pyproject.toml",
    ]
    ran = subprocess.run(
        [*command, *sorted({mutant["file"] for mutant in mutants.values()})],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if "error:" not in ran.stdout:
        raise SystemExit(f"mypy did not run:\n{ran.stdout}{ran.stderr}")
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for name, mutant in mutants.items():
        spans.setdefault(mutant["file"], []).append((*mutant["lines"], name))
    caught = set()
    for file, line in re.findall(r"^(\S+?):(\d+): error:", ran.stdout, re.MULTILINE):
        caught |= {name for first, last, name in spans.get(file, ()) if first <= int(line) <= last}
    return caught


def run(
    tree: Path, work: Path, options: argparse.Namespace, mutants: dict[str, Any], names: list[str], results: Path
) -> None:
    """Run pytest with the plugin in the mutated tree."""
    asked = {"mutants": mutants, "names": names, "budget_s": options.budget_s, "results": str(results)}
    (work / "asked.json").write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
    environment = {
        **os.environ,
        "MUTANTS": str(work / "asked.json"),
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "BITNET_BENCH_DATA": os.environ.get("BITNET_BENCH_DATA", str(ROOT.parent / "shared" / "data")),
    }
    patterns = {pattern for part in options.parts for pattern in PARTS[part][1]}
    tests = options.tests or sorted({str(found.relative_to(tree)) for one in patterns for found in tree.glob(one)})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "mutation_plugin",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    left_out = [f"--ignore={file}" for file in TOO_SLOW]
    base = f"--basetemp={work / 'tmp'}"
    ended = subprocess.run(
        [*command, base, *left_out, *tests],
        cwd=tree,
        env=environment,
        check=False,
        stdout=(work / "pytest.out").open("w"),
    )
    shutil.rmtree(work / "tmp", ignore_errors=True)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {ended.returncode}: {work / 'pytest.out'}")


def print_table(title: str, mutants: dict[str, Any], names: list[str], caught: set[str], results: Path) -> None:
    """Print each mutant that lived, then the score with its interval."""
    from scipy.stats import binomtest

    found = {one["name"]: one["outcome"] for one in map(json.loads, results.read_text(encoding="utf-8").splitlines())}
    tried = {name: found[name] for name in names if name in found}
    print(f"\n# {title}")
    for name, outcome in tried.items():
        if outcome in LIVED:
            mark = " (mypy refuses it)" if name in caught else ""
            was, now = (mutants[name][which].strip() for which in ("was", "is"))
            print(f"{outcome}{mark}: {name}\n- {was}\n+ {now}")
    print(f"\n{title}: {len(tried)} of {len(names)} tried; {dict(Counter(tried.values()))}")
    killed = {name for name, outcome in tried.items() if outcome not in LIVED}
    for what, noticed in (("by tests", killed), ("by tests or mypy", killed | (caught & tried.keys()))):
        low, high = binomtest(len(noticed), len(tried)).proportion_ci(method="wilson")
        print(f"killed {what}: {len(noticed) / len(tried):.1%} (95 % interval {low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
