"""Load balancers that Services and Ingresses of the cluster hold: they bill, and keep their VPC from being deleted.

The program makes none. A destroy takes away the controller that could delete them, so they must go before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ops.cluster import Objects

SERVICES: Final = "/api/v1/services"
INGRESSES: Final = "/apis/networking.k8s.io/v1/ingresses"
_POLL_SECONDS: Final = 3.0
_LEAVE_SECONDS: Final = 300
"""Deleting a load balancer with its target groups takes the controller a minute or two."""


def load_balancers(objects: Objects) -> dict[str, str]:
    """What holds one, in words (`service web/api`) -> its API path."""
    found: dict[str, str] = {}
    for item in objects.list(SERVICES):
        if item["spec"].get("type") == "LoadBalancer":
            found[f"service {_name(item)}"] = _path("/api/v1", "services", item)
    for item in objects.list(INGRESSES):
        if item.get("status", {}).get("loadBalancer", {}).get("ingress"):
            found[f"ingress {_name(item)}"] = _path("/apis/networking.k8s.io/v1", "ingresses", item)
    return found


def end_load_balancers(
    objects: Objects, *, tell: Callable[[str], None], pause: Callable[[float], None], clock: Callable[[], float]
) -> tuple[str, ...]:
    """Delete what holds a load balancer and wait until its controller has let go; returns what is left."""
    for name, path in load_balancers(objects).items():
        objects.delete(path)
        tell(f"{name}: its load balancer goes")
    until = clock() + _LEAVE_SECONDS
    left = tuple(load_balancers(objects))
    while left and clock() < until:
        pause(_POLL_SECONDS)
        left = tuple(load_balancers(objects))
    return left


def _name(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _path(group: str, kind: str, item: dict[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{group}/namespaces/{metadata['namespace']}/{kind}/{metadata['name']}"
