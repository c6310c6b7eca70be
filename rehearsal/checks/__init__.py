"""Checks on live objects: what KWOK would let pass and a real cluster would not.

KWOK runs no container: a pod that names a Secret which is not there becomes Ready all the same. Each check here looks
at what was really created, and each can fail (tests/rehearsal/test_checks.py breaks every one of them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from planner.plan import Plan
from rehearsal.checks import groups, outcomes, pods, selectors
from rehearsal.findings import Finding
from rehearsal.snapshot import Snapshot

Check = Callable[[Snapshot, Plan], Iterator[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    pods.names_that_exist,
    pods.planned_secrets_exist,
    pods.credentials_for_images,
    pods.accounts_and_classes,
    pods.pinned_images,
    pods.probe_ports,
    selectors.services,
    selectors.monitors,
    selectors.disruption_budgets,
    selectors.network_policies,
    selectors.scaled_objects,
    selectors.autoscalers,
    groups.same_devices,
    groups.devices_on_nodes,
    groups.one_rung,
    groups.own_pool,
    outcomes.jobs,
    outcomes.restarted,
)


def check(snapshot: Snapshot, plan: Plan) -> list[Finding]:
    """Everything that is wrong, each once."""
    return list(dict.fromkeys(finding for one in CHECKS for finding in one(snapshot, plan)))
