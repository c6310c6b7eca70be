"""How pods trust a store of the stack."""

from __future__ import annotations

from typing import Any

from planner.plan import ValkeyPlan


def certificate(store: ValkeyPlan, directory: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(volume, mount) of its CA's certificate: of the Secret only that, the server's key lies beside it."""
    name = f"{store.name}-ca"
    items = [{"key": store.ca_key, "path": store.ca_key}]
    return (
        {"name": name, "secret": {"secretName": store.tls_secret, "items": items}},
        {"name": name, "mountPath": directory, "readOnly": True},
    )
