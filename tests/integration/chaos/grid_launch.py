"""`tests.integration.launch` with cells that are in no trouble of their own."""

from __future__ import annotations

import sys

from tests.integration import launch
from tests.orchestrator.fake import FakeWorkload

if __name__ == "__main__":
    sys.exit(launch.main(FakeWorkload()))
