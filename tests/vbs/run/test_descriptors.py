"""The limit of open files: in processes of their own, whose limits are low."""

import subprocess
import sys

import pytest

LOWERED = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"


def run(soft, hard, code):
    command = [sys.executable, "-c", LOWERED.format(soft=soft, hard=hard) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "reached", "warned"),
    [(256, 8192, 6000, 6000, False), (256, 1024, 6000, 1024, True), (5000, 8192, 4500, 5000, False)],
)
def test_the_soft_limit_goes_up_as_far_as_it_may(soft, hard, wanted, reached, warned):
    code = (
        "import logging; logging.basicConfig()\nfrom vbs.run import descriptors\n"
        f"print(descriptors.raise_limit({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.limit())"
    )
    done = run(soft, hard, code)
    assert done.stdout.strip() == f"{reached} ({reached}, {hard}) {reached}"
    assert ("ulimit -n" in done.stderr) == warned


def test_what_is_left_is_what_can_be_opened():
    code = """
from vbs.run import descriptors
left, opened = descriptors.left(), []
try:
    while True:
        opened.append(open("/dev/null"))
except OSError as error:
    print(left - len(opened), error.errno in descriptors.EXHAUSTED)
"""
    difference, known = run(128, 128, code).stdout.split()
    assert abs(int(difference)) <= 1
    assert known == "True"
