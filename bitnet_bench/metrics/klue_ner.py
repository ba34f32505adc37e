"""KLUE-NER (Park et al. 2021, section 3.4): entity macro-F1 and character macro-F1 over IOB2 tags of characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.sums import (
    BOOTSTRAP_SIGNATURE,
    SumMetric,
    count_label_hits,
    f1_from_counts,
    macro_f1_from_counts,
)
from bitnet_bench.runs.records import Example

ENTITY_TYPES = ("PS", "LC", "OG", "DT", "TI", "QT")
TAGS = (*(f"{place}-{kind}" for kind in ENTITY_TYPES for place in "BI"), "O")


def find_entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (type, start, end) of every entity in IOB2 *tags*, as seqeval's strict mode reads them.

    An entity begins with B and continues with I of its type; an I that continues nothing is not an entity.
    """
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for place, tag in enumerate((*tags, "O")):
        if kind and tag != f"I-{kind}":
            found.add((kind, start, place))
            kind = ""
        if tag.startswith("B-"):
            kind, start = tag[2:], place
    return found


class EntityF1(SumMetric):
    """Macro-F1 over entity types; an entity is correct if its type and both its ends are.

    The official script joins all sentences into one sequence, which is equivalent because no sentence begins with I.
    """

    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2, types]: hits, and targets plus outputs."""
        pairs = [(find_entities(e.target_labels), find_entities(e.output_labels)) for e in examples]
        place = {kind: i for i, kind in enumerate(_list_entity_types(pairs))}
        counts = np.zeros((len(pairs), 2, len(place)), dtype=np.int64)
        for row, (target, output) in zip(counts, pairs, strict=True):
            for kind, *_span in target & output:
                row[0, place[kind]] += 1
            for kind, *_span in (*target, *output):
                row[1, place[kind]] += 1
        return counts

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return entity macro-F1, 0..1; 0 if there is no entity on either side."""
        return macro_f1_from_counts(sums)

    def score_example(self, example: Example) -> float:
        """Return F1 over the entities of one sentence; 1.0 if target and output have none."""
        if not find_entities(example.target_labels):
            return float(not example.malformed and not find_entities(example.output_labels))
        return super().score_example(example)

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return F1 of each entity type, 0..100."""
        sums = self.additive_statistics(examples).sum(0)
        pairs = [(find_entities(e.target_labels), find_entities(e.output_labels)) for e in examples]
        return dict(zip(_list_entity_types(pairs), (100.0 * f1_from_counts(sums[0], sums[1])).tolist(), strict=True))

    def signature(self) -> str:
        """Return the signature."""
        return f"entity_f1|scheme:iob2-strict|average:macro-over-types|{BOOTSTRAP_SIGNATURE}|v1"


class CharacterMacroF1(SumMetric):
    """Macro-F1 over the 13 character tags, including O; a tag that never occurs counts as 1 (official)."""

    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2, 13]: hits, and targets plus outputs."""
        return count_label_hits([e.target_labels for e in examples], [e.output_labels for e in examples], TAGS)

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return character macro-F1, 0..1."""
        scores: np.ndarray = f1_from_counts(sums[..., 0, :], sums[..., 1, :], absent=1.0).mean(-1)
        return scores

    def score_example(self, example: Example) -> float:
        """Return the share of characters with the correct tag."""
        hits = sum(a == b for a, b in zip(example.target_labels, example.output_labels, strict=True))
        return hits / len(example.target_labels)

    def signature(self) -> str:
        """Return the signature."""
        return f"character_macro_f1|labels:13|absent:1|{BOOTSTRAP_SIGNATURE}|v1"


def _list_entity_types(pairs: Sequence[tuple[set[tuple[str, int, int]], set[tuple[str, int, int]]]]) -> list[str]:
    return sorted({kind for pair in pairs for side in pair for kind, *_span in side})
