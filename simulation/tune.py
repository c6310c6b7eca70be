"""Searches scaling settings that meet the objectives at least cost, by Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna

from planner import Plan, PlanError
from planner.plan import ModelPlan
from settings.root import Settings
from simulation.policy import Floor, ModelPolicy, Policy, applied
from simulation.replay import Conditions, Served, replay
from simulation.results import Replayed
from simulation.traffic import Traffic
from simulation.variants import AS_PLANNED, busy_hours, serving, warm_nodes, zone_name

_BATCH = 8
"""Trials that are replayed side by side."""
_CHECKS = 2
"""Other days, drawn anew, on which a proposal must hold too."""
_FINALISTS = 4
_LEAST_GAIN = 0.005
"""A saving below this share of the cost is noise."""
_MOST_WARM = 2
_HALF_HOURS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A policy with what it led to, over all days that it was judged on."""

    policy: Policy
    usd: float
    """Mean of the days."""
    excess: float
    """Worst miss of an objective (`ModelResult.excesses`); 0 or less: all are met."""
    days: tuple[Replayed, ...]

    @property
    def meets(self) -> bool:
        """Whether every objective was met on every day."""
        return self.excess <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The answer of a search."""

    current: Judged
    proposal: Judged | None
    """None: nothing better than the current settings was found."""
    nearest: Judged | None
    """Where nothing met the objectives: what came nearest."""
    trials: int
    feasible: int
    failed: int
    """Proposals that the planner refused."""

    @property
    def saved_share(self) -> float:
        """Of the current cost; negative where meeting the objectives costs more."""
        return 0.0 if self.proposal is None else 1 - self.proposal.usd / self.current.usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, and how."""

    settings: Settings
    plan: Plan
    served: Mapping[str, Served]
    traffic_of: Callable[[int], Traffic]
    """The traffic of a seed; a trace is the same for all."""
    conditions: Conditions
    refused_share: float
    """Of the requests of a model that may be refused."""
    trials: int = 64


def tune(search: Search, progress: Callable[[int, Judged], None] | None = None) -> Tuned:
    """Find cheaper settings that meet the objectives; the same answer for the same seed.

    `progress` hears of the number of trials that are done and the best so far.
    """
    seed = search.conditions.seed
    traffic = search.traffic_of(seed)
    models = serving(search.plan, {asked.model for asked in traffic.models})
    with warnings.catch_warnings():
        # `multivariate` and `constant_liar` are experimental by name; the version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(8, search.trials // 4), multivariate=True, constant_liar=True
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for start in _starting_points(search, models, traffic):
        study.enqueue_trial(start)
    current = _judge(search, [(Policy(), search.plan)], [traffic])[0]
    seen: list[Judged] = [current]
    failed = done = 0
    while done < search.trials:
        asked = [study.ask() for _ in range(min(_BATCH, search.trials - done))]
        ready: list[tuple[optuna.Trial, Policy, Plan]] = []
        for trial in asked:
            policy = _policy(trial, search, models, traffic)
            try:
                ready.append((trial, policy, applied(search.settings, search.plan, policy)))
            except PlanError:
                failed += 1
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        for (trial, _, _), judged in zip(
            ready, _judge(search, [(policy, plan) for _, policy, plan in ready], [traffic]), strict=True
        ):
            for model in judged.days[0].models:
                for name, excess in model.excesses(search.refused_share).items():
                    trial.set_constraint(f"{model.model}.{name}", excess)
            study.tell(trial, judged.usd)
            seen.append(judged)
        done += len(asked)
        if progress is not None:
            progress(done, _best(seen))
    return _decide(search, current, seen, trials=done, failed=failed)


def _decide(search: Search, current: Judged, seen: Sequence[Judged], *, trials: int, failed: int) -> Tuned:
    """The cheapest that holds on other days too, where it beats the current settings there."""
    feasible = sorted((judged for judged in seen[1:] if judged.meets), key=lambda judged: judged.usd)
    finalists = feasible[:_FINALISTS]
    seed = search.conditions.seed
    days = [search.traffic_of(seed + number) for number in range(_CHECKS + 1)]
    plans = [(j.policy, applied(search.settings, search.plan, j.policy)) for j in finalists]
    checked = _judge(search, [(Policy(), search.plan), *plans], days)
    now, rest = checked[0], checked[1:]
    better = [judged for judged in rest if judged.meets and (not now.meets or judged.usd < now.usd * (1 - _LEAST_GAIN))]
    proposal = min(better, key=lambda judged: judged.usd, default=None)
    nearest = min(seen, key=lambda judged: judged.excess) if proposal is None and not now.meets else None
    return Tuned(
        current=now,
        proposal=proposal,
        nearest=nearest if nearest is not current else None,
        trials=trials,
        feasible=len(feasible),
        failed=failed,
    )


def _judge(search: Search, plans: Sequence[tuple[Policy, Plan]], days: Sequence[Traffic]) -> list[Judged]:
    if not plans:
        return []
    results: list[list[Replayed]] = []
    for number, traffic in enumerate(days):
        conditions = replace(search.conditions, seed=search.conditions.seed + number, series=False)
        results.append(replay([(AS_PLANNED, plan) for _, plan in plans], traffic, search.served, conditions))
    return [
        Judged(
            policy=policy,
            usd=sum(day[index].usd for day in results) / len(results),
            excess=max(model.excess(search.refused_share) for day in results for model in day[index].models),
            days=tuple(day[index] for day in results),
        )
        for index, (policy, _) in enumerate(plans)
    ]


