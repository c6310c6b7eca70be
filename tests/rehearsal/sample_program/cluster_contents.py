"""What the sample program puts into its cluster."""

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s
from pulumi_kubernetes_cert_manager import CertManager, ReleaseArgs, RepositoryOptsArgs


@dataclass(frozen=True, kw_only=True)
class ModelServerArgs:
    """Settings of one model server."""

    namespace: pulumi.Input[str]
    temperature: str
    label: str | None


class ModelServer(pulumi.ComponentResource):
    """A Deployment that cannot be scheduled, and its settings."""

    def __init__(self, name: str, args: ModelServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ModelServer", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = {"app": name, **({"label": args.label} if args.label else {})}
        settings = k8s.core.v1.ConfigMap(
            f"{name}-settings",
            metadata={"name": f"{name}-settings", "namespace": args.namespace},
            data={"temperature": args.temperature},
            opts=child,
        )
        k8s.apps.v1.Deployment(
            name,
            metadata={
                "name": name,
                "namespace": args.namespace,
                "annotations": {"pulumi.com/skipAwait": "true"},
            },
            spec={
                "selector": {"match_labels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": {"settings": args.temperature}},
                    "spec": {
                        "node_selector": {"no-such": "node"},
                        "containers": [
                            {
                                "name": "server",
                                "image": "registry.k8s.io/pause:3.10",
                                "env_from": [{"config_map_ref": {"name": settings.metadata.name}}],
                            }
                        ],
                    },
                },
            },
            opts=child,
        )
        self.register_outputs({})


def declare(cluster: aws.eks.Cluster, *, temperature: str, skip: str | None, label: str | None) -> None:
    """Everything in the cluster, by a provider made from the cluster's outputs."""
    provider = k8s.Provider(
        "eks",
        kubeconfig=pulumi.Output.json_dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "eks",
                        "cluster": {
                            "server": cluster.endpoint,
                            "certificate-authority-data": cluster.certificate_authority.data,
                        },
                    }
                ],
                "users": [
                    {
                        "name": "eks",
                        "user": {
                            "exec": {
                                "apiVersion": "client.authentication.k8s.io/v1beta1",
                                "command": "aws",
                                "args": ["eks", "get-token", "--cluster-name", cluster.name],
                                "interactiveMode": "Never",
                            }
                        },
                    }
                ],
                "contexts": [{"name": "eks", "context": {"cluster": "eks", "user": "eks"}}],
                "current-context": "eks",
            }
        ),
        cluster_identifier=cluster.endpoint,
        enable_server_side_apply=True,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        opts=pulumi.ResourceOptions(parent=cluster),
    )
    inside = pulumi.ResourceOptions(provider=provider)
    namespace = k8s.core.v1.Namespace("models", metadata={"name": "models"}, opts=inside)
    release = k8s.helm.v3.Release(
        "operator",
        name="operator",
        chart="./charts/sample",
        namespace=namespace.metadata.name,
        values={"greeting": "hello"},
        atomic=True,
        opts=inside,
    )
    CertManager(
        "cert-manager",
        install_crds=True,
        helm_options=ReleaseArgs(
            name="cert-manager",
            chart="cert-manager",
            namespace="models",
            repository_opts=RepositoryOptsArgs(repo="./charts"),
        ),
        opts=pulumi.ResourceOptions(providers=[provider], depends_on=[namespace]),
    )
    for name in ("chat", "embed"):
        if name != skip:
            ModelServer(
                name,
                ModelServerArgs(
                    namespace=namespace.metadata.name,
                    temperature=temperature if name == "chat" else json.dumps(0),
                    label=label,
                ),
                pulumi.ResourceOptions(providers=[provider], depends_on=[release]),
            )
