"""How some processes share the tests: what uses one started system stays together, and what takes longest begins first.

A module is one share, unless its folder has a system that all of its modules use.
"""

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/contract/", "tests/browser/", "tests/vbs/web/")
# The real vLLM takes the machine's memory and both of its cores: there is one of it, in one process.
LONGEST_FIRST = ("tests/e2e/test_real_vllm.py", "tests/system/test_kills.py", *TOGETHER, "tests/system/test_demo.py")


def share_of(nodeid: str) -> str:
    return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """The longest, then whatever has a slow test, so that what ends last is short."""
    rank = {share_of(item.nodeid): len(LONGEST_FIRST) for item in items if item.get_closest_marker("slow")}
    rank |= {share: number for number, share in enumerate(LONGEST_FIRST)}
    return sorted(items, key=lambda item: rank.get(share_of(item.nodeid), len(LONGEST_FIRST) + 1))


class ByStartedSystem(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
