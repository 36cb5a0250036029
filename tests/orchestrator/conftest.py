"""Fixtures of the platform's tests: storage in a folder and behind a real S3 API on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from orchestrator.storage import Storage
from tests.orchestrator.s3 import AtomicS3


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 API on a free port of loopback."""
    server = AtomicS3()
    yield server.endpoint
    server.stop()


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The AWS environment points to the loopback server; returns the name of a new bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture
def s3_storage(s3_environment: str) -> Storage:
    return Storage(f"s3://{s3_environment}/some/prefix")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage of either kind, empty."""
    if request.param == "local":
        return Storage(str(tmp_path / "storage"))
    made: Storage = request.getfixturevalue("s3_storage")
    return made
