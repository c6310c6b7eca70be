"""The KWOK Stages that every rehearsal needs, and the ones that a rehearsal without its own starts with.

A Stage says what a simulated kubelet does to an object next (https://kwok.sigs.k8s.io/docs/user/stages-configuration/).
Node stages are always there. Pod stages are the caller's; `DEFAULT_POD_STAGES` makes every pod Ready at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_STAGE = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage"}

_CONDITIONS = """
conditions:
{{ $now := Now }}
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
"""

_NODE_READY = (
    _CONDITIONS
    + """
{{ if not .status.addresses }}
addresses:
- type: Hostname
  address: {{ .metadata.name | Quote }}
{{ end }}
{{ with .status.capacity }}
capacity:
{{ YAML . 1 }}
{{ end }}
{{ with .status.allocatable }}
allocatable:
{{ YAML . 1 }}
{{ end }}
phase: Running
"""
)


def container_statuses(state: str, *, ready: bool, restarts: int = 0) -> str:
    """Of all containers of a pod alike, in KWOK's template language, which has put the time into `$now` before.

    `state` is what a status has of its own: lines of YAML.
    """
    up = str(ready).lower()
    return f"""
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  ready: {up}
  started: {up}
  restartCount: {restarts}
  {state}
{{{{ end }}}}
"""


def ended(phase: str, reason: str, *, exit_code: int = 0, message: str = "") -> str:
    """The status of a pod whose containers have ended."""
    told = json.dumps({"exitCode": exit_code, "reason": reason, "message": message})
    times = "startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}"
    state = f"state: {{terminated: {{{told[1:-1]}, {times}}}}}"
    return "\n{{ $now := Now }}\n" + f"phase: {phase}" + container_statuses(state, ready=False)


_POD_READY = (
    """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- type: {{ $type | Quote }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
{{ range .spec.readinessGates }}
- type: {{ .conditionType | Quote }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
"""
    + container_statuses("state: {running: {startedAt: {{ $now | Quote }}}}", ready=True)
    + """
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  {{ if eq .restartPolicy "Always" }}
  started: true
  state:
    running:
      startedAt: {{ $now | Quote }}
  {{ else }}
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
  {{ end }}
{{ end }}
{{ with NodeIPWith .spec.nodeName }}
hostIP: {{ . | Quote }}
{{ end }}
podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) | Quote }}
"""  # noqa: E501 (the template language has no line continuation)
)


def where(key: str, operator: str, *values: str) -> dict[str, Any]:
    """A condition of a Stage's selector."""
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def _stage(name: str, kind: str, selector: Sequence[Mapping[str, Any]], then: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_STAGE,
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": list(selector)},
            "next": dict(then),
        },
    }


_READY_CONDITION = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_NOT_DELETED = where(".metadata.deletionTimestamp", "DoesNotExist")

#: A new node becomes Ready at once. Its heartbeat is a Lease, so no stage repeats.
NODE_STAGES: tuple[Mapping[str, Any], ...] = (
    _stage("node-ready", "Node", [where(_READY_CONDITION, "NotIn", "True")], {"statusTemplate": _NODE_READY}),
)

#: A scheduled pod is Ready at once, a pod of a Job then succeeds, a deleted pod is gone.
DEFAULT_POD_STAGES: tuple[Mapping[str, Any], ...] = (
    _stage(
        "pod-ready",
        "Pod",
        [_NOT_DELETED, where(".status.phase", "In", "Pending"), where(_READY_CONDITION, "NotIn", "True")],
        {"statusTemplate": _POD_READY},
    ),
    _stage(
        "pod-completed",
        "Pod",
        [
            _NOT_DELETED,
            where(".status.phase", "In", "Running"),
            where(".metadata.ownerReferences.[].kind", "In", "Job"),
        ],
        {"statusTemplate": ended("Succeeded", "Completed")},
    ),
    _stage(
        "pod-deleted",
        "Pod",
        [where(".metadata.deletionTimestamp", "Exists")],
        {"finalizers": {"empty": True}, "delete": True},
    ),
)
