"""The committed stacks' resources as rules see them, and small resources to break rules with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import program
from policy.judge import Violation, from_records, judge
from policy.records import Resource
from tests.factories import STACKS, example_plan, stack_plan
from tests.harness import UNKNOWN, deploy


@cache
def stack_resources(stack: str, *, preview: bool = False) -> tuple[Resource, ...]:
    """Every resource of a committed stack file, or of an example's."""
    plan = stack_plan(stack) if stack in STACKS else example_plan(stack)
    world = deploy(lambda: program.build(plan), stack=stack, preview=preview)
    return tuple(from_records(world, unknown=UNKNOWN))


def resource(type_token: str, name: str = "x", *, after: tuple[str, ...] = (), **props: Any) -> Resource:
    """A resource with these properties."""
    urn = f"urn:pulumi:t::t::{type_token}::{name}"
    return Resource(type=type_token, name=name, urn=urn, props=props, depends_on=frozenset(after))


def k8s(kind: str, name: str = "x", *, metadata: dict[str, Any] | None = None, **props: Any) -> Resource:
    """A Kubernetes object."""
    return resource(
        f"kubernetes:test/v1:{kind}", name, kind=kind, metadata={"namespace": "inference", **(metadata or {})}, **props
    )


def broken(rule: str, *resources: Resource) -> list[str]:
    """What a rule says of these resources."""
    return [violation.message for violation in judge(resources) if violation.rule == rule]


def changed(
    stack: str, picks: Callable[[Resource], bool], change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> list[Violation]:
    """Violations of a committed stack after `change` was made to the resources that `picks` picks.

    `change` returns the new properties; None takes the resource away. Fails where nothing was picked.
    """
    kept: list[Resource] = []
    picked = 0
    for item in stack_resources(stack):
        if not picks(item):
            kept.append(item)
            continue
        picked += 1
        props = change(dict(item.props))
        if props is not None:
            kept.append(replace(item, props=props))
    assert picked, "no resource was picked"
    return judge(kept)