def _best(seen: Sequence[Judged]) -> Judged:
    """The cheapest that meets the objectives, else what comes nearest."""
    return min(seen, key=lambda judged: (max(0.0, judged.excess), judged.usd))


def _policy(trial: optuna.Trial, search: Search, models: Sequence[ModelPlan], traffic: Traffic) -> Policy:
    """One proposal."""
    policies = {model.name: _model_policy(trial, search, model, traffic) for model in models}
    rungs: dict[tuple[str, int], int] = {}
    for pool in search.plan.pools:
        if not any(model.pool == pool.name for model in models):
            continue
        if not any(rung.kind in {"spot", "on_demand"} for rung in pool.rungs):
            continue
        groups = trial.suggest_int(f"{pool.name}.warm", 0, _MOST_WARM)
        own = [replace(m, scaling=replace(m.scaling, min_replicas=policies[m.name].min_replicas)) for m in models]
        rungs |= {
            (pool.name, position): 0
            for position, rung in enumerate(pool.rungs)
            if rung.kind in {"spot", "on_demand"} and rung.min_nodes
        }
        rungs |= warm_nodes(replace(pool, rungs=tuple(replace(r, min_nodes=0) for r in pool.rungs)), own, groups=groups)
    return Policy(models=policies, rungs=rungs)


def _model_policy(trial: optuna.Trial, search: Search, model: ModelPlan, traffic: Traffic) -> ModelPolicy:
    most = model.scaling.max_replicas
    name = model.name
    least = trial.suggest_int(f"{name}.min", _fewest(model), most)
    if not model.scaling.varies:
        # With one number of replicas there is nothing else to set.
        return ModelPolicy(min_replicas=least)
    if model.disaggregation is not None:
        # What is one number for a model cannot be for its groups (planner/disaggregation.py).
        return ModelPolicy(min_replicas=max(1, least))
    limit = search.served[name].table.limit
    target = trial.suggest_int(f"{name}.target", 1, max(2, limit), log=True)
    if model.scaling.owner == "ray_serve":
        return ModelPolicy(min_replicas=least, target_concurrency=target)
    step = trial.suggest_int(f"{name}.step", 1, max(1, most - 1))
    replicas = trial.suggest_int(f"{name}.floor", 0, most)
    begin = trial.suggest_int(f"{name}.begin", 0, _HALF_HOURS - 1)
    length = trial.suggest_int(f"{name}.length", 1, _HALF_HOURS - 1)
    floors = ()
    if replicas > least:
        floors = (_floor(model, begin, length, replicas, traffic),)
    return ModelPolicy(min_replicas=least, target_concurrency=target, scale_up_replicas=step, floors=floors)


def _fewest(model: ModelPlan) -> int:
    """Replicas that the search keeps: who has two or more wants to outlive one, which no objective says."""
    return min(2, model.scaling.min_replicas)


def _floor(model: ModelPlan, begin: int, length: int, replicas: int, traffic: Traffic) -> Floor:
    """In the zone and on the weekdays of the model's present floors, where it has any."""
    present = model.scaling.floors[0] if model.scaling.floors else None
    end = (begin + length) % _HALF_HOURS
    days = present.start.split()[4] if present else "*"
    return Floor(
        timezone=present.timezone if present else zone_name(traffic.start),
        start=f"{begin % 2 * 30} {begin // 2} * * {days}",
        end=f"{end % 2 * 30} {end // 2} * * {days if end > begin else '*'}",
        replicas=replicas,
    )


def _starting_points(search: Search, models: Sequence[ModelPlan], traffic: Traffic) -> list[dict[str, Any]]:
    """What is known to be worth a look: the current settings and those of the fewest replicas, each without a floor
    and with one over the busy hours."""
    asked = {model.model: model for model in traffic.models}
    now: dict[str, Any] = {}
    scheduled: dict[str, Any] = {}
    for model in models:
        scaling, name = model.scaling, model.name
        now[f"{name}.min"] = scaling.min_replicas
        if model.disaggregation is not None:
            continue
        limit = search.served[name].table.limit
        now |= {
            f"{name}.target": min(max(2, limit), scaling.target_concurrency),
            f"{name}.step": min(max(1, scaling.max_replicas - 1), scaling.scale_up_pods),
            f"{name}.floor": 0,
            f"{name}.begin": 0,
            f"{name}.length": 1,
        }
        floor = busy_hours(model, asked[name], search.served[name], traffic.start)
        if floor is not None:
            minute, hour = (int(part) for part in floor.start.split()[:2])
            end = int(floor.end.split()[1])
            begin = hour * 2 + minute // 30
            scheduled |= {
                f"{name}.floor": floor.replicas,
                f"{name}.begin": begin,
                f"{name}.length": max(1, (end * 2 - begin) % _HALF_HOURS),
            }
    now |= {f"{pool.name}.warm": 0 for pool in search.plan.pools}
    lean = {**now, **{f"{model.name}.min": _fewest(model) for model in models}}
    return [now, lean, {**now, **scheduled}, {**lean, **scheduled}]
