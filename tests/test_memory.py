"""What a process keeps of the memory it freed."""

import subprocess
import sys

MEASURE = """
import resource, sys
from paceline.processes.memory import keep_freed
if len(sys.argv) > 1:
    assert keep_freed(64 * 1024 * 1024)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    large = [bytearray(4_000_000) for _ in range(3)]
use()
before = faults()
for _ in range(20):
    use()
print(faults() - before)
"""


def faults(*arguments: str) -> int:
    """Pages that the system had to clear for the same large blocks again and again."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_blocks_that_are_freed_and_asked_for_again_cost_no_new_pages() -> None:
    assert faults("keep") * 10 < faults()
