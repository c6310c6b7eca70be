"""Certificates inside the cluster: cert-manager and a CA of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes_cert_manager as cert_manager

from components._charts import DEFAULT_TIMEOUT_SECONDS, source_for_injected_repository
from components._objects import CaCertificate, CaIssuer, CustomObject, SelfSignedIssuer, custom_resource
from planner import naming
from planner.images import registry
from planner.plan import ChartPlan

SELF_SIGNED_ISSUER = "inference-self-signed"
CA_ISSUER = "inference-ca"
CA_SECRET = "inference-ca"  # noqa: S105 - the name of a Secret
HOURS_PER_YEAR = 8760


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificatesArgs:
    """Where cert-manager comes from."""

    chart: ChartPlan
    image_mirror: str | None
    after: tuple[pulumi.Resource, ...] = ()


def values(args: CertificatesArgs) -> dict[str, Any]:
    """Chart values that the component's own inputs do not cover.

    The component writes each of its inputs over the value of the same name, even one that was left out. So what it
    knows (`global`, `replicaCount`, `webhook`, `prometheus`, ...) must go through `inputs`; only the rest works here.
    """
    return {
        "imageRegistry": registry("quay.io", args.image_mirror),
        "podDisruptionBudget": {"enabled": True},
    }


def inputs() -> dict[str, Any]:
    """Inputs of the component, in the words of the chart."""
    return {
        # It sends the chart's deprecated `installCRDs`; `crds.enabled` as well would be refused by the chart.
        "installCRDs": True,
        "global": {"priorityClassName": naming.CONTROLLER_PRIORITY},
        # Two of each, so that a drained node stops neither renewals nor the webhook that every issuer passes.
        "replicaCount": 2,
        "webhook": {"replicaCount": 2},
    }


def certificate_authority() -> tuple[CustomObject, CustomObject, CustomObject]:
    """A self-signed root, its certificate, and the issuer that signs with it."""
    return (
        SelfSignedIssuer(name=SELF_SIGNED_ISSUER),
        CaCertificate(
            name=CA_ISSUER,
            namespace=naming.CERTIFICATES_NAMESPACE,
            common_name="inference-platform CA",
            secret_name=CA_SECRET,
            issuer=SELF_SIGNED_ISSUER,
            lifetime_hours=10 * HOURS_PER_YEAR,
            renew_before_hours=HOURS_PER_YEAR,
        ),
        CaIssuer(name=CA_ISSUER, secret_name=CA_SECRET),
    )


class Certificates(pulumi.ComponentResource):
    """cert-manager with its definitions, and the ClusterIssuer `inference-ca`.

    Produces `release`, which brings the custom resources, and `issuer`, once certificates can be asked for.
    """

    release: pulumi.Resource
    issuer: pulumi.Resource

    def __init__(self, name: str, args: CertificatesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Certificates", name, None, opts)
        place = source_for_injected_repository(args.chart)
        given = inputs()
        self.release = cert_manager.CertManager(
            f"{name}-cert-manager",
            install_crds=given["installCRDs"],
            global_=cert_manager.CertManagerGlobalArgs(priority_class_name=given["global"]["priorityClassName"]),
            replica_count=given["replicaCount"],
            webhook=cert_manager.CertManagerWebhookArgs(replica_count=given["webhook"]["replicaCount"]),
            helm_options=cert_manager.ReleaseArgs(
                name=args.chart.name,
                chart=place.chart,
                version=args.chart.version,
                repository_opts=cert_manager.RepositoryOptsArgs(repo=place.repository) if place.repository else None,
                namespace=args.chart.namespace,
                create_namespace=False,
                values=values(args),
                atomic=True,
                cleanup_on_fail=True,
                timeout=DEFAULT_TIMEOUT_SECONDS,
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        root, certificate, issuer = certificate_authority()
        declared_root = custom_resource(f"{name}-root", root, parent=self, after=[*args.after, self.release])
        declared_certificate = custom_resource(f"{name}-ca", certificate, parent=self, after=[declared_root])
        self.issuer = custom_resource(f"{name}-issuer", issuer, parent=self, after=[declared_certificate])
        self.register_outputs({})
