"""The stand-in AWS account: where the simulated resources live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Properties = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SimulatedEnvironment:
    """What the stand-in AWS account contains besides the resources.

    Attributes:
        cluster_endpoint: URL of the API server that every `aws.eks.Cluster` answers with.
        cluster_ca_data: its CA certificate, PEM in base64, as EKS gives it.
        account: the 12-digit account id.
        region: the region of resources that name none.
    """

    cluster_endpoint: str = "https://0123456789ABCDEF0123456789ABCDEF.gr7.us-east-1.eks.amazonaws.com"
    cluster_ca_data: str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    account: str = "123456789012"
    region: str = "us-east-1"

    @property
    def partition(self) -> str:
        """The ARN partition of the region."""
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"
