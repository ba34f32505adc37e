"""Run each mutant in a fork of a pytest session that has collected once, against the tests that call its function.

A pytest plugin. First every test runs once unchanged, in a fork too: what it calls and how long it takes is noted, and
one that fails is left out, since its failure would prove nothing. MUTANTS names a JSON file with `names` (the sample),
`mutants` (all of them), `budget_s`, and `results` (a file written as it goes).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mutation_trampoline as trampoline
import pytest
from _pytest.runner import runtestprotocol


class Mutants:
    """The plugin's state: what calls what, and how long it takes."""

    def __init__(self) -> None:
        asked = json.loads(Path(os.environ["MUTANTS"]).read_text(encoding="utf-8"))
        self.mutants, self.names = asked["mutants"], asked["names"]
        self.budget_s, self.results = asked["budget_s"], Path(asked["results"])
        self.calls: dict[str, set[str]] = {}
        self.of_fixture: dict[Any, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.called_file = Path(f"{self.results}.called")
        os.environ["CALLED"] = str(self.called_file)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Note what a fixture that several tests share calls."""
        if fixturedef.scope == "function":
            return (yield)
        before, trampoline.called = trampoline.called, set()
        try:
            return (yield)
        finally:
            self.of_fixture[fixturedef] |= self._take_called()
            trampoline.called = before

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failure: in a fork it ends the mutant."""
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Learn, and try every mutant of the sample."""
        items = list(session.items)
        start_fork_server(session.config)
        learned = self.results.with_suffix(".learned")
        self._fork(lambda done: self._learn(items, learned, done), lambda _: 600)
        found = json.loads(learned.read_text(encoding="utf-8"))
        self.calls = {test: set(called) for test, called in found["calls"].items()}
        self.seconds, left_out = found["seconds"], found["failed"]
        sound = [item for item in items if item.nodeid not in left_out]
        said = f"{len(items)} tests, {sum(self.seconds.values()):.0f} s; left out, as they fail here: {left_out}"
        print(f"\n{said}", file=sys.__stderr__)
        for name in self.names:
            self._write(self._try(name, sound))
        return True

    def _learn(self, items: Sequence[Any], file: Path, done: Callable[[], None]) -> None:
        calls: dict[str, set[str]] = {}
        for item, following in zip(items, [*items[1:], None], strict=True):
            trampoline.called.clear()
            start = time.monotonic()
            runtestprotocol(item, nextitem=following)
            self.seconds[item.nodeid] = time.monotonic() - start
            calls[item.nodeid] = self._take_called()
            done()
        for item in items:
            for several in item._fixtureinfo.name2fixturedefs.values():
                for one in several:
                    calls[item.nodeid] |= self.of_fixture.get(one, set())
        listed = {test: sorted(called) for test, called in calls.items()}
        found = {"calls": listed, "seconds": self.seconds, "failed": sorted(self.failed)}
        file.write_text(json.dumps(found), encoding="utf-8")

    def _take_called(self) -> set[str]:
        found = set(trampoline.called)
        trampoline.called.clear()
        if self.called_file.exists():
            found |= set(self.called_file.read_text(encoding="utf-8").split())
            self.called_file.unlink()
        return found

    def _try(self, name: str, items: Sequence[Any]) -> dict[str, Any]:
        function = self.mutants[name]["function"]
        reaching = sorted((i for i in items if function in self.calls[i.nodeid]), key=lambda i: self.seconds[i.nodeid])
        chosen, seconds = [], 0.0
        for item in reaching:
            seconds += self.seconds[item.nodeid]
            if chosen and seconds > self.budget_s:
                break
            chosen.append(item)
        if not chosen:
            return {"name": name, "outcome": "not reached", "tests": 0, "seconds": 0.0}
        start = time.monotonic()
        code, done = self._fork(
            lambda done: self._run_with(name, chosen, done),
            lambda i: 20 + 10 * self.seconds[chosen[min(i, len(chosen) - 1)].nodeid],
        )
        outcome = {0: "survived", None: "timeout"}.get(code, "killed")
        killer = chosen[min(done, len(chosen) - 1)].nodeid if outcome != "survived" else None
        seconds = time.monotonic() - start
        return {
            "name": name,
            "outcome": outcome,
            "killer": killer,
            "tests": len(chosen),
            "of": len(reaching),
            "seconds": seconds,
        }

    def _run_with(self, name: str, items: Sequence[Any], done: Callable[[], None]) -> None:
        os.environ["MUTANT"] = name
        for item, following in zip(items, [*items[1:], None], strict=True):
            runtestprotocol(item, nextitem=following)
            if self.failed:
                os._exit(1)
            done()

    def _fork(
        self, run: Callable[[Callable[[], None]], None], limit_s: Callable[[int], float]
    ) -> tuple[int | None, int]:
        """Return the exit code of a fork, None if its i-th test took over *limit_s*(i), and how many tests ended."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setpgid(0, 0)
            with contextlib.suppress(BaseException):
                run(lambda: os.write(writing, b"."))  # type: ignore[arg-type,return-value]
                os._exit(0)
            os._exit(1)
        os.close(writing)
        done, code = 0, None
        while True:
            ready, _, _ = select.select([reading], [], [], limit_s(done))
            told = os.read(reading, 4096) if ready else b""
            if not told:
                break
            done += len(told)
        ended, status = os.waitpid(child, 0 if ready else os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the child has started ends with it
        if not ended:
            os.waitpid(child, 0)
        os.close(reading)
        return code, done

    def _write(self, line: dict[str, Any]) -> None:
        with self.results.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def start_fork_server(config: Any) -> None:
    """Start the fork server of `conftest.py` once: a fork cannot wait for it, but can ask it for processes."""
    preload = next((one.PRELOAD for one in config.pluginmanager.get_plugins() if hasattr(one, "PRELOAD")), None)
    if preload is None:
        return
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(preload)
    forkserver.ensure_running()
    forkserver._forkserver.ensure_running = lambda: None


def pytest_configure(config: Any) -> None:
    """Begin."""
    gc.freeze()
    config.pluginmanager.register(Mutants(), "mutants")
