"""The embedded server, for real: whatever a crash has left, the next start works and nothing committed is gone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from vbs.run import postgres, processes

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data() -> Iterator[Path]:
    """Not tmp_path: a socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-pg-"))
    folder.chmod(0o711)
    yield folder
    postgres.stop(folder)
    shutil.rmtree(folder)


def connect(data: Path) -> psycopg.Connection:
    return psycopg.connect(host=str(postgres.data_dir(data)), user="postgres", dbname="postgres", autocommit=True)


def remember(data: Path) -> None:
    with connect(data) as connection:
        connection.execute("create table if not exists kept as select 42 as answer")


def remembers(data: Path) -> bool:
    with connect(data) as connection:
        return connection.execute("select answer from kept").fetchone() == (42,)


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def kill(pid: int, after: float = 0) -> None:
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes.alive(pid))


def leave_pid_file(data: Path, text: str) -> None:
    """As a power cut would, when the pid now belongs to somebody else."""
    for name in ("postmaster.pid", f".s.PGSQL.{postgres.PORT}.lock"):
        path = postgres.data_dir(data) / name
        path.write_text(text)
        shutil.chown(path, postgres.data_dir(data).stat().st_uid, postgres.data_dir(data).stat().st_gid)


def test_start_is_shared_and_stop_is_clean(data: Path) -> None:
    with ThreadPoolExecutor() as pool:
        pids = set(pool.map(lambda _: postgres.start(data), range(4)))
    assert pids == {postgres.running(data)}
    remember(data)
    postgres.stop(data)
    postgres.stop(data)
    assert postgres.running(data) is None
    assert not postgres.pids(data)
    postgres.start(data)
    assert remembers(data)
    assert "recovery" not in (postgres.data_dir(data) / "log").read_text()


def test_what_is_committed_is_on_disk_and_the_order_of_text_is_the_same_everywhere(data: Path) -> None:
    postgres.start(data)
    with connect(data) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert connection.execute("select current_setting(%s)", [setting]).fetchone() == ("on",)
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("select 'a' < 'B'").fetchone() == (False,)


def test_the_folder_is_closed_to_others_and_nothing_listens_on_the_network(data: Path) -> None:
    pid = postgres.start(data)
    assert postgres.data_dir(data).stat().st_mode & 0o077 == 0
    assert not [line for line in psutil.net_connections("inet") if line.pid == pid]


@pytest.mark.parametrize(
    "text",
    ["", "12", "not a pid\n", "{other}\n/elsewhere\n1\n5432\n/elsewhere\n\n  1 1\nready   \n", "{other}\n/el"],
    ids=["empty", "half a pid", "rubbish", "another program's pid", "half, another program's"],
)
def test_a_pid_file_that_a_power_cut_left(data: Path, text: str) -> None:
    pid = postgres.start(data)
    remember(data)
    kill(pid)
    other = subprocess.Popen(["sleep", "60"], user=postgres.data_dir(data).stat().st_uid if os.getuid() == 0 else None)
    try:
        leave_pid_file(data, text.format(other=other.pid))
        assert postgres.running(data) is None
        postgres.start(data)
        assert remembers(data)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_killed_with_backends_still_at_work(data: Path) -> None:
    pid = postgres.start(data)
    remember(data)
    with ThreadPoolExecutor() as pool, connect(data) as connection:
        # A backend that counts looks up only when it has finished, and holds the shared memory until then.
        query = "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b"
        counting = pool.submit(connection.execute, query)
        time.sleep(0.5)
        kill(pid)
        try:
            assert postgres.pids(data)
            assert postgres.start(data) != pid
            assert remembers(data)
            with pytest.raises(psycopg.OperationalError):
                counting.result()
        finally:
            postgres.stop(data)


def test_an_interrupted_initdb_is_thrown_away(data: Path) -> None:
    half = data / "postgres.new-half"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    postgres.start(data)
    assert not list(data.glob("postgres.new-*"))


def test_a_folder_with_something_else_in_it_is_left_alone(data: Path) -> None:
    postgres.data_dir(data).mkdir()
    (postgres.data_dir(data) / "thesis.odt").touch()
    with pytest.raises(postgres.PostgresError, match="move it out of the way"):
        postgres.start(data)
    assert (postgres.data_dir(data) / "thesis.odt").exists()


def test_a_start_that_fails_says_why(data: Path) -> None:
    postgres.start(data)
    postgres.stop(data)
    with (postgres.data_dir(data) / "postgresql.conf").open("a") as config:
        config.write("max_connections = many\n")
    with pytest.raises(postgres.PostgresError, match='invalid value for parameter "max_connections"'):
        postgres.start(data)


