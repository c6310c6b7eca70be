"""The temporary copy of a stack file that a rehearsal runs: stand-in secrets, a chart mirror, a local control plane."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from planner.plan import Plan
from rehearsal.injections import planned_secrets
from rehearsal.operators import STAND_IN_VALUE
from settings.errors import PLATFORM_KEY
from settings.secrets import PulumiSecret

# What ties a stack file to its secrets provider; the copy holds no secret.
_PROVIDER_KEYS: Final = ("encryptionsalt", "encryptedkey", "secretsprovider")


def copy_stack_file(source: Path, target: Path, plan: Plan, *, mirror: Path, kubeconfig: Path) -> Path:
    """Write the copy; the user's file is only read.

    Args:
        source: the user's stack file, already found to be valid.
        target: the copy.
        plan: of the user's file.
        mirror: folder of charts.
        kubeconfig: of the control plane, for a target that exists.
    """
    document: Any = yaml.safe_load(source.read_text(encoding="utf-8"))
    for key in _PROVIDER_KEYS:
        document.pop(key, None)
    config = {name: _without_secret(value) for name, value in document["config"].items()}
    for secret in planned_secrets(plan):
        if isinstance(secret.source, PulumiSecret):
            config[f"{plan.project}:{secret.source.name}"] = STAND_IN_VALUE
    platform = config[PLATFORM_KEY]
    platform["charts"] = {**platform.get("charts", {}), "mirror": str(mirror)}
    if plan.target.kind == "existing_cluster":
        platform["target"] = {**platform["target"], "kubeconfig": str(kubeconfig)}
        platform["target"].pop("context", None)
    target.write_text(yaml.safe_dump({**document, "config": config}, sort_keys=False), encoding="utf-8")
    return target


def _without_secret(value: Any) -> Any:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        if "secure" in mapping:
            return STAND_IN_VALUE
        # What stands in for Secrets Manager answers with plain text, which has no keys.
        left_out = {"key"} if mapping.get("kind") == "secrets_manager" else set[str]()
        return {name: _without_secret(one) for name, one in mapping.items() if name not in left_out}
    return [_without_secret(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value


def own_charts(plan: Plan, project: Path) -> Path | None:
    """The stack file's own mirror of charts, where it is a directory; the copy names the rehearsal's instead."""
    named = {chart.directory for chart in plan.charts.values() if chart.directory}
    return next((path for name in named if (path := project / name).is_dir()), None)
