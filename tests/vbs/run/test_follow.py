from pathlib import Path

from vbs.run.follow import LINE_BYTES, LogFollower


def test_only_what_is_new_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    tail = LogFollower(path)
    with path.open("a") as log:
        log.write("one\ntw")
    assert list(tail.lines()) == ["one"]
    with path.open("a") as log:
        log.write("o\n")
    assert list(tail.lines()) == ["two"]
    assert list(tail.lines()) == []


def test_a_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    tail = LogFollower(tmp_path / "log")
    assert list(tail.lines()) == []
    (tmp_path / "log").write_text("first\n")
    assert list(tail.lines()) == ["first"]


def test_nothing_is_lost_in_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    tail = LogFollower(path)
    with path.open("a") as log:
        log.write("last of the old\n")
    path.rename(tmp_path / "log.1")
    assert list(tail.lines()) == ["last of the old"]
    path.write_text("first of the new\n")
    assert list(tail.lines()) == ["first of the new"]


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a long line that was here before\n")
    tail = LogFollower(path)
    path.write_text("new\n")
    assert list(tail.lines()) == ["new"]


def test_a_line_without_end_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    tail = LogFollower(path)
    path.write_bytes(b"\xff" * (3 * LINE_BYTES) + b"\n")
    assert sum(map(len, tail.lines())) == 3 * LINE_BYTES
