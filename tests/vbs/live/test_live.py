"""Changes reach the browsers that look at them: told by the database, carried by the layer, rendered once, pushed."""

import asyncio
import json
import os
import re
import signal
import time
from datetime import timedelta
from functools import partial
from itertools import count

import aiohttp
import msgpack
import psycopg
import pytest
from channels_postgres.models import GroupChannel, Message
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import QueryDict
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone

from batches.models import Batch, Pause
from models_registry.models import Alias, Model, Worker
from tests.live import live as started
from vbs.configuration.models import Override
from vbs.live import socket as sockets_of_pages
from vbs.live import topics, updates
from vbs.live.pages import Page
from vbs.live.updates import LiveHub, Room
from vbs.pages import parts
from vbs.pages.parts import Part, rendered, whole
from vbs.pages.viewer import Viewer

BODY = re.compile(r'name="seen" value="([^"]+)"')


# What is told


@pytest.fixture
def told(db):
    """The topics that were told since it was last asked."""
    GroupChannel.objects.create(group_key="asgi:group:live", channel="here", expire=timezone.now() + timedelta(hours=1))

    def told():
        rows = list(Message.objects.filter(channel="here").order_by("id"))
        Message.objects.all().delete()
        return {msgpack.unpackb(bytes(row.message))["topic"] for row in rows}

    return told


def batch(project):
    return Batch.objects.create(
        project=project, input_file_id_given="file-1", endpoint="/v1/embeddings", completion_window="24h",
        expires_at=timezone.now() + timedelta(days=1),
    )  # fmt: skip


def test_every_statement_that_changes_a_batch_is_told(told, project):
    one = batch(project)
    assert told() == {"batches", f"batch:{one.pk}"}
    Batch.objects.filter(pk=one.pk).update(completed=1)
    assert told() == {"batches", f"batch:{one.pk}"}
    one.note("A line of its log.")
    assert told() == {f"batch:{one.pk}"}
    name = one.pk
    one.delete()
    assert told() == {"batches", f"batch:{name}"}


def test_what_else_is_told(told):
    model = Model.objects.create(name="one", kind="scripted")
    assert told() == {"models"}
    Alias.objects.create(name="other", model=model)
    assert told() == {"models"}
    Worker.objects.create(cluster="gpu", hostname="here", pid=1).set(activity="busy")
    assert told() == {"workers"}
    Pause.objects.create()
    assert told() == {"batches"}
    Override.objects.create(name="X", value=1)
    assert told() == {"settings"}


def test_a_topic_of_any_length_and_alphabet_is_carried(told, project):
    one = batch(project)
    Batch.objects.filter(pk=one.pk).update(id="ü" * 40)
    assert f"batch:{'ü' * 40}" in told()


def test_nobody_listens_and_nothing_is_kept(db, project):
    GroupChannel.objects.create(group_key="asgi:group:live", channel="dead", expire=timezone.now() - timedelta(hours=1))
    batch(project)
    assert not Message.objects.exists()


def test_what_the_layer_leaves_behind_is_swept_away(db):
    for hours in (-1, 1):
        expire = timezone.now() + timedelta(hours=hours)
        GroupChannel.objects.create(group_key="asgi:group:live", channel=f"{hours}", expire=expire)
        Message.objects.create(channel="any", message=b"", expire=expire)
    topics.sweep()
    assert [one.channel for one in GroupChannel.objects.all()] == ["1"] and Message.objects.count() == 1


# Rooms


class Browser:
    def __init__(self, admitted=None):
        self.seen = {}
        self.admitted = admitted


def shown(viewer, query):
    """Two parts."""
    return {name: Part(name, "_pulse.html", {"url": f"/{name}", "every": 5}) for name in ("other", "pulse")}


VIEWER = Viewer(frozenset(), None)


def test_what_many_look_at_is_built_once_and_each_gets_what_is_new_to_them(monkeypatch):
    built, drawn = count(), count()

    def build(viewer, query):
        next(built)
        return shown(viewer, query)

    other, pulse = rendered(shown(VIEWER, None).values(), VIEWER)
    monkeypatch.setattr(parts, "render_to_string", lambda *given: (next(drawn), render_to_string(*given))[1])
    room = Room(Page(build, lambda: ()), VIEWER, QueryDict(), {})
    nothing, half, everything = Browser(), Browser(), Browser()
    half.seen = {"other": other.seen}
    everything.seen = {mark.rpartition(":")[0]: mark for mark in whole([other, pulse])}
    news = room.build([nothing, half, everything, Browser()])
    assert (next(built), next(drawn)) == (1, 2)
    assert [sorted(one.marks) for one in news] == [["other", "pulse"], ["pulse"], [], ["other", "pulse"]]
    both = [other.seen, pulse.seen]
    assert [BODY.findall(one.html) for one in news] == [both, [pulse.seen], [], both]
    assert news[2].html == ""


