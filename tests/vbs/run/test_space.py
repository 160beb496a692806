"""The space on a disk: one rule for whether something fits, and the same words wherever none is left."""

import errno
import os

import pytest

from batches.run import temporary_errors
from models_registry.hub import download_run
from vbs.openai import errors
from vbs.run import space
from vbs.run.space import RESERVE, Space
from vbs.web import refusal

GIB = 2**30


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_is_told_in_the_same_words_everywhere(number):
    error = OSError(number, os.strerror(number), "/some/folder/file")
    at_the_door, of_a_view = refusal.out_of_resources(error), errors.refusal(error, None)
    assert (at_the_door.status, at_the_door.code) == (of_a_view.status_code, of_a_view.code) == (507, "storage_full")
    assert at_the_door.message == of_a_view.message == space.REFUSAL
    assert temporary_errors.describe(error) == space.WORDS and space.WORDS in download_run._disk_error(error)


@pytest.mark.parametrize("error", [None, ValueError(errno.ENOSPC), OSError(errno.EACCES, "no"), OSError("no number")])
def test_what_says_nothing_of_the_space(error):
    assert not space.is_full(error) and refusal.out_of_resources(error) is None


def test_what_fits_leaves_the_reserve_free():
    assert space.fits(GIB, GIB + RESERVE) and not space.fits(GIB + 1, GIB + RESERVE)


@pytest.mark.parametrize(
    "free, total, full, low",
    [
        (RESERVE, 2 * GIB, False, False),
        (RESERVE - 1, 2 * GIB, True, True),
        (9 * GIB, 50 * GIB, False, False),
        (9 * GIB, 100 * GIB, False, True),
        (10 * GIB, 1000 * GIB, False, False),
    ],
)
def test_full_and_low(free, total, full, low):
    assert (Space(free, total).is_full, Space(free, total).is_low) == (full, low)


def test_the_space_of_a_folder(tmp_path):
    found = space.of(tmp_path)
    assert 0 < found.free <= found.total
    with pytest.raises(FileNotFoundError):
        space.of(tmp_path / "gone")
