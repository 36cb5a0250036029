"""The S3 API of the site as a process of its machine: `python -m tests.integration.hosts.storehouse ADDRESS PORT`."""

from __future__ import annotations

import signal
import sys

from tests.orchestrator.s3 import AtomicS3

if __name__ == "__main__":
    AtomicS3(int(sys.argv[2]), host=sys.argv[1])
    signal.pause()
