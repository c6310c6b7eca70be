"""The EC2 data that the catalog is checked against: what moto answers to DescribeInstanceTypes."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from moto import mock_aws

from catalog import Catalog, load


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load()


@pytest.fixture(scope="session")
def ec2_types() -> dict[str, Any]:
    with mock_aws():
        client = boto3.client("ec2", "us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")
        pages = client.get_paginator("describe_instance_types").paginate()
        return {entry["InstanceType"]: entry for page in pages for entry in page["InstanceTypes"]}
