"""What of a rehearsal is real, what is stood in, and what is left out; the source of rehearsal/FIDELITY.md.

`python -m rehearsal.fidelity` writes the page, `--check` tells whether it is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from catalog.tools.generated import write_or_check
from rehearsal.autoscaler import FAILURE_SECONDS, UNNEEDED_SECONDS
from rehearsal.controlplane.components import HPA_SYNC_SECONDS, HPA_SYNC_SECONDS_IN_PRODUCTION
from rehearsal.kubelet import RAY_START_SECONDS

PAGE: Final = Path(__file__).parent / "FIDELITY.md"

Level = Literal["real", "stood in", "skipped"]
Fact = Literal[
    "pulumi",
    "in-process",
    "keda",
    "no keda",
    "real charts",
    "stand-in charts",
    "upstream CRDs",
    "permissive CRDs",
    "aws",
    "karpenter",
    "scenarios",
]
"""What differs from one rehearsal to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the platform and how near the rehearsal comes."""

    name: str
    level: Level
    how: str
    only: Fact | None = None
    """Where this holds only in some rehearsals."""


PARTS: Final[tuple[Part, ...]] = (
    Part(name="Program", level="real", how="the same code, unmodified, from a copy of the stack file"),
    Part(
        name="Pulumi engine",
        level="real",
        how="the `pulumi` CLI with a file backend; all its providers but AWS are the real ones",
        only="pulumi",
    ),
    Part(
        name="Pulumi engine",
        level="stood in",
        how="a driver in this process: dependency order, diff, replacement and destroy are its own",
        only="in-process",
    ),
    Part(name="API server, etcd", level="real", how="upstream binaries; objects are validated strictly"),
    Part(name="Scheduler", level="real", how="upstream, with a second profile named `volcano`; short back-off"),
    Part(
        name="Controllers",
        level="real",
        how="upstream controller-manager; autoscalers look every "
        f"{HPA_SYNC_SECONDS} s in place of {HPA_SYNC_SECONDS_IN_PRODUCTION} s",
    ),
    Part(name="Webhooks", level="skipped", how="no container runs, so nobody answers them; the plugins are off"),
    Part(name="Helm", level="real", how="charts are installed, awaited and removed by helm"),
    Part(name="Charts", level="real", how="the pinned charts of the folder that was given", only="real charts"),
    Part(
        name="Charts",
        level="stood in",
        how="right name, version and CRDs, one small Deployment; what the values do is not seen",
        only="stand-in charts",
    ),
    Part(name="Custom resources", level="real", how="upstream's CRDs from CRD_DIR", only="upstream CRDs"),
    Part(name="Custom resources", level="stood in", how="CRDs that take any field", only="permissive CRDs"),
    Part(name="AWS", level="stood in", how="every resource answers at once with plausible ids and names", only="aws"),
    Part(name="AWS limits", level="skipped", how="quotas, permissions, prices and real capacity", only="aws"),
    Part(name="EKS add-ons", level="skipped", how="declared, but no pod of theirs runs", only="aws"),
    Part(name="Nodes", level="stood in", how="KWOK nodes shaped like the plan's pools"),
    Part(
        name="Node autoscaling",
        level="stood in",
        how="rungs by priority after their planned boot; a rung without capacity is noticed after "
        f"{FAILURE_SECONDS:.0f} s and left alone as planned; a cordoned node goes when empty for "
        f"{UNNEEDED_SECONDS:.0f} s (all compressed); no other scale-down",
    ),
    Part(
        name="Ladder keeper",
        level="real",
        how="the declared script and orders, as a local process with the token of its ServiceAccount; no metrics",
        only="aws",
    ),
    Part(
        name="Karpenter",
        level="stood in",
        how="nodes by its NodePools, with their labels, taints and limits, gone before their EC2NodeClass; drift and "
        "consolidation are not tried",
        only="karpenter",
    ),
    Part(
        name="Failures",
        level="stood in",
        how="nodes are drained by real evictions, or gone with their pods; how long that goes unnoticed is not tried",
        only="scenarios",
    ),
    Part(
        name="Containers",
        level="skipped",
        how="nothing runs: images, commands, arguments and traffic are not tried",
    ),
    Part(
        name="Start of models",
        level="stood in",
        how="Ready after the planned start-up, less the image where its node has pulled it before, if what the pod "
        f"names exists, its weights are staged and its startup probe allows as much; a Ray container after "
        f"{RAY_START_SECONDS:.0f} s",
    ),
    Part(
        name="Routers",
        level="stood in",
        how="Ready as any pod, and found by their Services; the real router is tried under load, and on a real API "
        "server's pods, by the tests alone",
    ),
    Part(
        name="EFA gate",
        level="stood in",
        how="its planned seconds are part of the start; nothing is measured, since there is no EFA here",
    ),
    Part(name="Jobs", level="stood in", how="end after their planned time with the outcome they are given"),
    Part(name="LeaderWorkerSet controller", level="stood in", how="makes and replaces the pods of groups"),
    Part(name="KubeRay", level="stood in", how="makes pods and Services; no RayCluster, no Ray"),
    Part(name="cert-manager", level="stood in", how="certificates are Ready and their Secrets exist"),
    Part(name="Volumes", level="stood in", how="claims are bound by the real controller to volumes that do not exist"),
    Part(name="Gang scheduling", level="stood in", how="gates of a PodGroup open when all its pods fit"),
    Part(name="KEDA", level="real", how="operator and metrics adapter run; its Prometheus is a stand-in", only="keda"),
    Part(name="KEDA", level="skipped", how="not needed, or it could not be had; no autoscaler exists", only="no keda"),
    Part(name="Prometheus, Grafana, DCGM", level="skipped", how="installed, not running; no metric is scraped"),
    Part(name="Network", level="skipped", how="Services select pods, but no packet flows; policies are not enforced"),
    Part(name="Secrets", level="stood in", how="every given secret has the same stand-in value"),
)


def parts(facts: AbstractSet[Fact]) -> tuple[Part, ...]:
    """The parts of a rehearsal with these facts."""
    return tuple(part for part in PARTS if part.only is None or part.only in facts)


def page() -> str:
    """FIDELITY.md."""
    rows = "\n".join(
        f"| {part.name} | {part.level} | {part.how}{f' ({part.only})' if part.only else ''} |" for part in PARTS
    )
    return f"""# How near a rehearsal comes

Written by `python -m rehearsal.fidelity` from the table in rehearsal/fidelity.py; every report carries the lines that
hold for it. In brackets: only in such a rehearsal. Times are compressed; each report says by how much.

| part | | how |
|---|---|---|
{rows}
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    return write_or_check(PAGE, page(), "rehearsal.fidelity", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
