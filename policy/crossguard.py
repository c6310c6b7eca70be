"""Our rules as Pulumi policies. Making a `PolicyPack` starts a server, so only `__main__.py` does that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.records import UNKNOWN, Resource, ResourceRule, Rule, StackRule
from policy.rules import RULES

_LEVELS = {"mandatory": EnforcementLevel.MANDATORY, "advisory": EnforcementLevel.ADVISORY}


def policies(rules: Sequence[Rule] = RULES) -> list[Policy]:
    """One policy a rule."""
    return [_resource_policy(rule) if isinstance(rule, ResourceRule) else _stack_policy(rule) for rule in rules]


def _resource_policy(rule: ResourceRule) -> Policy:
    def validate(args: ResourceValidationArgs, report_violation: ReportViolation) -> None:
        resource = Resource(type=args.resource_type, name=args.name, urn=args.urn, props=_mapping(args.props))
        rule.check(resource, lambda message: report_violation(message, None))

    return ResourceValidationPolicy(
        name=rule.name, description=rule.description, validate=validate, enforcement_level=_LEVELS[rule.level]
    )


def _stack_policy(rule: StackRule) -> Policy:
    def validate(args: StackValidationArgs, report_violation: ReportViolation) -> None:
        resources = [_resource(item) for item in args.resources]
        rule.check(resources, lambda message, resource: report_violation(message, resource.urn))

    return StackValidationPolicy(
        name=rule.name, description=rule.description, validate=validate, enforcement_level=_LEVELS[rule.level]
    )


def _resource(item: PolicyResource) -> Resource:
    return Resource(
        type=item.resource_type,
        name=item.name,
        urn=item.urn,
        props=_mapping(item.props),
        depends_on=frozenset(other.urn for other in item.dependencies),
    )


def _mapping(props: Mapping[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", _plain(props))


def _plain(value: object) -> object:
    """Plain data of the SDK's proxies, which raise where a value is not known yet."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value)
        return {key: _known(items, key) for key in items}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = cast("Sequence[object]", value)
        return [_known(items, index) for index in range(len(items))]
    return value


def _known(holder: Any, key: object) -> object:
    try:
        return _plain(holder[key])
    except UnknownValueError:
        return UNKNOWN