@pytest.mark.parametrize(("name", "message"), [("x" * 90, "107"), ("a,b", "comma")])
def test_a_path_that_cannot_work_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(postgres.PostgresError, match=message):
        postgres.start(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_longest_path_that_works() -> None:
    base = tempfile.mkdtemp(prefix="vbs-pg-")
    room = postgres.SOCKET_PATH_BYTES - len(f"{base}//postgres/.s.PGSQL.{postgres.PORT}")
    data = Path(base, "x" * room)
    try:
        with postgres.in_use(data):
            remember(data)
    finally:
        shutil.rmtree(base)


def hold(data: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its standard input ends."""
    code = f"""
import sys
from pathlib import Path
from vbs.run import postgres
with postgres.in_use(Path({str(data)!r})) as pid:
    print(pid, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert int(process.stdout.readline()) == postgres.running(data)
    return process


def let_go(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_the_last_user_stops_the_server(data: Path) -> None:
    first, second = hold(data), hold(data)
    let_go(first)
    assert postgres.running(data)
    let_go(second)
    assert postgres.running(data) is None


def test_a_killed_user_counts_no_more(data: Path) -> None:
    killed, other = hold(data), hold(data)
    killed.kill()
    killed.communicate()
    assert postgres.running(data)
    let_go(other)
    assert postgres.running(data) is None


def manage(data: Path, *words: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "VBS_INSTANCE")}
    return subprocess.Popen(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=environment | {"VBS_DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "vbs.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_command_that_needs_the_database_gets_one_for_its_time(data: Path) -> None:
    code = "from django.db import connection as c; c.ensure_connection(); print('connected')"
    output, _ = manage(data, "shell", "-c", code).communicate(timeout=60)
    assert "connected" in output
    assert postgres.running(data) is None


def test_a_command_that_is_terminated_stops_it_too(data: Path) -> None:
    command = manage(data, "shell", "-c", "print('ready', flush=True); import time; time.sleep(60)")
    assert command.stdout
    while "ready" not in command.stdout.readline():
        assert command.poll() is None
    assert postgres.running(data)
    command.terminate()
    command.communicate(timeout=20)
    assert command.returncode == 128 + signal.SIGTERM
    assert postgres.running(data) is None


@pytest.mark.parametrize("words", [["version"], ["help", "migrate"], ["migrate", "--help"], []])
def test_a_command_that_needs_none_starts_none(data: Path, words: list[str]) -> None:
    manage(data, *words).communicate(timeout=60)
    assert not postgres.data_dir(data).exists()


def serve(data: Path) -> subprocess.Popen[str]:
    process = manage(data, "postgres")
    assert process.stdout
    first_line = process.stdout.readline()
    assert f"PostgreSQL runs with pid {postgres.running(data)} " in first_line
    return process


def rest(process: subprocess.Popen[str]) -> str:
    """What it still prints until it ends; communicate() would miss what readline() has read ahead."""
    assert process.stdout
    output = process.stdout.read()
    process.wait(timeout=20)
    return output


def test_serve_stops_the_server_when_told_to(data: Path) -> None:
    process = serve(data)
    process.terminate()
    output = rest(process)
    assert process.returncode == 0
    assert "database system is ready to accept connections" in output
    assert postgres.running(data) is None


def test_serve_ends_when_the_server_dies(data: Path) -> None:
    process = serve(data)
    pid = postgres.running(data)
    assert pid
    kill(pid)
    output = rest(process)
    assert process.returncode == 1
    assert f"PostgreSQL (pid {pid}) has died" in output


def test_serve_takes_over_the_server_of_a_killed_one(data: Path) -> None:
    killed = serve(data)
    pid = postgres.running(data)
    killed.kill()
    killed.communicate()
    assert postgres.running(data) == pid
    process = serve(data)
    assert postgres.running(data) == pid
    process.terminate()
    process.communicate(timeout=20)
    assert postgres.running(data) is None


def test_a_user_that_leaves_does_not_stop_what_is_served(data: Path) -> None:
    process = serve(data)
    let_go(hold(data))
    assert postgres.running(data)
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.many
def test_killed_again_and_again(data: Path) -> None:
    """Every row that was committed is there, whenever the kill came."""
    postgres.start(data)
    with connect(data) as connection:
        connection.execute("create table counted (number int)")
    committed = 0
    for _ in range(25):
        pid = postgres.start(data)
        with ThreadPoolExecutor() as pool, connect(data) as connection:
            pool.submit(kill, pid, after=random.random() * 0.3)
            with pytest.raises(psycopg.OperationalError):
                while True:
                    connection.execute("insert into counted values (%s)", [committed + 1])
                    committed += 1
        postgres.start(data)
        with connect(data) as connection:
            row = connection.execute("select count(*), max(number) from counted").fetchone()
            assert row is not None
            assert row[0] in (committed, committed + 1)  # the last may have been committed unheard
            committed = row[0]
