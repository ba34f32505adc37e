"""Write text for pre-training from the grammar of the `sample` suite, without the frames of its test rows.

python benchmarks/sample_text.py FILE --megabytes 16
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sample_language import event_slots, fill, make_infinitive, read_frames, read_lexicon
from sample_rows import (
    SEED,
    Grammar,
    draw_facts,
    fill_english,
    mistake_fact,
    review_slots,
    summary_slots,
    translation_slots,
)

YES, NO = ("그렇다.", "맞다."), ("아니다.", "그렇지 않다.")
PRAISE, COMPLAINT = ("좋은 평이다.", "칭찬이다."), ("나쁜 평이다.", "불평이다.")


def list_frames(grammar: Grammar, task: str) -> list[Any]:
    """Return the frames that text may have: those of training rows, and those of text alone."""
    found: list[Any] = grammar.frames[task]["train"] + grammar.frames[task].get("text", [])
    return found


def tell_day(grammar: Grammar, rng: random.Random) -> str:
    """Tell what two to four people did, and answer questions about it."""
    facts = [fact for _ in range(rng.randint(1, 2)) for fact in draw_facts(grammar, rng)]
    frames = list_frames(grammar, "facts")
    told = [fill(rng.choice(frames), **fact.slots) for fact in facts]
    for _ in range(rng.randint(1, 3)):
        fact, other = rng.sample(facts[-2:], 2)
        if rng.random() < 0.5:
            asked, frame = rng.choice(list_frames(grammar, "qa"))
            told.append(f"{fill(frame, **fact.slots)} {fill('{x}(이)다.', x=fact.slots[asked])}")
            continue
        asked, frame = rng.choice(list_frames(grammar, "boolq"))
        is_so = rng.random() < 0.5
        slots = fact.slots if is_so else mistake_fact(fact, other, asked, rng)
        told.append(f"{fill(frame, **slots)} {rng.choice(YES if is_so else NO)}")
    return " ".join(told)


def tell_causes(grammar: Grammar, rng: random.Random) -> str:
    """Tell what an event and its opposite led to."""
    one = rng.choice(grammar.words["causes"])
    told = []
    for cause, effect in rng.sample([one[:2], one[2:]], 2):
        name = rng.choice(grammar.words["names"])
        first, second = event_slots(cause, name), event_slots(effect, name)
        slots = {"cause": first["event"], "because": make_infinitive(cause.removeprefix("~ "))}
        slots |= {"effect": second["event"], "cause_topic": first["topic"]}
        slots |= {"effect_topic": second["topic"], "effect_subject": second["subject"]}
        told.append(fill(rng.choice(grammar.frames["copa"]["text"]), **slots))
    return " ".join(told)


def tell_steps(grammar: Grammar, rng: random.Random) -> str:
    """Tell what a person does, step by step."""
    steps = rng.choice(list(grammar.words["scripts"].values()))
    steps = steps[rng.choice((0, 0, 1, 2)) :]
    first, middle, last = rng.choice(list_frames(grammar, "hellaswag"))
    topic = event_slots("~ ", rng.choice(grammar.words["names"]))
    frames = [first, *[middle] * (len(steps) - 2), last]
    return " ".join(fill(frame, **topic | {"event": step}) for frame, step in zip(frames, steps, strict=True))


def tell_senses(grammar: Grammar, rng: random.Random) -> str:
    """Tell what a word with two senses means where."""
    homonyms = grammar.words["homonyms"]
    word = rng.choice(list(homonyms))
    (sense, events), (another, others) = rng.sample(list(homonyms[word].items()), 2)
    event, other = rng.sample(events, 2)
    names = rng.sample(grammar.words["names"], 2)
    slots = {"word": word, "sense": sense, "another": another, "other": other, "odd": rng.choice(others)}
    frame = rng.choice(grammar.frames["wic"]["text"])
    text = fill(frame, name=names[1], **slots, **event_slots(f"~ {event}", names[0]))
    return text if rng.random() < 0.5 else text.replace("[", "").replace("]", "")


def tell_review(grammar: Grammar, rng: random.Random) -> str:
    """Say what was good or bad, and which it was."""
    keeps, frame = rng.choice(list_frames(grammar, "sentineg"))
    is_good = rng.random() < 0.5
    text = fill(frame, **review_slots(grammar, rng, is_good=is_good == keeps, keeps=keeps))
    return f"{text} {rng.choice(PRAISE if is_good else COMPLAINT)}"


def tell_news(grammar: Grammar, rng: random.Random) -> str:
    """Tell a notice or a piece of news, and its gist."""
    topic = rng.choice(list(grammar.frames["summarization"].values()))
    document, summary = rng.choice(topic["train"])
    slots = summary_slots(grammar, rng)
    return f"{fill(document, **slots)} {rng.choice(('간단히 말하면', '줄이면', '한마디로'))} {fill(summary, **slots)}"


def tell_in_both(grammar: Grammar, rng: random.Random) -> str:
    """Say one thing in English and in Korean, in either order."""
    english, korean = rng.choice(list_frames(grammar, "translation"))
    slots = translation_slots(grammar, rng)
    pair = [fill_english(english, slots), fill(korean, **slots)]
    return "\n".join(pair if rng.random() < 0.7 else reversed(pair))


TELLERS: dict[Callable[[Grammar, random.Random], str], tuple[int, int]] = {
    tell_day: (26, 1),
    tell_causes: (12, 3),
    tell_steps: (12, 2),
    tell_senses: (20, 3),
    tell_review: (8, 4),
    tell_news: (12, 1),
    tell_in_both: (10, 6),
}
"""How many of a hundred documents each makes, and how often it tells in one."""


def make_documents(seed: int = SEED) -> Iterator[str]:
    """Yield documents without end, always the same."""
    grammar, rng = Grammar(read_lexicon(), read_frames(), "train"), random.Random(f"{seed} text")
    tellers, shares = list(TELLERS), [share for share, _ in TELLERS.values()]
    while True:
        (tell,) = rng.choices(tellers, shares)
        joint = "\n" if tell is tell_in_both else " "
        yield joint.join(tell(grammar, rng) for _ in range(TELLERS[tell][1]))


def write_documents(path: Path, size: int) -> None:
    """Write documents to a JSONL file until it holds *size* bytes."""
    with path.open("w", encoding="utf-8") as file:
        for text in make_documents():
            size -= len((line := json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())
            file.write(line)
            if size < 0:
                return


def main() -> None:
    """Write the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=16)
    given = parser.parse_args()
    write_documents(given.out, int(given.megabytes * 1e6))


if __name__ == "__main__":
    main()
