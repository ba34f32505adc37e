"""Write a copy of the tree in which every function of a part has its mutants beside it, and list the mutants.

Run with mutmut on the path: generate.py TREE OUTPUT MODULE..., where MODULE is a file below TREE. mutmut makes the
mutants; the function that chooses between them is `trampoline.py`, which needs nothing in a test's child processes.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

TRAMPOLINE = "from mutation_trampoline import choose_body as _mutmut_mutated, MutantDict"


def main() -> None:
    """Mutate the modules in place and write as JSON what each mutant changes and where it stands."""
    tree, output, modules = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    os.chdir(_make_configuration())
    mutants = {}
    for module in modules:
        mutants |= mutate(tree, Path(module))
    allow_bodies(tree / "bitnet_bench" / "protocols.py")
    output.write_text(json.dumps(mutants, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"{len(mutants)} mutants of {len(modules)} modules")


def mutate(tree: Path, module: Path) -> dict[str, dict[str, object]]:
    """Write the mutated *module* and return its mutants."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.mutation.trampoline_templates import trampoline_imports

    file = tree / module
    made = mutate_file_contents(str(module), file.read_text(encoding="utf-8"))
    code = made.code.replace(trampoline_imports.strip(), TRAMPOLINE)
    ast.parse(code)
    file.write_text(code, encoding="utf-8")
    lines = code.splitlines()
    package = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    spans = made.line_span_by_function_name
    found = {}
    for name in made.mutant_names:
        base = name.partition("__mutmut_")[0]
        bodies = [lines[spans[one].start - 1 : spans[one].end] for one in (f"{base}__mutmut_orig", name)]
        was, now = find_change(
            *(
                "\n".join(body).replace(one, "f")
                for body, one in zip(bodies, (f"{base}__mutmut_orig", name), strict=True)
            )
        )
        found[f"{package}.{name}"] = {
            "file": str(module),
            "function": f"{package}.{base}",
            "was": was,
            "is": now,
            "lines": [spans[name].start, spans[name].end],
        }
    return found


def allow_bodies(protocols: Path) -> None:
    """Let `Contract` pass over the bodies of mutants, which are methods beside the original."""
    code, rule = protocols.read_text(encoding="utf-8"), 'if name.startswith("_") or'
    assert code.count(rule) == 1, "Contract refuses names in another way now"
    protocols.write_text(code.replace(rule, f'{rule} "__mutmut_" in name or'), encoding="utf-8")


def find_change(original: str, mutant: str) -> tuple[str, str]:
    """Return the lines that a mutant changed, before and after."""
    before, after = original.splitlines(), mutant.splitlines()
    blocks = [b for b in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if b[0] != "equal"]
    first, last = blocks[0], blocks[-1]
    return "\n".join(before[first[1] : last[2]]), "\n".join(after[first[3] : last[4]])


def _make_configuration() -> str:
    folder = Path(tempfile.mkdtemp(prefix="mutmut-"))
    (folder / "setup.cfg").write_text("[mutmut]\nsource_paths=bitnet_bench\n", encoding="utf-8")
    (folder / "bitnet_bench").mkdir()
    return str(folder)


if __name__ == "__main__":
    main()
