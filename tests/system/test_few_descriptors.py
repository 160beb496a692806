"""The whole of vbs where few files and connections may be open: what may be had is used, and what is not is said."""

import subprocess
import sys

import pytest

from tests.amount import few
from vbs.run.stack import BASE_DIR

# Started by hand with a low limit, as a service of the system is, and with a hard limit that cannot be raised.
RUN = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from tests.live import line, live

with live() as vbs:
    vbs.add_scripted("scripted", **{{"max-num-seqs": 1024, "latency-ms": {latency}}})
    lines = [f"{{n}}" for n in range(1500)]
    batch = vbs.run([line(one, one) for one in lines])
    assert batch.status == "completed", vbs.log(batch)
    good, bad = vbs.books(batch, lines)
    assert not bad, bad[0]
    print(vbs.log(batch))
"""


@pytest.mark.slow
@pytest.mark.parametrize("soft, hard, latency, told", few([(200, 300, 300, True), (1024, 8192, 5000, False)]))
def test_a_window_as_large_as_the_limit(soft, hard, latency, told):
    """Answers take so long that all of the window is in flight at once."""
    code = RUN.format(soft=soft, hard=hard, latency=latency)
    done = subprocess.run([sys.executable, "-c", code], cwd=BASE_DIR, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert ("requests run at once, not 1,280" in done.stdout) == told
