"""Every rule, by subject. A new rule is a function in one of the modules and a line in its `RULES`."""

from __future__ import annotations

from policy.records import Rule
from policy.rules import charts, iam, karpenter, models, network, nodes, pods, storage

RULES: tuple[Rule, ...] = (
    *nodes.RULES,
    *karpenter.RULES,
    *network.RULES,
    *storage.RULES,
    *iam.RULES,
    *pods.RULES,
    *models.RULES,
    *charts.RULES,
)