def test_a_room_is_for_those_who_see_the_same():
    page = Page(lambda viewer, query: {}, lambda: ("batches",))

    async def rooms():
        hub = LiveHub()
        hub._start = lambda work: work.close()
        one = hub.join(Browser(), Room(page, VIEWER, QueryDict("a=1"), {}))
        same = hub.join(Browser(), Room(page, Viewer(frozenset(), None), QueryDict("a=1"), {}))
        looks = [(VIEWER, "a=2"), (Viewer(frozenset({"x.y"}), None), "a=1"), (Viewer(frozenset(), None, 3), "a=1")]
        others = [hub.join(Browser(), Room(page, viewer, QueryDict(query), {})) for viewer, query in looks]
        assert one is same and one not in others and len(hub.rooms) == 4
        for socket in list(one.sockets):
            hub.leave(socket, one)
        assert len(hub.rooms) == 3

    asyncio.run(rooms())


def test_one_person_is_in_so_many_rooms():
    """Each costs a rendering with every change; who opens the same page twice is in one of them."""
    page = Page(lambda viewer, query: {}, lambda: ("batches",))

    async def look():
        hub = LiveHub()
        hub._start = lambda work: work.close()

        def join(user, query):
            return hub.join(browser := Browser(user), Room(page, VIEWER, QueryDict(query), {})), browser

        mine = [join("ada", f"a={n}") for n in range(updates.MOST_ROOMS_OF_ONE + 5)]
        assert [room is not None for room, _ in mine] == [True] * updates.MOST_ROOMS_OF_ONE + [False] * 5
        assert join("ada", "a=1")[0] is mine[1][0] and join("bob", "b=1")[0]
        assert join("ada", "b=1")[0], "that room is there already"
        for room, browser in mine[2:5]:
            hub.leave(browser, room)
        assert join("ada", "a=2")[0]

    asyncio.run(look())


def test_a_change_is_due_at_once_and_a_flood_of_them_has_to_wait():
    page = Page(lambda viewer, query: {}, lambda: ("batches",))

    async def due():
        hub, now = LiveHub(), asyncio.get_running_loop().time()
        room = Room(page, VIEWER, QueryDict(), {}, due=now + 5, renewed=now - 60)
        hub.rooms["it"] = room
        hub.tell("models")
        assert room.due == now + 5
        hub.tell("batches")
        assert room.due <= asyncio.get_running_loop().time()
        room.due, room.renewed = now + 5, now
        hub.tell("batches")
        assert room.due == pytest.approx(now + updates.REST_SECONDS, abs=0.05)

    asyncio.run(due())


# Who may look


def test_whoever_may_not_look_any_more_is_found_out(db):
    session = SessionStore()
    user = User.objects.create_user("somebody")
    client = Client()
    client.force_login(user)
    session = client.session
    socket = sockets_of_pages.LiveSocket(shown=Page(lambda viewer, query: {}, lambda: ()))
    socket.scope = {"session": session}
    assert socket._look() is not None
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert socket._look() is None
    User.objects.filter(pk=user.pk).update(is_active=True)
    secret = sockets_of_pages.LiveSocket(shown=Page(lambda viewer, query: {}, lambda: (), permission="auth.view_user"))
    secret.scope = {"session": session}
    assert secret._look() is None
    user.set_password("another")
    user.save()
    assert socket._look() is None, "whoever signed in with the old password is out"
    client.force_login(user)
    socket.scope = {"session": client.session}
    assert socket._look() is not None
    client.logout()
    assert socket._look() is None


def test_there_is_room_for_so_many(monkeypatch):
    monkeypatch.setattr(updates, "MOST_SOCKETS", 3)
    monkeypatch.setattr(updates, "MOST_OF_ONE", 2)

    async def admitted():
        hub = LiveHub()
        assert [hub.admit(user) for user in ("ada", "ada", "ada", "bob", "eve")] == [True, True, False, True, False]
        hub.dismiss("ada")
        assert hub.admit("eve") and not hub.admit("bob")
        for user in ("ada", "bob", "eve"):
            hub.dismiss(user)
        assert not hub.open

    asyncio.run(admitted())


