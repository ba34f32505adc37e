"""Convert the joules of rounds into joules per example and per token, gross and net of the machine's idle power."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_bench.measurement.readings import Round
from bitnet_bench.runs.records import Measured, Measurement, Modelled, Unavailable


def make_energy_metrics(rounds: Sequence[Round], batch: int, idle: Measured | Unavailable) -> dict[str, Measurement]:
    """Return energy_j and energy_net_j per example, the same _per_token, and idle_power_w.

    A round without a number leaves the whole without one. Modelled joules stay modelled, and have no net: their formula
    decides what is idle.
    """
    readings = [r.energy for r in rounds]
    measured = [r for r in readings if isinstance(r, Measured)]
    modelled = [r for r in readings if isinstance(r, Modelled)]
    new_tokens = rounds[0].new_tokens
    if len(measured) == len(rounds):
        gross = _make_gross(measured, rounds, batch)
        net = _make_net(gross, idle, [r.metered_s / r.repetitions / batch for r in rounds])
        found: dict[str, Measurement] = {"energy_j": gross, "energy_net_j": net}
        found |= {"energy_j_per_token": _make_per_token(gross, new_tokens)}
        found |= {"energy_net_j_per_token": net if isinstance(net, Unavailable) else _make_per_token(net, new_tokens)}
        return found | {"idle_power_w": idle}
    if len(modelled) == len(rounds):
        return make_modelled_metrics(_mean_modelled(modelled, rounds, batch), new_tokens)
    reason = next((r for r in readings if isinstance(r, Unavailable)), None)
    return {"energy_j": reason or Unavailable(reason="some rounds were measured and others modelled")}


def make_modelled_metrics(example: Modelled, new_tokens: int) -> dict[str, Measurement]:
    """Return energy_j per *example* and per new token, both modelled."""
    token = Modelled(unit="J/token", model=f"{example.model}; over new tokens", value=example.value / new_tokens)
    return {"energy_j": example, "energy_j_per_token": token}


def _make_gross(readings: Sequence[Measured], rounds: Sequence[Round], batch: int) -> Measured:
    joules = [m.readings[0] / r.repetitions / batch for m, r in zip(readings, rounds, strict=True)]
    return Measured(unit="J", method=f"{readings[0].method}, an example, idle power included", readings=tuple(joules))


def _make_net(gross: Measured, idle: Measured | Unavailable, seconds: Sequence[float]) -> Measured | Unavailable:
    if isinstance(idle, Unavailable):
        return idle
    joules = [j - idle.median * s for j, s in zip(gross.readings, seconds, strict=True)]
    if min(joules) <= 0:
        return Unavailable(reason="the machine drew no more than it had drawn idle: other work ran before or meanwhile")
    method = f"{gross.method.removesuffix(', idle power included')}, less {idle.median:.1f} W of idle power"
    return Measured(unit="J", method=method, readings=tuple(joules))


def _make_per_token(example: Measured, new_tokens: int) -> Measured:
    method = f"{example.method}, over its new tokens"
    return Measured(unit="J/token", method=method, readings=tuple(j / new_tokens for j in example.readings))


def _mean_modelled(readings: Sequence[Modelled], rounds: Sequence[Round], batch: int) -> Modelled:
    total = sum(m.value for m in readings) / sum(r.repetitions for r in rounds) / batch
    return Modelled(unit="J", model=readings[0].model, value=total)
