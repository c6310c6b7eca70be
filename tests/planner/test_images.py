"""Image references on a cluster that pulls through a mirror."""

from __future__ import annotations

import pytest

from planner.images import mirrored, registry

MIRROR = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nvcr.io/nvidia/gpu-operator:v26.7.0", "nvcr.io/nvidia/gpu-operator:v26.7.0"),
        ("quay.io/kuberay/operator", "quay.io/kuberay/operator"),
        ("vllm/vllm-openai:v0.33.0", "docker.io/vllm/vllm-openai:v0.33.0"),
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.38@sha256:0a", "docker.io/library/busybox:1.38@sha256:0a"),
        ("localhost/x:1", "localhost/x:1"),
        ("registry:5000/x/y:1", "registry:5000/x/y:1"),
    ],
)
def test_the_mirror_keeps_the_upstream_host_in_the_path(reference: str, expected: str) -> None:
    assert mirrored(reference, MIRROR) == f"{MIRROR}/{expected}"


def test_without_a_mirror_nothing_changes() -> None:
    assert mirrored("busybox", None) == "busybox"
    assert registry("quay.io", None) == "quay.io"


def test_a_trailing_slash_of_the_mirror_is_no_empty_path_part() -> None:
    assert registry("quay.io", "registry.example.com/") == "registry.example.com/quay.io"
