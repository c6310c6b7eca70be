"""Everything that stands in for what would run in the cluster, put together for one rehearsal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from planner.plan import Plan
from rehearsal.autoscaler import Autoscaler
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.gang import Gang
from rehearsal.injections import World, planned_secrets
from rehearsal.karpenter import Karpenter
from rehearsal.keeper import LadderKeeper
from rehearsal.kube import CERTIFICATES, NAMESPACES, SECRETS, Caches, Json, Key, Kind, Kube, key_of
from rehearsal.kubelet import Kubelet, Startup
from rehearsal.kuberay import RayServices
from rehearsal.lws import LeaderWorkerSets
from rehearsal.nodes import node_groups
from rehearsal.pods import condition, owner_of
from rehearsal.provisioner import Provisioner
from rehearsal.standins import StandIn

STAND_IN_VALUE: Final = "stand-in"
"""What every secret of a rehearsal is."""


class GivenSecrets:
    """Puts the Secrets that somebody else makes into their namespaces, as soon as these exist."""

    kinds: Sequence[Kind] = (NAMESPACES, SECRETS)

    def __init__(self, kube: Kube, plan: Plan, *, withheld: Key | None) -> None:
        self._kube = kube
        secrets = planned_secrets(plan)
        self._given = {(s.namespace, s.name): s for s in secrets if not s.made_here}
        self._withheld = withheld

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Make what is missing, and take away what is withheld."""
        for key, secret in self._given.items():
            namespace = caches.get(NAMESPACES, ("", key[0]))
            active = namespace is not None and namespace["status"].get("phase") == "Active"
            if active and key != self._withheld and caches.get(SECRETS, key) is None:
                metadata = {"namespace": key[0], "name": key[1]}
                # The API server looks into credentials of registries.
                value = STAND_IN_VALUE if secret.type == "Opaque" else '{"auths": {}}'
                body = {"metadata": metadata, "type": secret.type, "stringData": {secret.key: value}}
                self._kube.create(SECRETS, body)
        if self._withheld and caches.get(SECRETS, self._withheld) is not None:
            self._kube.delete(SECRETS, self._withheld)
        return None


class Certificates:
    """Stands in for cert-manager: a Certificate becomes Ready and its Secret exists."""

    kinds: Sequence[Kind] = (CERTIFICATES, SECRETS)

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Serve every Certificate."""
        for item in caches.all(CERTIFICATES):
            namespace, name = item["metadata"]["namespace"], item["spec"]["secretName"]
            if caches.get(SECRETS, (namespace, name)) is None:
                # Its real content is a key; nobody reads it here.
                data = {"tls.crt": STAND_IN_VALUE, "tls.key": STAND_IN_VALUE, "ca.crt": STAND_IN_VALUE}
                metadata = {"namespace": namespace, "name": name, "ownerReferences": [owner_of(CERTIFICATES, item)]}
                self._kube.create(SECRETS, {"metadata": metadata, "type": "kubernetes.io/tls", "stringData": data})
            if not item.get("status", {}).get("conditions"):
                ready: Json = {"conditions": [condition("Ready", met=True, reason="Ready")]}
                self._kube.patch(CERTIFICATES, key_of(item), {"status": ready}, subresource="status")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """The stand-ins of a rehearsal; those that are asked what they did are named."""

    autoscaler: Autoscaler
    kubelet: Kubelet
    ray: RayServices
    keeper: LadderKeeper | None
    others: tuple[StandIn, ...]

    @property
    def members(self) -> tuple[StandIn, ...]:
        """All of them."""
        keeper = (self.keeper,) if self.keeper else ()
        return (self.autoscaler, self.kubelet, self.ray, *keeper, *self.others)


def operators(kube: Kube, world: World, *, compression: float, plane: ControlPlane | None = None) -> Operators:
    """The stand-ins for a world; processes of their own run beside those of `plane`."""
    plan = world.plan
    seconds = {model.name: model.startup_seconds * world.startup_factor for model in plan.models}
    pulls = {pull.pool: float(pull.seconds_saved) for pull in plan.image_pulls}
    startups = {
        model.name: Startup(
            seconds=seconds[model.name],
            pull_seconds=pulls.get(model.pool, 0.0),
            shards_seconds=world.startup_factor * (model.weights.shards.init_seconds if model.weights.shards else 0.0),
        )
        for model in plan.models
    }
    groups = node_groups(plan, absent=world.absent_devices)
    return Operators(
        autoscaler=Autoscaler(
            kube,
            groups,
            capacity=world.capacity,
            times=plan.ladder.autoscaler if plan.ladder else None,
            compression=compression,
        ),
        kubelet=Kubelet(kube, startups, compression=compression, unstaged=world.unstaged),
        ray=RayServices(kube, seconds, compression=compression),
        keeper=LadderKeeper(kube, plane, compression=compression)
        if plane and plan.ladder and plan.ladder.keeper and not world.no_keeper
        else None,
        others=(
            LeaderWorkerSets(kube),
            Provisioner(kube),
            Gang(kube),
            GivenSecrets(kube, plan, withheld=world.withheld),
            Certificates(kube),
            *([Karpenter(kube)] if plan.karpenter else []),
        ),
    )
