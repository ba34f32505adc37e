"""Define what a user says of a cluster: options of the command line, and the keys `ray` and `slurm` of a recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from bitnet_bench.runs.settings import Option, Settings

DEFAULT_TIME = "4:00:00"
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
TIME_HINT = "minutes, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
AnySettings = TypeVar("AnySettings", bound=Settings)


class RaySettings(Settings):
    """Where steps run on Ray."""

    address: Annotated[str | None, Option("Ray", name="ray-address")] = None
    """Address of the Ray cluster, HOST:PORT; `local` starts one of this machine [default: the one that runs here]."""
    artefacts: Annotated[str | None, Option("Ray", name="artefacts", metavar="URL")] = None
    """fsspec URL, such as s3://BUCKET/NAME, for what steps read and write, if the nodes share no folder."""
    node_folder: str | None = None
    """Folder on each node for its copies, if there is a URL [default: one in the cache of the user]."""
    retries: int = Field(default=3, ge=0)
    """Times that a step is started again because its node or its worker was lost."""


class SlurmSettings(Settings):
    """What is asked of SLURM, as the options of `sbatch` say it."""

    partition: Annotated[str | None, Option("SLURM", name="slurm-partition")] = None
    """Partition of the jobs [default: the cluster's]."""
    account: Annotated[str | None, Option("SLURM", name="slurm-account")] = None
    """Account that the jobs are charged to [default: the user's]."""
    qos: Annotated[str | None, Option("SLURM", name="slurm-qos")] = None
    """Quality of service of the jobs."""
    time: Annotated[str | None, Option("SLURM", name="slurm-time")] = None
    """Limit of a job, which saves and is queued again when it is up: minutes, HH:MM:SS or D-HH:MM:SS [default: 4
    hours]."""
    gres: Annotated[str | None, Option("SLURM", name="slurm-gres")] = None
    """Kind of GPU, such as gpu:a100; steps that run a model then get one, and their number is added."""
    detach: Annotated[bool, Option("SLURM", name="detach")] = False
    """Queue all steps at once, each to start after those that it waits for, and end; the same command without it shows
    what has become of them."""
    constraint: str | None = None
    """Features that the nodes must have."""
    signal_s: int = Field(default=120, ge=1)
    """Seconds before the limit at which a step is asked to save."""
    requeues: int = Field(default=100, ge=0)
    """Times that a job is queued again because its time was up."""
    setup: tuple[str, ...] = ()
    """Lines of shell before each job, such as `module load cuda`."""
    cluster: Literal["slurm", "local"] = "slurm"
    """`local` starts the jobs as processes of this machine, to try a sweep out."""

    @field_validator("time", mode="before")
    @classmethod
    def _write_time(cls, time: Any) -> Any:
        return str(time) if isinstance(time, int) and not isinstance(time, bool) else time

    @field_validator("setup", mode="before")
    @classmethod
    def _list_lines(cls, setup: Any) -> Any:
        return (setup,) if isinstance(setup, str) else setup

    @model_validator(mode="after")
    def _check_times(self) -> SlurmSettings:
        if self.signal_s >= 60 * self.minutes:
            raise ValueError(
                f"`signal_s={self.signal_s}` is as long as a job: give it more `time`, or a shorter `signal_s`"
            )
        return self

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up."""
        return parse_minutes(self.time or DEFAULT_TIME)


def parse_minutes(text: str) -> int:
    """Return the minutes that a time limit of SLURM says, rounded up; ValueError if it says none."""
    found = TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"`time` must be {TIME_HINT}, not {text!r}")
    parts = [int(part) for part in found["clock"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return 1440 * int(found["days"]) + 60 * hours + minutes + math.ceil(seconds / 60)
    if len(parts) == 3:
        return 60 * parts[0] + parts[1] + math.ceil(parts[2] / 60)
    return parts[0] + (1 if len(parts) == 2 and parts[1] else 0)


def choose_settings(kind: type[AnySettings], said: Settings | None, given: Mapping[str, Any]) -> AnySettings:
    """Return the settings of a recipe, *said*, with those that the command line has *given* in their place."""
    values = said.model_dump(exclude_unset=True) if said is not None else {}
    return kind(**(values | {name: value for name, value in given.items() if value not in (None, False)}))
