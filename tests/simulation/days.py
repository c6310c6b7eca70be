"""Days for tests: models of the committed stacks under loads that a test names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from planner import Plan, load_and_plan
from planner.performance import TokenLengths
from settings.root import Settings
from simulation.replay import Conditions, replay
from simulation.results import Replayed
from simulation.served import Served, served_of
from simulation.subjects import Subject, subjects_of
from simulation.traffic import ModelTraffic, Traffic
from tests.stacks import stack_path

MIDNIGHT = datetime(2026, 6, 17, tzinfo=UTC)
"""A Wednesday."""

PROMPTS = TokenLengths(mean=1000, p99=4000)
ANSWERS = TokenLengths(mean=250, p99=900)


@cache
def stack(name: str) -> tuple[Settings, Plan, Mapping[str, Subject]]:
    """A committed stack with what a replay needs of it."""
    settings, plan = load_and_plan(stack_path(name))
    return settings, plan, subjects_of(settings, plan)


@cache
def served(name: str, model: str) -> Served:
    """One model's replica under the tests' lengths."""
    asked = ModelTraffic(model=model, counts=np.zeros(0, dtype=np.int64), input=PROMPTS, output=ANSWERS)
    return served_of(stack(name)[2][model], asked)


def traffic(model: str, rates: Sequence[float] | Any, *, seed: int = 0, start: datetime = MIDNIGHT) -> Traffic:
    """Requests at random around these rates, one for each second."""
    counts = np.random.default_rng(seed).poisson(np.asarray(rates, dtype=float)).astype(np.int64)
    asked = ModelTraffic(model=model, counts=counts, input=PROMPTS, output=ANSWERS)
    return Traffic(start=start, seconds=len(counts), models=(asked,), origin="test")


def day(name: str, asked: Traffic, *plans: Plan, conditions: Conditions | None = None) -> list[Replayed]:
    """Replays on these plans of one stack, or on the stack's own."""
    chosen = plans or (stack(name)[1],)
    subjects = {model.model: served(name, model.model) for model in asked.models}
    return replay([(str(i), plan) for i, plan in enumerate(chosen)], asked, subjects, conditions or Conditions())


def scaled(plan: Plan, model: str, **changes: Any) -> Plan:
    """The plan with other scaling of one model."""
    return replace(
        plan,
        models=tuple(replace(m, scaling=replace(m.scaling, **changes)) if m.name == model else m for m in plan.models),
    )


def no_other_trigger(plan: Plan, model: str, name: str) -> Plan:
    """The plan with one trigger of one model left, and no floors."""
    triggers = next(m.scaling.triggers for m in plan.models if m.name == model)
    return scaled(plan, model, triggers=tuple(t for t in triggers if t.name == name), floors=())


def fixed(plan: Plan, model: str, replicas: int) -> Plan:
    """The plan with this many replicas of one model and nobody who scales."""
    return scaled(plan, model, owner="none", min_replicas=replicas, max_replicas=replicas, floors=())
