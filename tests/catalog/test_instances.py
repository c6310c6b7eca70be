"""Instances and GPUs against the answers of EC2 that moto ships, and against rules that hold for all of them."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from catalog import Catalog, load
from catalog.types import Instance

NAMES = sorted(load().instances)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_ec2(name: str, catalog: Catalog, ec2_types: dict[str, Any]) -> None:
    ours, theirs = catalog.instances[name], ec2_types[name]
    network = theirs["NetworkInfo"]
    card0 = network["NetworkCards"][0]
    disks = theirs.get("InstanceStorageInfo", {}).get("Disks", [])
    assert {
        "vcpus": ours.vcpus,
        "memory": ours.memory_gib * 1024,
        "cards": ours.network_cards,
        "efa": ours.efa_interfaces,
        "enis": ours.card0_enis,
        "addresses": ours.ipv4_per_eni,
        "nvme": (ours.nvme_gb_total, ours.nvme_disks),
        "usage": set(ours.usage_classes),
        "card 0": ours.card0_gbps,
        "architecture": ["x86_64"],
    } == {
        "vcpus": theirs["VCpuInfo"]["DefaultVCpus"],
        "memory": theirs["MemoryInfo"]["SizeInMiB"],
        "cards": len(network["NetworkCards"]),
        "efa": network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0),
        "enis": card0["MaximumNetworkInterfaces"],
        "addresses": network["Ipv4AddressesPerInterface"],
        "nvme": (sum(d["SizeInGB"] * d["Count"] for d in disks), sum(d["Count"] for d in disks)),
        "usage": set(theirs["SupportedUsageClasses"]),
        "card 0": card0["BaselineBandwidthInGbps"],
        "architecture": theirs["ProcessorInfo"]["SupportedArchitectures"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_gpus_are_those_of_ec2(name: str, catalog: Catalog, ec2_types: dict[str, Any]) -> None:
    ours = catalog.instances[name]
    theirs = ec2_types[name].get("GpuInfo", {}).get("Gpus", [])
    if ours.gpu is None:
        assert (ours.gpus, theirs) == (0, [])
        return
    (gpu,) = theirs
    assert (ours.gpus, catalog.gpus[ours.gpu].memory_mib) == (gpu["Count"], gpu["MemoryInfo"]["SizeInMiB"])
    words = set(re.findall(r"[A-Z]+[0-9]+[A-Z]*|6000", gpu["Name"]))
    assert words
    assert all(word in ours.gpu for word in words)


@pytest.mark.parametrize("name", NAMES)
def test_network_bandwidth_is_the_one_ec2_states(name: str, catalog: Catalog, ec2_types: dict[str, Any]) -> None:
    stated = ec2_types[name]["NetworkInfo"]["NetworkPerformance"]
    found = re.search(r"(?:(\d+)x )?([\d.]+) Gigabit", stated)
    assert found
    assert math.isclose(catalog.instances[name].network_gbps, int(found[1] or 1) * float(found[2]))


@pytest.mark.parametrize("name", NAMES)
def test_first_network_card_takes_efa_unless_it_is_marked(
    name: str, catalog: Catalog, ec2_types: dict[str, Any]
) -> None:
    ours = catalog.instances[name]
    kinds = [set(card["InterfaceTypes"]) for card in ec2_types[name]["NetworkInfo"]["NetworkCards"]]
    if ours.efa_interfaces:
        assert ours.card0_is_ena_only == ("efa" not in kinds[0])
        assert sum("efa" in kind for kind in kinds) == ours.efa_interfaces
    else:
        assert not ours.card0_is_ena_only
        assert not ours.gdr


@pytest.mark.parametrize("name", NAMES)
def test_max_pods_follows_from_the_addresses_of_card_0(name: str, catalog: Catalog) -> None:
    ours = catalog.instances[name]
    assert ours.max_pods == ours.card0_enis * (ours.ipv4_per_eni - 1) + 2


def expected_quota(instance: Instance) -> tuple[str, str]:
    match instance.family:
        case "p4d" | "p4de":
            return "L-417A185B", "L-7212CCBC"
        case family if family.startswith("p"):
            return "L-417A185B", "L-C4BD4855"
        case family if family.startswith("g"):
            return "L-DB2E81BA", "L-3819A6DF"
        case _:
            return "L-1216C47A", "L-34B43A08"


@pytest.mark.parametrize("name", NAMES)
def test_quota_codes_are_those_of_the_family(name: str, catalog: Catalog) -> None:
    ours = catalog.instances[name]
    assert (ours.quota_on_demand, ours.quota_spot) == expected_quota(ours)


def test_the_whole_gpu_fleet_is_listed(catalog: Catalog, ec2_types: dict[str, Any]) -> None:
    families = {"p4d", "p4de", "p5", "p5e", "p5en", "p6-b200", "p6-b300", "g7e", "g6e", "g6", "g5"}
    theirs = {name for name in ec2_types if name.partition(".")[0] in families}
    assert theirs <= set(NAMES)


def test_nvlink_joins_gpus_of_p_types_only(catalog: Catalog) -> None:
    linked = {i.name for i in catalog.instances.values() if i.nvlink}
    assert linked == {i.name for i in catalog.instances.values() if i.name.startswith("p") and i.gpus > 1}
    assert all(catalog.gpus[catalog.instances[name].gpu or ""].nvlink_gb_per_s > 0 for name in linked)


def test_gpudirect_is_where_aws_ofi_nccl_requires_it(catalog: Catalog) -> None:
    assert {i.name for i in catalog.instances.values() if i.gdr} == {
        *("p4d.24xlarge", "p4de.24xlarge", "p5.48xlarge", "p5e.48xlarge", "p5en.48xlarge"),
        *("p6-b200.48xlarge", "p6-b300.48xlarge", "g7e.12xlarge", "g7e.24xlarge", "g7e.48xlarge"),
    }


def test_only_b300_has_an_ena_only_first_card(catalog: Catalog) -> None:
    assert [i.name for i in catalog.instances.values() if i.card0_is_ena_only] == ["p6-b300.48xlarge"]


def test_capacity_blocks_are_sold_for_p_types_only(catalog: Catalog) -> None:
    assert all(i.capacity_blocks == i.name.startswith("p") for i in catalog.instances.values())


def test_fp8_units_come_with_compute_capability_8_9(catalog: Catalog) -> None:
    for gpu in catalog.gpus.values():
        capability = tuple(int(part) for part in gpu.compute_capability.split("."))
        assert gpu.fp8_hardware == (capability >= (8, 9)), gpu.name
        assert gpu.fp8_hardware == (gpu.fp8_tflops is not None), gpu.name
        if gpu.fp8_tflops is not None:
            assert 1.9 < gpu.fp8_tflops / gpu.bf16_tflops < 2.1, gpu.name
        if gpu.fp4_tflops is not None:
            assert capability >= (10, 0), gpu.name


def test_every_gpu_is_sold(catalog: Catalog) -> None:
    assert {i.gpu for i in catalog.instances.values()} - {None} == set(catalog.gpus)
