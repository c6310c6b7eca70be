"""The model cache as pods see it: the volume of weights, and a Job for each revision that makes it ready."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components._pods import confined, pulls_with
from components.serving.pods import SKIP_AWAIT, cache_volume, tolerations, warmup_labels
from planner.naming import NO_GPU, PART_OF_LABEL, PROJECT
from planner.plan import CachePlan, PoolPlan, WarmupPlan

SCRIPT_NAME = "model-warm-up"
_SCRIPT = Path(__file__).parent / "scripts" / "warm_up.py"
_SCRIPT_MOUNT = "/opt/warm-up"
_LABELS = {PART_OF_LABEL: PROJECT, "app.kubernetes.io/managed-by": "pulumi"}

_ROLL_MINUTES = 60
"""How long the last pod may take to leave a volume that goes: replicas roll one after the other."""

_EXIT_BROKEN = 3
"""The script's exit code for weights that another try cannot mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """An FSx for Lustre file system."""

    id: pulumi.Input[str]
    dns_name: pulumi.Input[str]
    mount_name: pulumi.Input[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCacheArgs:
    """What holds the weights."""

    cache: CachePlan
    namespace: str
    file_system: FileSystem | None
    """For a Lustre cache."""
    after: tuple[pulumi.Resource, ...]


class ModelCache(pulumi.ComponentResource):
    """The claim that pods mount, and the script that warm-up Jobs run."""

    claim: k8s.core.v1.PersistentVolumeClaim
    claim_name: pulumi.Input[str]
    """What pods mount."""
    script: k8s.core.v1.ConfigMap

    def __init__(self, name: str, args: ModelCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ModelCache", name, None, opts)
        if args.cache.claim_name is None:
            raise ValueError("the plan has no model cache to mount")
        child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        if args.cache.fsx is not None:
            self.claim = self._lustre_claim(name, args)
            self.claim_name = self.claim.metadata.name
        else:
            self.claim = self._dynamic_claim(name, args, child)
            self.claim_name = args.cache.claim_name
        self.script = k8s.core.v1.ConfigMap(
            f"{name}-script",
            metadata=k8s.meta.v1.ObjectMetaArgs(name=SCRIPT_NAME, namespace=args.namespace, labels=_LABELS),
            data={_SCRIPT.name: _SCRIPT.read_text()},
            opts=child,
        )
        self.register_outputs({})

    def _lustre_claim(self, name: str, args: ModelCacheArgs) -> k8s.core.v1.PersistentVolumeClaim:
        """A static volume: the file system is made by the AWS layer and outlives every claim.

        Volume and claim carry the file system's id. Where it is replaced (another zone, a smaller size), new ones come
        beside the old ones, pods roll over to them, and the old ones go: under one name each would wait for the other,
        the volume for its claim, the claim for pods that nothing rolls.
        """
        fsx, system = args.cache.fsx, args.file_system
        if fsx is None or system is None:
            raise ValueError("a Lustre cache needs its file system")
        capacity = {"storage": f"{fsx.storage_gib}Gi"}
        claim_name = pulumi.Output.concat(str(args.cache.claim_name), "-", system.id)
        volume_name = pulumi.Output.concat(args.namespace, "-", claim_name)
        patience = pulumi.CustomTimeouts(delete=f"{_ROLL_MINUTES}m")
        volume = k8s.core.v1.PersistentVolume(
            f"{name}-volume",
            metadata=k8s.meta.v1.ObjectMetaArgs(name=volume_name, labels=_LABELS),
            spec=k8s.core.v1.PersistentVolumeSpecArgs(
                capacity=capacity,
                access_modes=["ReadWriteMany"],
                volume_mode="Filesystem",
                persistent_volume_reclaim_policy="Retain",
                storage_class_name="",
                mount_options=["flock"],
                # Reserved: no other claim that fits may take it.
                claim_ref=k8s.core.v1.ObjectReferenceArgs(
                    api_version="v1", kind="PersistentVolumeClaim", namespace=args.namespace, name=claim_name
                ),
                csi=k8s.core.v1.CSIPersistentVolumeSourceArgs(
                    driver="fsx.csi.aws.com",
                    volume_handle=system.id,
                    volume_attributes={"dnsname": system.dns_name, "mountname": system.mount_name},
                ),
            ),
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=list(args.after), ignore_changes=["spec.capacity"], custom_timeouts=patience
            ),
        )
        return k8s.core.v1.PersistentVolumeClaim(
            f"{name}-claim",
            metadata=k8s.meta.v1.ObjectMetaArgs(name=claim_name, namespace=args.namespace, labels=_LABELS),
            spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
                access_modes=["ReadWriteMany"],
                storage_class_name="",
                volume_name=volume.metadata.name,
                resources=k8s.core.v1.VolumeResourceRequirementsArgs(requests=capacity),
            ),
            # The API server refuses another size of a claim that no class provisions. Nothing is lost by leaving both
            # as they were: sizes only bind the two, and the file system, which FSx grows, tells pods its own.
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*args.after, volume],
                ignore_changes=["spec.resources"],
                custom_timeouts=patience,
            ),
        )

    def _dynamic_claim(
        self, name: str, args: ModelCacheArgs, child: pulumi.ResourceOptions
    ) -> k8s.core.v1.PersistentVolumeClaim:
        plan = args.cache.volume_claim
        if plan is None:
            raise ValueError("the plan names a claim but says nothing of its size")
        return k8s.core.v1.PersistentVolumeClaim(
            f"{name}-claim",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=str(args.cache.claim_name),
                namespace=args.namespace,
                labels=_LABELS,
                # Many classes bind with the first pod, and the first pod waits for this claim.
                annotations=SKIP_AWAIT,
            ),
            spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
                access_modes=[plan.access_mode],
                storage_class_name=plan.storage_class,
                resources=k8s.core.v1.VolumeResourceRequirementsArgs(requests={"storage": f"{plan.storage_gib}Gi"}),
            ),
            opts=child,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpArgs:
    """A revision to make ready."""

    warmup: WarmupPlan
    namespace: str
    priority_class: str
    pool: PoolPlan | None
    """None: system nodes."""
    cache: CachePlan
    claim_name: pulumi.Input[str]
    after: tuple[pulumi.Resource, ...]
    """The claim, the script, the hub token's Secret and the pool's node groups."""
    pull_secret: str | None = None


