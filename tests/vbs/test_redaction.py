"""What is said to those who may not know where things are."""

import pytest

from vbs.redaction import hide_locations


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("there is no folder /srv/models/tiny. Add it again.", "there is no folder …. Add it again."),
        ("OSError: '/srv/models/tiny' has no config.json", "OSError: '…' has no config.json"),
        ("[Errno 13] Permission denied: '/etc/vbs/key.pem'", "[Errno 13] Permission denied: '…'"),
        ("the server at http://10.1.2.3:8000/v1 is away", "the server at … is away"),
        ("https://user@box.lan/v1, which is away", "…, which is away"),
        ("box.lan is at 10.1.2.3, which is not public", "box.lan is at …, which is not public"),
        ("Cannot connect to box.lan:8000 or [fe80::1]:80 or localhost:81", "Cannot connect to … or … or …"),
        ("s3://bucket/key and ~/vbs and ../up/file", "… and … and …"),
        ("the URL does not match '/v1/chat/completions', 12 tokens/s, and/or 3/4", None),
        ("std::bad_alloc at 12:30: lower max-model-len (8192) of </s>", None),
    ],
)
def test_places_are_hidden_and_nothing_else(text, said):
    assert hide_locations(text) == (text if said is None else said)
    assert hide_locations(hide_locations(text)) == hide_locations(text)
