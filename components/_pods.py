"""What our own small pods have in common: nothing is allowed to them that they do not need."""

from __future__ import annotations

from typing import Any


def confined() -> dict[str, Any]:
    """Security context of a container that writes nowhere but into its volumes and gains nothing."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pulls_with(secret: str | None) -> dict[str, Any]:
    """What a pod's spec says of the credentials for its images; nothing where the nodes' own role opens them all."""
    return {"imagePullSecrets": [{"name": secret}]} if secret else {}


def idle_pod() -> dict[str, Any]:
    """Pod spec, but for where and what: it asks nobody for anything, and is gone at once."""
    return {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65535,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
