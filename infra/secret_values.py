"""Values of secrets that the user gives: from Pulumi's configuration, or from AWS Secrets Manager."""

from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws

from settings.from_pulumi import required_secret
from settings.secrets import PulumiSecret, SecretsManagerSecret


class GivenSecrets:
    """Reads given secrets; every value is marked secret and so encrypted in the state."""

    def __init__(self, provider: aws.Provider | None) -> None:
        self._provider = provider

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        """The value of one secret.

        Raises:
            pulumi.RunError: it is not set, or lies in Secrets Manager while the stack has no AWS.
        """
        if isinstance(source, PulumiSecret):
            return required_secret(source.name)
        if self._provider is None:
            raise pulumi.RunError(
                f"secret {source.arn} lies in AWS Secrets Manager, and an existing cluster has no AWS provider\n"
                "  help: use `kind: kubernetes_secret` or `kind: pulumi`"
            )
        found = aws.secretsmanager.get_secret_version_output(
            secret_id=source.arn, opts=pulumi.InvokeOptions(provider=self._provider)
        )
        text = found.apply(lambda version: version.secret_string)
        return pulumi.Output.secret(text if source.key is None else text.apply(lambda raw: _member(raw, source)))


def _member(raw: str, source: SecretsManagerSecret) -> str:
    try:
        return str(json.loads(raw)[source.key])
    except (ValueError, KeyError, TypeError):
        raise pulumi.RunError(
            f"secret {source.arn} is no JSON object with a key `{source.key}`\n"
            "  help: leave `key` out where the secret is a plain value"
        ) from None
