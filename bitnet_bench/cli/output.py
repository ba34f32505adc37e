"""What commands print: tables for a person, JSON for a program."""

from __future__ import annotations

import json
from typing import Any


def show_runs(records: list[Any]) -> None:
    """Print the scores and costs of runs, and what is to be known of them."""
    from bitnet_bench import console

    if any(record.scores for record in records):
        console.show(console.scores_table(records))
    if any(record.costs or record.cost_errors or record.cost_left_out for record in records):
        console.show(console.costs_table(records))
    for note in console.notes(records):
        print(note)


def print_json(value: Any) -> None:
    """Print *value* on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1))
