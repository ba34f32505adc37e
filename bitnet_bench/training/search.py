"""Search settings, the same for every arm, and choose on validation rows."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from bitnet_bench.errors import BenchError, DivergedError, UsageError, format_validation_error
from bitnet_bench.files import read_text, write_whole
from bitnet_bench.processes import is_first_process
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.folder import TRAINING_FILE
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord, SearchRecord, Trial
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.halving import count_whole_runs, plan_rungs, shorten_job
from bitnet_bench.training.ladder import (
    LADDER_RATES,
    RATE,
    find_neighbour,
    make_ladders,
    warn_end_of_ladder,
    warn_falling_rate,
)
from bitnet_bench.training.saved_steps import STATE_FOLDER
from bitnet_bench.training.study import (
    STUDY_FILE,
    ArmStudy,
    Point,
    Space,
    describe_sampler,
    find_range,
    has_ranges,
    require_optuna,
)

SEARCH_RECORD_FILE = "search.json"
DRAWN_SETTINGS = 8
"""Number of settings that are drawn from ranges if the user does not say."""
FEW_STEPS = 20
"""Steps of a short run below which its loss says little about a long one."""
FALLBACK = "the best before of those that did not diverge at this length"
FIXED_FIELDS = {
    "model",
    "data",
    "data_dir",
    "out",
    "validation",
    "hold_out",
    "precision",
    "seed",
    "method",
    "teacher",
    "track",
    "save_every",
    "save_minutes",
    "learning_rate_source",
}
"""Fields that all trials have in common, so that their losses can be compared."""
Prune = Literal["halving"]


RunAhead = Callable[[Sequence[FinetuneJob]], None]
"""Function that runs jobs which do not depend on each other; a job that fails is left unfinished."""


class Candidate(NamedTuple):
    """Settings, and the whole job with them."""

    point: Point
    job: FinetuneJob
    number: int
    """Number of its trial in the study of the arm."""


def parse_grid(options: Sequence[str]) -> dict[str, list[str]]:
    """Return the values to try for each field, from NAME=VALUE,VALUE or NAME=LOW..HIGH; UsageError for others."""
    fields = {option: field for field, option in FinetuneJob.option_names().items()}
    grid: dict[str, list[str]] = {}
    for option in options:
        name, _, values = option.partition("=")
        field = fields.get(name, name)
        if field not in FinetuneJob.model_fields or field in FIXED_FIELDS or not values:
            raise UsageError(
                f"`search={option}` is not NAME=VALUE,VALUE with a setting of a job that can be searched.",
                "Such as `search=lr=1e-4,3e-4,1e-3`, `search=epochs=2,4` and `search=weight_decay=0.01..0.1`.",
            )
        grid[field] = values.split(",")
        span = find_range(field, grid[field])
        if span and not span.low < span.high:
            raise UsageError(
                f"The range of `search={option}` is empty.", "Give LOW..HIGH, such as `search=lr=1e-5..1e-3`."
            )
    return grid


def run_search(
    arms: Mapping[str, FinetuneJob],
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    out: Path,
    backend: str,
    steps: ProgressDisplay,
    *,
    prune: Prune | None = None,
    ladders: Mapping[str, Sequence[str]] | None = None,
    drawn: int = DRAWN_SETTINGS,
    only_chooses: bool = False,
    run_ahead: RunAhead | None = None,
) -> SearchRecord:
    """Try every point of *grid*, for each arm crossed with its rates in *ladders*, and choose the best of each arm.

    If *grid* has a range, *drawn* points are tried instead, which Optuna draws with the job's seed: with *prune* all of
    them before the first is run, which gives both arms the same; else each with what was learned from those before.

    The best has the lowest validation loss, with the job's seed. All points are run in full, or, with *prune*, in rungs
    that `plan_rungs` plans: every arm has the same ones, so that no arm is searched with more steps than another. A
    point that diverged is out, and its place in the next rung goes to the best of those that were pruned. Where
    learning rates are searched, the best is compared in a whole run with the next lower rate, because short runs favour
    high ones.

    *run_ahead* is given the runs of a rung, which do not depend on each other, before they are looked at: it may run
    them side by side, wherever. Those that it leaves unfinished are run here, one after the other.

    Unless it *only_chooses*, the chosen settings of each arm are then run with *seeds* seeds in full; if they diverge
    in the whole length, the next best are taken.

    Runs are in `out/ARM/POINT/seedN`, short ones in `out/ARM/POINT/1ofM/seedN` without their weights. Finished ones are
    skipped, and killed ones are resumed. `out/search.json` records what was tried, after every new run, and
    `out/search.journal` is the study of each arm, for Optuna's tools.
    """
    require_optuna()
    record = SearchRecord(grid=_as_tuples(grid), seeds=seeds, prune=prune)
    search = _Search(out, backend, steps, record, run_ahead)
    ranked = search.rank_settings(arms, ladders or {}, drawn)
    if not only_chooses:
        for arm, candidates in ranked.items():
            search.train_best(arm, candidates)
    return search.finish()


def search_rates(arms: Mapping[str, FinetuneJob], wanted: Arms) -> dict[str, Any]:
    """Return the arguments of a search but its grid; the checkpoints of *arms* are opened for a ladder."""
    ladders = make_ladders(arms) if wanted.find_learning_rate else None
    return {"prune": "halving" if wanted.prunes else None, "ladders": ladders, "drawn": wanted.trials or DRAWN_SETTINGS}


def count_settings(wanted: Arms) -> int:
    """Return how many settings a search tries for each arm."""
    grid = parse_grid(wanted.search)
    if has_ranges(grid):
        return wanted.trials or DRAWN_SETTINGS
    ladder = LADDER_RATES if wanted.find_learning_rate else 1
    return ladder * math.prod(len(values) for values in grid.values())


def count_search_runs(wanted: Arms) -> float:
    """Return how long all runs that choose the settings of an arm are together, a whole run being 1."""
    rates = LADDER_RATES if wanted.find_learning_rate else len(parse_grid(wanted.search).get(RATE, ()))
    if find_range(RATE, parse_grid(wanted.search).get(RATE, ("",))):
        rates = count_settings(wanted)
    compared = 2 if wanted.prunes and rates > 1 else 0
    return count_whole_runs(count_settings(wanted), wanted.prunes) + compared


def name_settings(settings: Mapping[str, str]) -> str:
    """Return settings for people: `learning_rate 0.001, epochs 2`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def load_search(folder: Path) -> SearchRecord | None:
    """Return the record of the search in *folder*; None if there is none; BenchError if it cannot be read."""
    file = folder / SEARCH_RECORD_FILE
    if not file.is_file():
        return None
    hint = "Delete it and search again: runs that are finished are not repeated."
    try:
        return SearchRecord.model_validate_json(read_text(file, hint))
    except ValidationError as error:
        raise BenchError(f"{file} cannot be read: {format_validation_error(error)}.", hint) from error