class WarmUp(pulumi.ComponentResource):
    """The Job that makes one revision ready. `up` does not wait for it: its nodes may come later."""

    job: k8s.batch.v1.Job

    def __init__(self, name: str, args: WarmUpArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:WarmUp", name, None, opts)
        self.job = k8s.batch.v1.Job(
            f"{name}-job",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=args.warmup.name,
                namespace=args.namespace,
                labels={**_LABELS, **warmup_labels(args.warmup.name)},
                annotations={**SKIP_AWAIT, "pulumi.com/deletionPropagationPolicy": "background"},
            ),
            spec=job_spec(args),
            # A Job's template cannot change, and its name is that of the revision.
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after), delete_before_replace=True),
        )
        self.register_outputs({})


def job_spec(args: WarmUpArgs) -> Any:
    """The Job's spec, as the API has it.

    It has no TTL (a Job that vanished would be made again by the next `up`) and no deadline of its own: time spent
    waiting for a node must not count, so the script keeps the time.
    """
    warmup = args.warmup
    failures = [
        # Wrong bytes stay wrong: fail at once, so that it is seen.
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "warm-up", "operator": "In", "values": [_EXIT_BROKEN]},
        },
        # A reclaimed node is not the script's failure.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": 6,
        "podFailurePolicy": {"rules": failures},
        "template": {
            "metadata": {
                "labels": {**_LABELS, **warmup_labels(warmup.name)},
                "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            },
            "spec": _pod_spec(args),
        },
    }


def _pod_spec(args: WarmUpArgs) -> dict[str, Any]:
    warmup, cache = args.warmup, args.cache
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **pulls_with(args.pull_secret),
        # The pods that wait for it must not push it off the node.
        "priorityClassName": args.priority_class,
        # Without a pool it lands on system nodes: GPU nodes are tainted.
        **_placement(args.pool),
        # Directories that the file system took over from S3 belong to root.
        "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "warm-up",
                "image": warmup.image,
                "command": ["python3", f"{_SCRIPT_MOUNT}/{_SCRIPT.name}"],
                "args": _arguments(warmup, cache),
                "env": _environment(warmup),
                # Little, since the model's pods hold most of the node while they wait, and several revisions may be
                # waited for together; it may use what is idle.
                "resources": {
                    "limits": {"memory": "4Gi"},
                    "requests": {"cpu": "200m", "memory": "512Mi"},
                },
                "securityContext": confined(),
                "volumeMounts": [
                    {"name": "models", "mountPath": cache.mount_path},
                    {"name": "script", "mountPath": _SCRIPT_MOUNT, "readOnly": True},
                    {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108
                ],
            }
        ],
        "volumes": [
            cache_volume(args.claim_name),
            {"name": "script", "configMap": {"name": SCRIPT_NAME}},
            {"name": "temporary", "emptyDir": {}},
        ],
    }


def _placement(pool: PoolPlan | None) -> dict[str, Any]:
    if pool is None:
        return {}
    return {"nodeSelector": dict(pool.node_selector), "tolerations": tolerations(pool.taints)}


def _arguments(warmup: WarmupPlan, cache: CachePlan) -> list[str]:
    weights = warmup.weights
    return [
        f"--model={weights.hub_id}",
        f"--revision={weights.revision}",
        f"--directory={weights.directory}",
        f"--marker={weights.ready_marker}",
        f"--source={warmup.source}",
        f"--timeout-seconds={warmup.timeout_seconds}",
        *(f"--shared-directory={posixpath.join(cache.mount_path, one)}" for one in warmup.directories),
    ]


def _environment(warmup: WarmupPlan) -> list[Mapping[str, Any]]:
    env: list[Mapping[str, Any]] = [NO_GPU, {"name": "HOME", "value": "/tmp"}]  # noqa: S108
    if warmup.source == "hub":
        # Wherever the image keeps it: the root file system is read-only.
        env.append({"name": "HF_HOME", "value": "/tmp/huggingface"})  # noqa: S108
        # hf_xet's buffers grow beyond the container's limit, whatever that is (huggingface/xet-core#927).
        env.append({"name": "HF_HUB_DISABLE_XET", "value": "1"})
        if warmup.hub_token is not None:
            reference = {"name": warmup.hub_token.name, "key": warmup.hub_token.key}
            env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return env
