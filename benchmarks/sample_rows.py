"""Write the rows of the `sample` suite from a grammar: `python benchmarks/sample_rows.py [--out FOLDER]`.

Words and sentence frames stand in `benchmarks/sample/`. Training and test rows share words and no frame. Every label
follows from how its row is made: `tests/tasks/test_sample_rows.py` checks both.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sample_language import event_slots, fill, read_frames, read_lexicon

SEED = 20261126
SHIPPED = Path(__file__).parents[1] / "tasks/sample/data"
TRAIN_ROWS = {
    "boolq": 240,
    "copa": 200,
    "wic": 240,
    "hellaswag": 200,
    "sentineg": 200,
    "qa": 160,
    "summarization": 144,
    "translation": 160,
}
TEST_ROWS = {task: 40 if task in ("qa", "summarization", "translation") else 120 for task in TRAIN_ROWS}
LABELS = {"boolq": 2, "copa": 2, "wic": 2, "hellaswag": 4, "sentineg": 2}
"""Number of labels of each task that is asked as a choice."""
SUMMARY_WORDS = {
    "city": "cities",
    "date": "dates",
    "facility": "facilities",
    "work": "works",
    "festival": "festivals",
    "count": "counts",
    "loss": "losses",
    "office": "offices",
    "first": "firsts",
    "feeling": "feelings",
    "weather": "weathers",
    "region": "regions",
    "advice": "advice",
    "name": "names",
    "day": "days",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Grammar:
    """Words, frames, and the part of the frames (`train` or `test`) that rows are made of."""

    words: dict[str, Any]
    frames: dict[str, Any]
    part: str

    def list_frames(self, task: str) -> list[Any]:
        """Return the frames of *task* that this part has."""
        found: list[Any] = self.frames[task][self.part]
        return found


@dataclass(frozen=True)
class Fact:
    """Somebody did something on a day at a place."""

    slots: dict[str, str]
    others: tuple[str, ...]
    """Things with which the same could have been done."""


def draw_facts(grammar: Grammar, rng: random.Random) -> tuple[Fact, Fact]:
    """Return two facts that share no person, day, place or thing."""
    words = grammar.words
    names, days = rng.sample(words["names"], 2), rng.sample(words["days"], 2)
    facts = []
    for name, day, activity in zip(names, days, rng.sample(words["activities"], 2), strict=True):
        thing = rng.choice(activity["things"])
        slots = {"who": name, "day": day, "place": activity["place"], "thing": thing}
        slots |= {"past": activity["verb"], "adnominal": activity["adnominal"]}
        facts.append(Fact(slots, tuple(other for other in activity["things"] if other != thing)))
    return facts[0], facts[1]


def mistake_fact(fact: Fact, other: Fact, asked: str, rng: random.Random) -> dict[str, str]:
    """Return the slots of *fact* with *asked* wrong: a word of the other fact, or a thing that was not told."""
    return fact.slots | {asked: rng.choice(fact.others) if asked == "thing" else other.slots[asked]}


def tell_facts(facts: Sequence[Fact], frames: Sequence[str], rng: random.Random) -> str:
    """Return a paragraph that tells *facts* in any order."""
    return " ".join(fill(rng.choice(frames), **fact.slots) for fact in rng.sample(facts, len(facts)))


def make_boolq(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask whether something was so; a wrong question has one word of another fact, or a thing that was not told."""
    fact, other = draw_facts(grammar, rng)
    asked, frame = rng.choice(grammar.list_frames("boolq"))
    label = number % 2
    slots = fact.slots if label else mistake_fact(fact, other, asked, rng)
    paragraph = tell_facts((fact, other), grammar.list_frames("facts"), rng)
    return {"paragraph": paragraph, "question": fill(frame, **slots), "label": label}