# The whole way


@pytest.fixture(scope="module")
def vbs():
    with started(DJANGO_SUPERUSER_PASSWORD="of the tests") as running:
        running.manage("createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
        yield running


@pytest.fixture(scope="module")
def cookie(vbs):
    script = (
        "from django.test import Client; from django.contrib.auth.models import User; c = Client();"
        "c.force_login(User.objects.get()); print('key', c.session.session_key)"
    )
    return vbs.manage("shell", "-v0", "-c", script).split()[-1]


def talk(vbs, conversation, cookie="", origin="", path="/models/live"):
    """Run `conversation(socket)` on a page's socket."""

    async def run():
        headers = {"Origin": origin or vbs.stack.url} | ({"Cookie": f"sessionid={cookie}"} if cookie else {})
        url = vbs.stack.url + path
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as socket:
            return await conversation(socket)

    return asyncio.run(run())


def change(vbs, statement, *values):
    folder = vbs.stack.data / "postgres"
    with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(statement, values)


ADD = (
    "INSERT INTO models_registry_model (name, kind, source, task, engine_args, remote_name, revision, state, reason, "
    "hub_id, hub_revision, hub_file, license, notes, trust_remote_code, allow_pickle, private_address) "
    "VALUES (%s, 'scripted', '', 'chat', '{}', '', '', 'ready', '', '', '', '', '', '', false, false, false)"
)


def test_a_commit_of_anybody_reaches_the_browser(vbs, cookie):
    async def conversation(socket):
        await socket.send_str(json.dumps({"seen": []}))
        first = (await socket.receive(30)).data
        await asyncio.to_thread(change, vbs, ADD, "from-outside")
        while "from-outside" not in (news := (await socket.receive(30)).data):
            pass
        return first, news

    first, news = talk(vbs, conversation, cookie)
    assert 'id="table"' in first and "from-outside" not in first
    assert "<table" in news and 'id="machines"' not in news  # which has not changed
    assert set(re.findall(r'csrfmiddlewaretoken" value="([^"]*)"', news)) == {""}, "nobody's token is sent to others"


def test_who_has_seen_it_all_is_sent_nothing_old(vbs, cookie):
    async def whole(socket):
        await socket.send_str(json.dumps({"seen": []}))
        return (await socket.receive(30)).data

    seen = BODY.findall(talk(vbs, whole, cookie))

    async def again(socket):
        await socket.send_str(json.dumps({"seen": seen}))
        await asyncio.to_thread(change, vbs, "UPDATE models_registry_model SET notes = 'x'")
        try:
            return (await socket.receive(7)).data
        except TimeoutError:
            return ""

    assert 'id="table"' not in talk(vbs, again, cookie)


def test_who_says_too_much_is_out_and_nobody_else_notices(vbs, cookie):
    """A page of ours says one thing. Whoever goes on, in messages, pings or pieces, is closed at once."""

    async def flood(socket, say):
        await socket.send_str(json.dumps({"seen": []}))
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                for _ in range(100):
                    await say(socket)
                await asyncio.sleep(0)
        except (ConnectionError, aiohttp.ClientError):
            pass
        while not socket.closed and (await socket.receive(10)).type == aiohttp.WSMsgType.TEXT:
            pass
        return socket.close_code, time.monotonic() - began

    word = aiohttp.ClientWebSocketResponse
    for say, text in ((word.send_str, "x"), (word.ping, b"x"), (word.pong, b"x")):
        say = partial(lambda say, text, socket: say(socket, text), say, text)
        code, seconds = talk(vbs, partial(flood, say=say), cookie)
        assert code in (4429, 1006) and seconds < 5
        began = time.monotonic()
        assert vbs.http.get("/models").status_code == 200 and time.monotonic() - began < 3


def test_who_looks_at_too_much_asks_every_few_seconds(vbs, cookie):
    async def look():
        headers = {"Origin": vbs.stack.url, "Cookie": f"sessionid={cookie}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            sockets = []
            for number in range(updates.MOST_ROOMS_OF_ONE + 3):
                socket = await session.ws_connect(f"{vbs.stack.url}/models/live?n={number}")
                await socket.send_str(json.dumps({"seen": []}))
                sockets.append(socket)
            kinds = [(await socket.receive(30)).type for socket in sockets]
            codes = [socket.close_code for socket in sockets[updates.MOST_ROOMS_OF_ONE :]]
            for socket in sockets:
                await socket.close()
            return kinds, codes

    kinds, codes = asyncio.run(look())
    assert kinds[: updates.MOST_ROOMS_OF_ONE] == [aiohttp.WSMsgType.TEXT] * updates.MOST_ROOMS_OF_ONE
    assert codes == [sockets_of_pages.TOO_MANY] * 3


DEEP = '{"seen": ' + "[" * 100_000
WORDS = ["no json", "[]", '{"seen": 7}', '{"seen": [7]}', "{}", DEEP, '{"seen": [null]}', "\0", ""]


@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
def test_a_word_that_is_not_understood_ends_it(vbs, cookie, word):
    async def conversation(socket):
        await socket.send_str(word)
        await socket.receive(30)
        return socket.close_code

    assert talk(vbs, conversation, cookie) == 4400


def test_a_word_that_is_too_long_ends_it(vbs, cookie):
    async def conversation(socket):
        await socket.send_str(json.dumps({"seen": ["x" * 100] * 20_000}))
        await socket.receive(30)
        return socket.close_code

    assert talk(vbs, conversation, cookie) in (1006, 1009)
    assert vbs.http.get("/models").status_code == 200


async def nothing(socket):
    pass


@pytest.mark.parametrize(
    ("cookie_of", "origin", "path"),
    [
        ("", "", "/models/live"),
        ("root", "http://evil.example", "/models/live"),
        ("root", "http://127.0.0.1", "/models/live"),  # the machine's other servers
        ("root", "http://127.0.0.1:1", "/models/live"),
        ("root", "https", "/models/live"),
        ("root", "null", "/models/live"),
        ("root", "", "/nowhere/live"),
    ],
)
def test_who_is_refused(vbs, cookie, cookie_of, origin, path):
    origin = vbs.stack.url.replace("http", origin) if origin == "https" else origin
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        talk(vbs, nothing, cookie if cookie_of else "", origin, path)
    assert refused.value.status == 403


def test_what_is_gone_ends_it(vbs, cookie):
    async def conversation(socket):
        await socket.send_str(json.dumps({"seen": []}))
        await socket.receive(30)
        return socket.close_code

    assert talk(vbs, conversation, cookie, path="/models/987654/live") == 4404


@pytest.mark.slow
def test_it_goes_on_after_the_database_was_away(vbs, cookie):
    async def conversation(socket):
        await socket.send_str(json.dumps({"seen": []}))
        await socket.receive(30)
        pid = vbs.pids()["postmaster"]
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(insist, vbs, ADD, "after the fall")
        while "after the fall" not in (await socket.receive(60)).data:
            pass
        # Heard of again, not only looked for every few seconds.
        await asyncio.sleep(20)
        for n in range(5):
            await asyncio.to_thread(change, vbs, "UPDATE models_registry_model SET size_bytes = %s", (n + 1) * 2**30)
            began = asyncio.get_running_loop().time()
            while f"{n + 1}.0 GiB" not in (await socket.receive(30)).data:
                pass
            times.append(asyncio.get_running_loop().time() - began)

    times = []
    talk(vbs, conversation, cookie)
    assert sorted(times)[1] < updates.ALONE_SECONDS / 2, times


def insist(vbs, statement, *values):
    for _ in range(100):
        try:
            return change(vbs, statement, *values)
        except psycopg.OperationalError:
            time.sleep(0.5)


def test_who_signs_out_is_out_at_once(vbs):
    user = "walker"
    vbs.manage("create_user", user, "--role", "viewer")
    script = (
        "from django.test import Client; from django.contrib.auth.models import User; c = Client();"
        f"c.force_login(User.objects.get(username='{user}')); print('key', c.session.session_key)"
    )
    key = vbs.manage("shell", "-v0", "-c", script).split()[-1]

    async def conversation(socket):
        await socket.send_str(json.dumps({"seen": []}))
        await socket.receive(30)
        await asyncio.to_thread(change, vbs, "DELETE FROM django_session WHERE session_key = %s", key)
        began = time.monotonic()
        while (await socket.receive(30)).type == aiohttp.WSMsgType.TEXT:
            pass
        return socket.close_code, time.monotonic() - began

    code, seconds = talk(vbs, conversation, key)
    assert code == 4403 and seconds < sockets_of_pages.RIGHTS_SECONDS / 2
