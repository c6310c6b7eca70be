"""The stack's Kubernetes cluster as the verbs ask it: objects as plain dictionaries, through the user's own access."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import urllib3
import yaml

from ops import aws
from ops.errors import MissingError, OpsError
from planner import Plan
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL
from planner.plan import EksPlan, ModelPlan
from planner.plan.warm import WarmPlan

Json = dict[str, Any]
_TIMEOUT: Final = (5, 30)
"""Seconds to connect, and for an answer."""
_WORKLOADS: Final = {
    "deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "leader_worker_set": "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/{name}",
    "ray_service": "/apis/ray.io/v1/namespaces/{namespace}/rayservices/{name}",
}


class Objects(Protocol):
    """Reads and changes objects by their API path."""

    def get(self, path: str) -> Json | None:
        """One object; None where there is none, or where the API does not know its kind."""
        ...

    def list(self, path: str, selector: str | None = None) -> list[Json]:
        """All objects of a collection, or those with these labels."""
        ...

    def merge(self, path: str, change: Mapping[str, Any]) -> bool:
        """Merge a change into an object; False where there is none."""
        ...

    def delete(self, path: str) -> bool:
        """Ask for an object's end, which its finalizers may put off; False where there is none."""
        ...


class Workbench(Objects, Protocol):
    """Makes objects and reads logs, too."""

    def create(self, path: str, item: Mapping[str, Any]) -> Json:
        """Make an object in a collection."""
        ...

    def text(self, path: str) -> str:
        """What is no object, such as a container's log."""
        ...


class Cluster:
    """An API server behind a kubeconfig."""

    def __init__(self, kubeconfig: Path, context: str | None) -> None:
        """Raises MissingError where the kubeconfig cannot be used."""
        self.kubeconfig = kubeconfig
        self.context = context
        # The client has no types: Any, so that they are not guessed.
        config: Any = importlib.import_module("kubernetes.config")
        self._refused: Any = importlib.import_module("kubernetes.client").ApiException
        if not kubeconfig.is_file():
            raise MissingError(f"{kubeconfig} does not exist", help="name your kubeconfig with --kubeconfig")
        try:
            self._client: Any = config.new_client_from_config(config_file=str(kubeconfig), context=context)
        except config.ConfigException as error:
            raise MissingError(f"{kubeconfig}: {error}", help="correct it, or name another context") from None

    def get(self, path: str) -> Json | None:
        """See `Objects.get`."""
        return self._call("GET", path, {})

    def list(self, path: str, selector: str | None = None) -> list[Json]:
        """See `Objects.list`."""
        answer = self._call("GET", path, {"labelSelector": selector} if selector else {})
        return list(answer["items"]) if answer else []

    def merge(self, path: str, change: Mapping[str, Any]) -> bool:
        """See `Objects.merge`."""
        return self._call("PATCH", path, {}, change) is not None

    def delete(self, path: str) -> bool:
        """See `Objects.delete`."""
        # A Job's own default would leave its pods behind.
        return self._call("DELETE", path, {"propagationPolicy": "Background"}) is not None

    def create(self, path: str, item: Mapping[str, Any]) -> Json:
        """Make an object in a collection; raises MissingError where there is none of that kind."""
        made = self._call("POST", path, {}, item, kind="application/json")
        if made is None:
            raise MissingError(f"the cluster knows no {path.rsplit('/', 1)[-1]} at {path}")
        return made

    def text(self, path: str) -> str:
        """What is no object, such as a container's log; empty where there is none."""
        return self._call("GET", path, {}, answer="str") or ""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        *,
        kind: str = "application/merge-patch+json",
        answer: str = "object",
    ) -> Any:
        headers = {"Accept": "application/json" if answer == "object" else "*/*"}
        if body is not None:
            headers["Content-Type"] = kind
        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                response_type=answer,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT,
            )
        except self._refused as error:
            if error.status == 404:
                return None
            raise self._told(error, f"{method} {path}") from None
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise MissingError(
                f"the API server cannot be reached: {reason}",
                help="`python -m ops doctor` tells who may reach it; check VPN and kubeconfig",
            ) from None

    def _told(self, error: Any, doing: str) -> OpsError:
        if error.status in {401, 403}:
            return MissingError(
                f"the cluster refuses {doing}: {error.reason}",
                help="use an identity among `target.admins`; `python -m ops doctor` compares them",
            )
        return MissingError(f"the API server answered {error.status} to {doing}: {error.reason}")