def make_qa(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask for a person, day, place or thing of one of two facts."""
    fact, other = draw_facts(grammar, rng)
    frames = grammar.list_frames("qa")
    asked, frame = frames[number % len(frames)]
    context = tell_facts((fact, other), grammar.list_frames("facts"), rng)
    return {"context": context, "question": fill(frame, **fact.slots), "answers": [fact.slots[asked]]}


def make_copa(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask for the cause or the result of an event; the wrong one belongs to the opposite event."""
    causes = grammar.words["causes"]
    one = causes[number // 4 % len(causes)]
    events, opposites = (one[:2], one[2:]) if number % 2 else (one[2:], one[:2])
    asks_cause = number // 2 % 2
    given, right, wrong = events[asks_cause], events[1 - asks_cause], opposites[1 - asks_cause]
    premise, alternative = rng.choice(grammar.list_frames("copa"))
    name, label = rng.choice(grammar.words["names"]), rng.randrange(2)
    first, second = (right, wrong) if label == 0 else (wrong, right)
    return {
        "premise": fill(premise, when=rng.choice(grammar.words["whens"]), **event_slots(given, name)),
        "question": "원인" if asks_cause else "결과",
        "alternative_1": fill(alternative, **event_slots(first, name)),
        "alternative_2": fill(alternative, **event_slots(second, name)),
        "label": label,
    }


def make_hellaswag(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask for the next step of what a person does; wrong ones are of other doings, or were done before."""
    scripts = list(grammar.words["scripts"].values())
    script = scripts[number % len(scripts)]
    told = rng.randint(1, 2)
    start = rng.randrange(len(script) - told)
    frames = grammar.list_frames("hellaswag")
    first, second, ending = rng.choice(frames)
    topic = event_slots("~ ", rng.choice(grammar.words["names"])) | {"when": rng.choice(grammar.words["whens"])}
    context = [fill(frame, **topic | {"event": script[start + i]}) for i, frame in enumerate((first, second)[:told])]
    strange = [rng.choice(other) for other in rng.sample([one for one in scripts if one is not script], 3)]
    if start:
        strange[0] = script[start - 1]
    label = number // len(scripts) % 4
    endings = rng.sample(strange, 3)
    endings.insert(label, script[start + told])
    numbered = {f"ending_{i + 1}": fill(ending, event=event) for i, event in enumerate(endings)}
    return {"context": " ".join(context), **numbered, "label": label}


def make_wic(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask whether a word with two senses has one sense in two sentences."""
    homonyms = grammar.words["homonyms"]
    word = list(homonyms)[number % len(homonyms)]
    senses, label = list(homonyms[word].values()), number // len(homonyms) % 2
    events = rng.sample(rng.choice(senses), 2) if label else [rng.choice(sense) for sense in rng.sample(senses, 2)]
    frames, words = grammar.list_frames("wic"), grammar.words
    contexts = [
        fill(rng.choice(frames), when=rng.choice(words["whens"]), **event_slots(f"~ {event}", name))
        for event, name in zip(events, rng.sample(words["names"], 2), strict=True)
    ]
    return {"word": word, "context_1": contexts[0], "context_2": contexts[1], "label": label}


def review_slots(grammar: Grammar, rng: random.Random, is_good: bool, keeps: bool) -> dict[str, str]:
    """Return what a review is made of; good or bad predicates, and a feeling that fits unless they are denied."""
    group = rng.choice(grammar.words["reviews"])
    aspects, predicates = rng.sample(group["aspects"], 2), rng.sample(group["good" if is_good else "bad"], 2)
    feelings = grammar.words["satisfied" if is_good == keeps else "disappointed"]
    slots = {"place": group["place"], "aspect": aspects[0], "aspect2": aspects[1], "feeling": rng.choice(feelings)}
    names = ("stem", "infinitive", "adnominal")
    slots |= dict(zip(names, predicates[0], strict=True))
    return slots | {f"{name}2": form for name, form in zip(names, predicates[1], strict=True)}


def make_sentineg(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Ask whether a review is good; a frame with a negation turns its predicate round."""
    frames = grammar.list_frames("sentineg")
    keeps, frame = frames[number // 2 % len(frames)]
    label = number % 2
    slots = review_slots(grammar, rng, is_good=bool(label) == keeps, keeps=keeps)
    return {"sentence": fill(frame, **slots), "label": label}


def make_summarization(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Tell a notice or a piece of news, and its gist."""
    topics = list(grammar.frames["summarization"].values())
    topic = topics[number % len(topics)]
    document, summary = rng.choice(topic[grammar.part])
    slots = summary_slots(grammar, rng)
    return {"document": fill(document, **slots), "summary": fill(summary, **slots)}


def summary_slots(grammar: Grammar, rng: random.Random) -> dict[str, str]:
    """Return a word for every slot of a notice or a piece of news."""
    return {slot: rng.choice(grammar.words[words]) for slot, words in SUMMARY_WORDS.items()}


def make_translation(grammar: Grammar, rng: random.Random, number: int) -> Row:
    """Say one thing in English and in Korean."""
    frames = grammar.list_frames("translation")
    english, korean = frames[number % len(frames)]
    slots = translation_slots(grammar, rng)
    return {"english": fill_english(english, slots), "korean": fill(korean, **slots)}


def fill_english(frame: str, slots: dict[str, str]) -> str:
    """Put *slots* into an English *frame*, with a capital at its beginning."""
    text = fill(frame, **slots)
    return text[0].upper() + text[1:]


def translation_slots(grammar: Grammar, rng: random.Random) -> dict[str, str]:
    """Return a word for every slot in both languages: capitals are English, small letters Korean."""
    deed = rng.choice(grammar.words["deeds"])
    things = rng.sample(deed["things"], 2)
    drawn = {
        "s": rng.choice(grammar.words["people"]),
        "o": things[0],
        "o2": things[1],
        "p": rng.choice(deed["places"]),
        "t": rng.choice(grammar.words["times"]),
        "f": rng.choice(grammar.words["futures"]),
    }
    slots = {"past": deed["past"], "future": deed["future"], "verb": deed["english"][0], "base": deed["english"][1]}
    for slot, (korean, english) in drawn.items():
        slots |= {slot: korean, slot.upper(): english}
    return slots


MAKERS: dict[str, Callable[[Grammar, random.Random, int], Row]] = {
    "boolq": make_boolq,
    "copa": make_copa,
    "wic": make_wic,
    "hellaswag": make_hellaswag,
    "sentineg": make_sentineg,
    "qa": make_qa,
    "summarization": make_summarization,
    "translation": make_translation,
}


def make_rows(task: str, part: str) -> list[Row]:
    """Return the rows of one part of *task*: no two alike, every label as often, an id each, always the same."""
    grammar = Grammar(read_lexicon(), read_frames(), part)
    rng = random.Random(f"{SEED} {task} {part}")
    wanted = (TRAIN_ROWS if part == "train" else TEST_ROWS)[task]
    most = Counter({label: wanted // LABELS.get(task, 1) for label in range(LABELS.get(task, 1))})
    rows: dict[str, Row] = {}
    for number in range(40 * wanted):
        row = MAKERS[task](grammar, rng, number)
        content = json.dumps({key: value for key, value in row.items() if key != "label"}, ensure_ascii=False)
        if content not in rows and most[row.get("label", 0)]:
            rows[content] = row
            most[row.get("label", 0)] -= 1
        if not most.total():
            break
    else:
        raise ValueError(f"The grammar has fewer than {wanted} {part} rows of {task}.")
    found = list(rows.values())
    rng.shuffle(found)
    return [{"id": f"{task}-{part}-{i + 1:03}"} | row for i, row in enumerate(found)]


def list_files() -> Iterator[tuple[str, str]]:
    """Yield the path below the data folder, and the text, of every file of rows."""
    for task in MAKERS:
        for part in ("train", "test"):
            rows = make_rows(task, part)
            yield f"{task}/{part}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    out = parser.parse_args().out
    for name, text in list_files():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
