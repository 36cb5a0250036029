from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# How often the system had to provide pages for ten rounds of eight blocks of 8 MiB, each round freed before the next.
FAULTS = """
import resource
import torch
from hrnet.allocator import keep_blocks
{call}
def use():
    blocks = [torch.full((1 << 21,), 1.0) for _ in range(8)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


FEW = 100


def faults(call: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_blocks_are_used_again() -> None:
    assert all(faults("keep_blocks()") < FEW for _ in range(2))
    # Without it the blocks stay now and then, where something else happens to lie behind them.
    assert any(faults("") > 10 * FEW for _ in range(6))