def apply_point(job: FinetuneJob, point: Mapping[str, str]) -> FinetuneJob:
    """Return *job* with the settings of *point*."""
    try:
        return FinetuneJob.model_validate({**job.model_dump(), **point})
    except ValidationError as error:
        raise UsageError(f"`search` tries what cannot be: {format_validation_error(error, '`{}`'.format)}.") from error


class _Search:
    """A search at work: runs trials, and writes the record after each."""

    def __init__(
        self, out: Path, backend: str, steps: ProgressDisplay, record: SearchRecord, run_ahead: RunAhead | None
    ) -> None:
        self._out, self._backend, self._steps, self.record = out, backend, steps, record
        self._run_ahead = run_ahead
        self._studies: dict[str, ArmStudy] = {}

    def rank_settings(
        self, arms: Mapping[str, FinetuneJob], ladders: Mapping[str, Sequence[str]], drawn: int
    ) -> dict[str, list[Candidate]]:
        """Return the candidates of each arm that did not diverge, best first."""
        for job in arms.values():
            if not (job.validation or job.hold_out):
                raise UsageError("A search chooses on validation rows.", "Give `hold_out=0.1`, or `validation=FILE`.")
        spaces = {arm: self._make_space(ladders.get(arm)) for arm in arms}
        for arm, job in arms.items():  # an invalid value fails before anything is run
            for point in _list_corners(spaces[arm]):
                apply_point(job, point)
        for arm, job in arms.items():
            file = self._out / STUDY_FILE if is_first_process() else None
            self._studies[arm] = ArmStudy(file, arm, spaces[arm], job.seed)
        self._note(
            ladders=_as_tuples(ladders),
            studies={arm: study.name for arm, study in self._studies.items()},
            sampler=describe_sampler(next(iter(spaces.values()), {})),
            sampler_seed=next(iter(arms.values())).seed if arms else None,
        )
        return {arm: self._rank(arm, self._plan(arm, job, spaces[arm], drawn)) for arm, job in arms.items()}

    def _plan(self, arm: str, job: FinetuneJob, space: Space, drawn: int) -> list[Candidate]:
        """Return all settings that are tried; without pruning, drawn ones are run meanwhile, so that the next learn."""
        if not has_ranges(space):
            points = [self._studies[arm].propose(number, point) for number, point in enumerate(_list_points(space))]
            return [Candidate(point, apply_point(job, point), number) for number, point in enumerate(points)]
        plan: list[Candidate] = []
        for number in range(drawn):
            point = self._studies[arm].propose(number)
            plan.append(Candidate(point, apply_point(job, point), number))
            if self.record.prune is None:
                self._run_trial(arm, plan[-1], 1.0)
        return plan

    def train_best(self, arm: str, ranked: Sequence[Candidate]) -> None:
        """Run the best candidate in full with every seed, or the next best if it diverges with the first seed."""
        for candidate in ranked:
            trial = self._run_trial(arm, candidate, 1.0)
            if trial.validation_loss is not None:
                break
        else:
            raise _all_diverged(arm)
        if candidate is not ranked[0]:
            self._choose(arm, candidate.point, FALLBACK)
        chosen = [trial.out]
        seeds = range(candidate.job.seed + 1, candidate.job.seed + self.record.seeds)
        others = [candidate._replace(job=candidate.job.model_copy(update={"seed": seed})) for seed in seeds]
        self._run_side_by_side([self._make_job(arm, other, 1.0) for other in others])
        chosen += [self._run_trial(arm, other, 1.0).out for other in others]
        self._note(chosen={**self.record.chosen, arm: tuple(chosen)})

    def finish(self) -> SearchRecord:
        """Return the record with its warnings, after writing it."""
        steps = {arm: self.record.count_steps(arm) for arm in self.record.choice}
        self._note(warnings=_find_warnings(self.record), steps=steps)
        self._write()
        return self.record

    def _make_space(self, ladder: Sequence[str] | None) -> Space:
        return {**self.record.grid, **({RATE: tuple(ladder)} if ladder else {})}

    def _rank(self, arm: str, plan: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates of *plan* that did not diverge, best first: those that came furthest before others."""
        ranked, why = list(plan), "the only settings"
        for rung in plan_rungs(len(plan), self.record.prune is not None):
            ranked, why = self._run_rung(arm, ranked[: rung.size], ranked[rung.size :], rung.share)
        lost = [trial.settings for trial in self.record.trials if trial.arm == arm and trial.validation_loss is None]
        alive = [one.point for one in plan if one.point not in lost]
        neighbour = find_neighbour(ranked[0].point, alive) if self.record.prune else None
        if neighbour:
            rivals = [ranked[0], *(one for one in plan if one.point == neighbour)]
            ranked, why = self._run_rung(arm, rivals, [one for one in ranked if one not in rivals], 1.0)
        self._choose(arm, ranked[0].point, why)
        self._close_study(arm, plan)
        return ranked

    def _close_study(self, arm: str, plan: Sequence[Candidate]) -> None:
        """Note which settings were run in full, which diverged, and which were given up."""
        study, given_up = self._studies[arm], []
        for candidate in plan:
            which = (arm, candidate.point, candidate.job.seed)
            runs = [trial for trial in self.record.trials if (trial.arm, trial.settings, trial.seed) == which]
            whole = next((t for t in runs if t.share == 1 and t.validation_loss is not None), None)
            if whole and whole.validation_loss is not None:
                study.complete(candidate.number, whole.validation_loss)
            elif any(t.validation_loss is None for t in runs):
                study.fail(candidate.number)
            else:
                study.prune(candidate.number)
                given_up.append(candidate.point)
        self._note(pruned={**self.record.pruned, arm: tuple(given_up)})

    def _run_rung(
        self, arm: str, some: Sequence[Candidate], others: Sequence[Candidate], share: float
    ) -> tuple[list[Candidate], str]:
        """Return *some* as they rank after *share* of their length, with *others* behind them, and why the first is.

        Those that diverged are left out.
        """
        self._run_side_by_side([self._make_job(arm, one, share) for one in some])
        tried = [(self._run_trial(arm, one, share), one) for one in some]
        finite = [pair for pair in tried if pair[0].validation_loss is not None]
        finite.sort(key=lambda pair: _read_trial_loss(pair[0]))
        ranked = [*(candidate for _, candidate in finite), *others]
        if not ranked:
            raise _all_diverged(arm)
        return ranked, _explain_choice([trial for trial, _ in finite], len(tried)) if finite else FALLBACK

    def _choose(self, arm: str, point: Point, why: str) -> None:
        self._note(choice={**self.record.choice, arm: point}, reasons={**self.record.reasons, arm: why})

    def _run_trial(self, arm: str, candidate: Candidate, share: float) -> Trial:
        """Run *candidate* for *share* of its length and record it; one that is recorded already is returned."""
        point, seed = candidate.point, candidate.job.seed
        job = self._make_job(arm, candidate, share)
        folder = Path(job.out)
        known = next((trial for trial in self.record.trials if trial.out == str(folder)), None)
        if known:
            self._report(candidate, known)
            return known
        was_finished = (folder / TRAINING_FILE).is_file()
        common: dict[str, Any] = {"arm": arm, "settings": point, "seed": seed, "out": str(folder), "share": share}
        try:
            found = finetune(job, self._backend, self._name_runs(_name_point(point), share))
        except DivergedError as error:
            trial = Trial(**common, validation_loss=None, error=error.problem, steps=error.step)
        else:
            trial = Trial(**common, **_read_loss(found), steps=found.steps)
        if share < 1 and is_first_process():
            _remove_weights(folder)
        self._note(trials=(*self.record.trials, trial))
        self._report(candidate, trial)
        if not was_finished:  # a search that only finds what it has keeps its record until the end
            self._write()
        return trial

    def _make_job(self, arm: str, candidate: Candidate, share: float) -> FinetuneJob:
        """Return the job of *candidate* for *share* of its length, with its folder."""
        length = "" if share == 1 else name_share(share).replace("/", "of")
        folder = self._out / arm / _name_point(candidate.point) / length / f"seed{candidate.job.seed}"
        return shorten_job(candidate.job, share).model_copy(update={"out": str(folder)})

    def _run_side_by_side(self, jobs: Sequence[FinetuneJob]) -> None:
        known = {trial.out for trial in self.record.trials}
        waiting = [job for job in jobs if job.out not in known and not (Path(job.out) / TRAINING_FILE).is_file()]
        if self._run_ahead is not None and len(waiting) > 1:
            self._run_ahead(waiting)

    def _report(self, candidate: Candidate, trial: Trial) -> None:
        """Tell the study the loss of a run of the first seed; what is drawn without pruning learns from it."""
        study = self._studies[trial.arm]
        if trial.seed != self.record.sampler_seed or trial.validation_loss is None:
            return
        study.report(candidate.number, trial.steps or 0, trial.validation_loss)
        if trial.share == 1 and self.record.prune is None:
            study.complete(candidate.number, trial.validation_loss)

    def _name_runs(self, name: str, share: float) -> ProgressDisplay:
        """Return the display with the settings and the length of a run behind its title."""
        length = "" if share == 1 else f", {name_share(share)} of the length"
        return lambda title: self._steps(f"{title} ({name}{length})")

    def _note(self, **found: Any) -> None:
        self.record = self.record.model_copy(update=found)

    def _write(self) -> None:
        if is_first_process():
            write_whole(self._out / SEARCH_RECORD_FILE, self.record.model_dump_json(indent=1))


def name_share(share: float) -> str:
    """Return a length for people: 1/8, or 1 for the whole."""
    return str(Fraction(share))


def _name_point(point: Mapping[str, str]) -> str:
    """Return the name of the folder of settings."""
    return ",".join(f"{field}={value}" for field, value in point.items()) or "as-given"


def _as_tuples(values: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(some) for name, some in values.items()}


def _list_points(space: Space) -> list[Point]:
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*space.values())]


def _list_corners(space: Space) -> list[Point]:
    """Return every combination of the values of *space*, of ranges their ends."""
    spans = {field: find_range(field, values) for field, values in space.items()}
    ends = {field: [f"{end:.12g}" for end in span[:2]] if span else list(space[field]) for field, span in spans.items()}
    return _list_points(ends)


def _all_diverged(arm: str) -> BenchError:
    return BenchError(f"Every trial of {arm} diverged.", "Search lower learning rates.")


def _read_loss(found: FinetuneRecord) -> dict[str, Any]:
    """Return the validation loss at the end of a run; None, with the reason, if it is no number."""
    loss = found.validation[-1]["loss"]
    if math.isfinite(loss):
        return {"validation_loss": loss}
    return {"validation_loss": None, "error": f"The validation loss became {loss}."}


def _read_trial_loss(trial: Trial) -> float:
    """Return the validation loss of a trial that did not diverge."""
    assert trial.validation_loss is not None
    return trial.validation_loss


def _remove_weights(folder: Path) -> None:
    """Delete the weights of a short run, and its saved states if it diverged: nothing goes on from them."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    for state in (folder / STATE_FOLDER).glob("checkpoint-*"):
        shutil.rmtree(state)


def _explain_choice(finite: Sequence[Trial], tried: int) -> str:
    """Return why the first of *finite*, the trials of the last rung by their losses, was chosen."""
    length = "in whole runs" if finite[0].share == 1 else f"at {name_share(finite[0].share)} of the length"
    why = f"lowest validation loss of {tried} {length}: {finite[0].validation_loss:.4f}"
    if len(finite) > 1:
        why += f"; next {finite[1].validation_loss:.4f} ({name_settings(finite[1].settings)})"
    return why


def _find_warnings(record: SearchRecord) -> tuple[str, ...]:
    """Return what makes the choice doubtful: an end of the ladder, lengths that are too short, too long or unequal."""
    warnings: list[str] = []
    ended = [trial for trial in record.trials if trial.validation_loss is not None]
    for arm, chosen in record.choice.items():
        tried = [trial for trial in record.trials if trial.arm == arm]
        warnings += warn_end_of_ladder(arm, chosen, [trial.settings for trial in tried])
        best = _list_best([trial for trial in ended if trial.arm == arm])
        warnings += warn_falling_rate(arm, best, [trial.settings for trial in tried])
        warnings += _warn_long_run(arm, [trial for trial in ended if trial.arm == arm and trial.settings == chosen])
    short = min((trial.steps for trial in ended if trial.steps and trial.share < 1), default=FEW_STEPS)
    if short < FEW_STEPS:
        warnings.append(
            f"The shortest runs had {short} steps, too few to tell settings apart. Give more rows, more `epochs` or "
            "`max_steps`, or a smaller batch; or search without pruning."
        )
    if _differ_in_length(ended):
        warnings.append("Runs of the same settings and share have other steps in one arm than in another.")
    return tuple(warnings)


def _list_best(ended: Sequence[Trial]) -> list[Point]:
    """Return the best settings of each length of run, shortest first."""
    shares = sorted({trial.share for trial in ended})
    return [min((t for t in ended if t.share == share), key=_read_trial_loss).settings for share in shares]


def _warn_long_run(arm: str, ended: Sequence[Trial]) -> tuple[str, ...]:
    """Return a warning if the whole run of *arm* with its chosen settings ended above a shorter one of that seed."""
    whole = next((trial for trial in ended if trial.share == 1), None)
    shorter = [trial for trial in ended if trial.share < 1 and whole and trial.seed == whole.seed]
    best = min(shorter, key=_read_trial_loss, default=None)
    if whole is None or best is None or _read_trial_loss(best) >= _read_trial_loss(whole):
        return ()
    return (
        f"The whole run of {arm} ended at a validation loss of {whole.validation_loss:.4f}, above "
        f"{best.validation_loss:.4f} after {name_share(best.share)} of its length: it overfits. Give fewer "
        "`epochs` or more rows.",
    )


def _differ_in_length(ended: Sequence[Trial]) -> bool:
    """Return whether arms took different steps for the same settings, learning rates apart, and the same share."""
    lengths: dict[Any, set[int | None]] = {}
    for trial in ended:
        settings = {name: value for name, value in trial.settings.items() if name != RATE}
        lengths.setdefault((trial.share, *sorted(settings.items())), set()).add(trial.steps)
    return any(len(steps) > 1 for steps in lengths.values())
