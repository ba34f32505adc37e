"""Fuzz the parsers of foreign files: `make fuzz`, or `make fuzz FUZZ="--parser gguf --cases 1000 --seed 7"`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

CASES = 50_000


def main() -> int:
    """Run the cases, print the faults by kind, and return how many kinds there are, at most 1."""
    options = _parse_options()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TORCH_COMPILE_DISABLE": "1"}
    _import_heavy()
    from fuzz.parsers import PARSERS
    from fuzz.running import Fault, run_cases

    chosen = [parser for parser in PARSERS if not options.parser or parser.name in options.parser]
    if not chosen:
        print(f"There are: {', '.join(parser.name for parser in PARSERS)}.", file=sys.stderr)
        return 2
    shares = sum(parser.share for parser in chosen)
    print(f"{options.cases} cases from seed {options.seed}", flush=True)
    kinds: Counter[str] = Counter()
    ran, began = 0, time.monotonic()
    for parser in chosen:
        cases = range(options.first, options.first + max(1, round(options.cases * parser.share / shares)))
        since, faults = time.monotonic(), 0
        for fault in run_cases(parser, cases, options.seed):
            ran += 1
            if isinstance(fault, Fault):
                faults += 1
                kind = f"{parser.name}: {fault.kind}"
                kinds[kind] += 1
                if kinds[kind] <= options.show:
                    print(f"  case {fault.case}: {fault.kind}\n    {fault.said}", flush=True)
        print(f"{parser.name}: {len(cases)} cases, {faults} faults, {time.monotonic() - since:.0f} s", flush=True)
    print(f"{ran} cases in {time.monotonic() - began:.0f} s, {sum(kinds.values())} faults of {len(kinds)} kinds")
    for kind, count in kinds.most_common():
        print(f"  {count} x {kind}")
    return min(1, len(kinds))


def _parse_options() -> argparse.Namespace:
    parse = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parse.add_argument("--cases", type=int, default=CASES, help="cases over all parsers")
    parse.add_argument("--seed", type=int, default=0, help="another seed makes other cases")
    parse.add_argument("--first", type=int, default=0, help="number of the first case of each parser, to repeat one")
    parse.add_argument("--parser", action="append", help="only this parser; repeatable")
    parse.add_argument("--show", type=int, default=2, help="cases of each kind of fault that are shown")
    return parse.parse_args()


def _import_heavy() -> None:
    """Import before the first fork what every child would import."""
    import fsspec.implementations.local  # noqa: F401
    import optuna  # noqa: F401
    import pyarrow.json
    import pyarrow.parquet  # noqa: F401
    import torch
    import transformers
    from transformers.models.auto import modeling_auto  # noqa: F401

    from fuzz import answer_parsers, parsers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for kind in ("packed", "float", "sharded"):
        parsers._checkpoint(kind)
    parsers._gguf()
    parsers._tokenizer()
    answer_parsers._shards()


if __name__ == "__main__":
    sys.exit(main())
