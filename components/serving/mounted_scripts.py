"""Scripts of this project that pods run in their engine's image: one ConfigMap for all models of a namespace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from planner.naming import PART_OF_LABEL, PROJECT
from planner.plan import ModelPlan

SCRIPTS_FOLDER = Path(__file__).parents[1] / "scripts"
"""Below it, scripts run on nothing but the standard library and each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """A package that some models' pods mount."""

    name: str
    """Of the ConfigMap, and of the volume."""
    files: tuple[Path, ...]
    runs_for: Callable[[ModelPlan], bool]
    """Whether a model's pods run it."""

    def data(self) -> dict[str, str]:
        """The files by name."""
        return {path.name: path.read_text(encoding="utf-8") for path in self.files}

    def volume(self) -> dict[str, Any]:
        """The package where its imports look for it, so that it runs as it is tested."""
        root = SCRIPTS_FOLDER.parents[1]
        items = [{"key": path.name, "path": path.relative_to(root).as_posix()} for path in self.files]
        return {"name": self.name, "configMap": {"name": self.name, "items": items}}


class MountedScripts(pulumi.ComponentResource):
    """The ConfigMap of a package. Produces `config_map`."""

    config_map: k8s.core.v1.ConfigMap

    def __init__(
        self,
        scripts: Scripts,
        namespace: str,
        after: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("inference:index:MountedScripts", scripts.name, None, opts)
        self.config_map = k8s.core.v1.ConfigMap(
            f"{scripts.name}-script",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=scripts.name,
                namespace=namespace,
                labels={PART_OF_LABEL: PROJECT, "app.kubernetes.io/managed-by": "pulumi"},
            ),
            data=scripts.data(),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        self.register_outputs({})
