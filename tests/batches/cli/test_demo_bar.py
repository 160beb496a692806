"""The one bar of `manage.py demo`; the whole demo is tried in `tests/system/test_demo.py`."""

from batches.management.commands.demo import LOADING, RUNNING, SERVER, STOPPING, Bar


def test_it_moves_with_every_look_and_never_goes_back():
    seen = []
    bar = Bar(lambda words, done=None, facts="": seen.append(done))
    for step, part in (
        (SERVER, 0.5),
        (SERVER, 0),
        (LOADING, 0.9),
        (LOADING, 0),
        (LOADING, 0),
        (RUNNING, 1),
        (LOADING, 0),
    ):
        bar.at(step, "words", part)
    bar.at(STOPPING, "stopping")
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] < 1
    assert len({*seen[:6]}) == 6, "also where nothing new is known, it moves on"
    bar.end()
    assert seen[-1] == 1
