"""Secrets: made once, given, or left to somebody else."""

from __future__ import annotations

from collections.abc import Callable

import pulumi
import pulumi_kubernetes as kubernetes
import pytest

from components._secrets import SecretValues, declare_secret
from components.valkey import ForUrls
from planner.plan import AnySecretSource, SecretPlan
from settings.secrets import GeneratedSecret, KubernetesSecret, PulumiSecret, SecretsManagerSecret
from tests.components.conftest import GivenSecrets
from tests.harness import World, deploy


class Remembering(GivenSecrets):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[PulumiSecret | SecretsManagerSecret] = []

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        self.asked.append(source)
        return super().value(source)


SECRET = "kubernetes:core/v1:Secret"


def program(source: AnySecretSource, given: SecretValues) -> Callable[[], None]:
    def build() -> None:
        provider = kubernetes.Provider("kubernetes", kubeconfig="{}")
        plan = SecretPlan(namespace="inference", name="token", key="value", source=source)
        declare_secret("token", plan, values=given, after=[provider])

    return build


def world(source: AnySecretSource) -> tuple[World, Remembering]:
    given = Remembering()
    return deploy(program(source, given)), given


def test_a_generated_value_is_secret_kept_and_never_the_same_twice() -> None:
    first, given = world(GeneratedSecret())
    record = first[SECRET, "token"]
    assert set(record.ignore_changes) == {"data", "stringData"}
    assert any("stringData" in path for path in record.secrets)
    assert given.asked == []
    second, _ = world(GeneratedSecret())
    assert record.inputs["stringData"]["value"] != second[SECRET, "token"].inputs["stringData"]["value"]


def test_given_values_follow_their_source() -> None:
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:hub-token-AbCdEf"
    for source in (
        PulumiSecret(kind="pulumi", name="hubToken"),
        SecretsManagerSecret(kind="secrets_manager", arn=arn),
    ):
        found, given = world(source)
        record = found[SECRET, "token"]
        assert record.inputs["stringData"] == {"value": f"given-{source.kind}"}
        assert any("stringData" in path for path in record.secrets), "not marked secret"
        assert record.ignore_changes == (), "a rotated secret would never arrive"
        assert given.asked == [source]


def test_nothing_is_made_where_somebody_else_puts_the_secret() -> None:
    found, given = world(KubernetesSecret(kind="kubernetes_secret", name="theirs", key="value"))
    assert found.of_type(SECRET) == ()
    assert given.asked == []


def test_a_generated_value_is_long_enough_to_not_be_guessed() -> None:
    found, _ = world(GeneratedSecret())
    assert len(found[SECRET, "token"].inputs["stringData"]["value"]) >= 43


def test_outputs_stay_secret_when_a_source_forgets_to_say_so() -> None:
    class Careless(GivenSecrets):
        def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
            return pulumi.Output.from_input("plain")

    found = deploy(program(PulumiSecret(kind="pulumi", name="hubToken"), Careless()))
    assert any("stringData" in path for path in found[SECRET, "token"].secrets)


class Typed(GivenSecrets):
    """What a user typed."""

    def __init__(self, text: str) -> None:
        self.text = text

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        return pulumi.Output.secret(self.text)


@pytest.mark.parametrize("text", ["p@ss/word", "trailing\n", 'quo"te', "dollar$"])
def test_a_password_that_a_url_would_cut_is_refused_and_not_shown(text: str) -> None:
    guarded = ForUrls(values=Typed(text), setting="kv_store")
    with pytest.raises(Exception, match=r"kv_store\.password has characters") as caught:
        deploy(program(PulumiSecret(kind="pulumi", name="storePassword"), guarded))
    assert text.strip() not in str(caught.value)


def test_a_password_that_a_url_carries_is_taken() -> None:
    guarded = ForUrls(values=Typed("A-Z_0.9~"), setting="kv_store")
    record = deploy(program(PulumiSecret(kind="pulumi", name="storePassword"), guarded))[SECRET, "token"]
    assert record.inputs["stringData"]["value"] == "A-Z_0.9~"
    assert any("stringData" in path for path in record.secrets)
