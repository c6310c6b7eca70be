"""Charts and configuration: pinned, and without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from policy.pods import pod_templates
from policy.records import UNKNOWN, Report, Resource, ResourceRule, Rule, at, listed

RELEASE = "kubernetes:helm.sh/v3:Release"
CERT_MANAGER = "kubernetes-cert-manager:index:CertManager"
_EXACT = re.compile(r"v?\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")

_SECRET_KEY = re.compile(r"(password|passwd|token|secret|api_?key|private_?key|credential)s?$", re.IGNORECASE)
_REFERENCE_KEY = re.compile(r"(existing|name|ref)", re.IGNORECASE)
"""Keys such as `existingSecret` or `passwordSecretRef` name a Secret, and hold none."""

# What secrets of well-known makers look like: hub, AWS, GitHub, Slack, keys in PEM.
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}|\bxox[abpr]-[A-Za-z0-9-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def releases_pinned(resource: Resource, report: Report) -> None:
    """A chart without an exact version is another chart tomorrow."""
    if resource.type == RELEASE:
        version = resource.props.get("version")
    elif resource.type == CERT_MANAGER:
        version = at(resource.props, "helmOptions.version")
    else:
        return
    if version is not UNKNOWN and not (isinstance(version, str) and _EXACT.fullmatch(version)):
        report(f"chart version {version!r} is not exact: pin it in catalog/versions.yaml")


def no_secret_text(resource: Resource, report: Report) -> None:
    """Chart values, ConfigMaps and pod specs are read by many; secrets live in Secrets."""
    if resource.type == RELEASE:
        found = _secrets_in(resource.props.get("values"), "values")
    elif resource.type == CERT_MANAGER:
        found = _secrets_in(resource.props, "")
    elif resource.kind == "ConfigMap":
        found = (path for path, text in _texts(resource.props.get("data"), "data") if _SECRET_TEXT.search(text))
    else:
        found = _secrets_in_pods(resource)
    for path in found:
        # The text itself stays out of the message: it would be the next leak.
        report(f"{path} holds a secret in clear: keep it in a Secret and name that")


def _secrets_in(value: Any, path: str) -> Iterator[str]:
    for where, text in _texts(value, path):
        key = where.rsplit(".", 1)[-1]
        named = _SECRET_KEY.search(key) and not _REFERENCE_KEY.search(key)
        if _SECRET_TEXT.search(text) or (text and named):
            yield where


def _secrets_in_pods(resource: Resource) -> Iterator[str]:
    for template in pod_templates(resource):
        for container in template.all_containers:
            for variable in listed(container.get("env")):
                name, value = str(at(variable, "name")), at(variable, "value")
                if isinstance(value, str) and value and (_SECRET_KEY.search(name) or _SECRET_TEXT.search(value)):
                    yield f"{template.role}: environment variable {name}"
            for word in (*listed(container.get("command")), *listed(container.get("args"))):
                if _SECRET_TEXT.search(str(word)):
                    yield f"{template.role}: the command line of {container.get('name')}"


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text below a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from _texts(item, f"{path}.{key}" if path else key)
    elif isinstance(value, Sequence):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            yield from _texts(item, f"{path}[{index}]")


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="releases-pinned",
        description="Every chart has an exact version.",
        check=releases_pinned,
    ),
    ResourceRule(
        name="no-secret-text",
        description="Chart values, ConfigMaps and pods hold no secret in clear.",
        check=no_secret_text,
    ),
)