@contextmanager
def connect(plan: Plan, *, kubeconfig: Path | None = None, context: str | None = None) -> Generator[Cluster]:
    """The stack's cluster: by the given kubeconfig, else by the stack file's, else by EKS itself.

    Raises:
        MissingError: there is no way to it; the message says what is missing.
    """
    if kubeconfig is not None or not isinstance(plan.target, EksPlan):
        given = kubeconfig or Path(getattr(plan.target, "kubeconfig", "")).expanduser()
        cluster = Cluster(given, context or getattr(plan.target, "context", None))
        try:
            yield cluster
        finally:
            cluster.close()
        return
    with tempfile.TemporaryDirectory(prefix="kubeconfig-") as folder:
        written = Path(folder) / "config"
        written.touch(mode=0o600)
        written.write_text(yaml.safe_dump(eks_kubeconfig(plan.target.cluster_name, str(plan.region))))
        cluster = Cluster(written, None)
        try:
            yield cluster
        finally:
            cluster.close()


def eks_kubeconfig(cluster_name: str, region: str) -> Json:
    """A kubeconfig for an EKS cluster; its tokens come from `aws eks get-token`, so it holds no secret."""
    if shutil.which("aws") is None:
        raise MissingError(
            "the AWS CLI is not on PATH; access to EKS takes its tokens from it",
            help="install it, or name a kubeconfig with --kubeconfig",
        )
    try:
        cluster = aws.client("eks", region).describe_cluster(name=cluster_name)["cluster"]
    except aws.ERRORS as error:
        if aws.error_code(error) == "ResourceNotFoundException":
            raise MissingError(
                f"there is no EKS cluster {cluster_name} in {region}", help="`make up` makes it; is the account right?"
            ) from None
        raise aws.explained(error, doing=f"EKS cluster {cluster_name}") from error
    token = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": ["--region", region, "eks", "get-token", "--cluster-name", cluster_name, "--output", "json"],
        "interactiveMode": "Never",
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster_name,
                "cluster": {
                    "server": cluster["endpoint"],
                    "certificate-authority-data": cluster["certificateAuthority"]["data"],
                },
            }
        ],
        "users": [{"name": cluster_name, "user": {"exec": token}}],
        "contexts": [{"name": cluster_name, "context": {"cluster": cluster_name, "user": cluster_name}}],
        "current-context": cluster_name,
    }


def pods_path(namespace: str) -> str:
    """Pods of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


def serving_pods(model: ModelPlan) -> str:
    """Selector of the pods that hold a model's GPUs, all of a group; a Ray head holds none."""
    return f"{MODEL_LABEL}={model.name},{GROUP_ROLE_LABEL} in (server,leader,worker)"


def workload_path(model: ModelPlan) -> str:
    """The object that makes a model's pods."""
    return _WORKLOADS[model.runtime].format(namespace=model.namespace, name=model.name)


def workload_collections(namespace: str) -> tuple[str, ...]:
    """Lists of all objects that make pods of models, whichever runtime the stack file names now."""
    return tuple(path.format(namespace=namespace, name="").rstrip("/") for path in _WORKLOADS.values())


def placeholders_path(warm: WarmPlan) -> str:
    """The Deployment of placeholders."""
    return f"/apis/apps/v1/namespaces/{warm.namespace}/deployments/{warm.name}"


def scaler_path(model: ModelPlan) -> str:
    """The ScaledObject of a model that KEDA scales."""
    return f"/apis/keda.sh/v1alpha1/namespaces/{model.namespace}/scaledobjects/{model.name}"


NODE_CLAIMS: Final = "/apis/karpenter.sh/v1/nodeclaims"
"""Karpenter's nodes, those on their way included; labelled with their NodePool."""


def job_path(namespace: str, name: str) -> str:
    """A Job."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
