"""A signal that ends a program is heard also where Python drops exceptions, and does not interrupt what it began.

Each program is a process of its own: the timer is pytest's here.
"""

import subprocess
import sys

import pytest

START = """
import io, os, signal, time
from vbs.run import interrupts

interrupts.AGAIN_SECONDS = 0.1

class Unclosed(io.RawIOBase):
    def close(self):
        if not self.closed:
            os.kill(os.getpid(), signal.SIGINT)
        super().close()

def wait(seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
"""


def output(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return [*done.stdout.split(), str(done.returncode)]


def test_python_drops_what_the_finaliser_of_a_file_raises() -> None:
    """If this fails, Python has changed, and the repetition may not be needed any more."""
    program = """
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Unclosed()
    wait(0.3)
    print("dropped")
except KeyboardInterrupt:
    print("heard")
"""
    assert output(program) == ["dropped", "0"]


def test_it_is_heard_nevertheless() -> None:
    program = """
interrupts.listen()
try:
    Unclosed()
    print("dropped")
    wait()
except KeyboardInterrupt:
    interrupts.ignore()
    print("heard")
"""
    assert output(program) == ["dropped", "heard", "0"]


def test_who_swallows_it_gets_it_again_until_it_is_ignored() -> None:
    program = """
interrupts.listen()
for words in ("first", "second", "third"):
    try:
        if words == "first":
            os.kill(os.getpid(), signal.SIGHUP)
        wait()
    except KeyboardInterrupt:
        print(words)
try:
    wait()
except KeyboardInterrupt:
    interrupts.ignore()
for number in interrupts.SIGNALS:
    os.kill(os.getpid(), number)
wait(3 * interrupts.AGAIN_SECONDS)
print("quiet")
"""
    assert output(program) == ["first", "second", "third", "quiet", "0"]


@pytest.mark.parametrize("clause", ["except BaseException", "finally"])
def test_what_is_done_because_of_it_is_not_interrupted(clause: str) -> None:
    program = f"""
interrupts.listen()

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    {clause}:
        print("stopping")
        os.kill(os.getpid(), signal.SIGINT)
        wait(3 * interrupts.AGAIN_SECONDS)
        print("stopped")
        {"raise" if "except" in clause else ""}

try:
    work()
except KeyboardInterrupt:
    interrupts.ignore()
"""
    assert output(program) == ["stopping", "stopped", "0"]


def test_a_stop_that_hangs_can_be_interrupted_by_another_signal() -> None:
    program = """
interrupts.PATIENCE_SECONDS = 0.3
interrupts.listen()
try:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    finally:
        wait(0.6)
        print("stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
        print("deaf")
except KeyboardInterrupt:
    interrupts.ignore()
"""
    assert output(program) == ["stopping", "0"]


def test_its_status_is_that_of_the_signal_also_when_it_is_raised_again() -> None:
    program = """
interrupts.listen((signal.SIGINT,), lambda number: interrupts.Ended(128 + number))
Unclosed()
wait()
"""
    assert output(program) == ["130"]
