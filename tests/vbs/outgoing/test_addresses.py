"""Which URLs may be asked for: only those on the public internet, whatever their name or their way of writing."""

import socket

import pytest

from vbs.outgoing import addresses
from vbs.outgoing.addresses import AddressError, check_url, origin


@pytest.fixture
def names(monkeypatch):
    """What names stand for here; numbers stand for themselves."""

    def resolve(host, port, **_):
        known = {"public.example": ["93.184.215.14"], "mixed.example": ["93.184.215.14", "10.0.0.7"]}
        if host == "nowhere.example":
            raise socket.gaierror(-2, "Name or service not known")
        if host in known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in known[host]]
        return real(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

    real = socket.getaddrinfo
    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("url", ["https://public.example/v1", "http://8.8.8.8:8000/v1", "https://[2606:4700::1111]/v1",
                                 "https://public.example/v1?a=b%20c#d"])  # fmt: skip
def test_public(names, url):
    check_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "192.0.0.1", "198.18.0.1",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fc00::1]",
        "[fd00:ec2::254]", "[fec0::1]", "[feff:ffff::1]", "[ff02::1]", "[2001:db8::1]",
        "[::ffff:10.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
        "[64:ff9b::10.0.0.1]", "[64:ff9b:1::8.8.8.8]", "[2002:7f00:1::]", "[2001:0:7f00:1::8.8.8.8]",
        "mixed.example",
    ],
)  # fmt: skip
def test_private(names, host):
    with pytest.raises(AddressError, match=r"not a public address: set VBS_PRIVATE_URLS=true"):
        check_url(f"http://{host}/v1")
    check_url(f"http://{host}/v1", private=True)


def test_ipv4_within_ipv6_is_the_ipv4_address(names):
    check_url("http://[::ffff:8.8.8.8]/v1")
    check_url("http://[64:ff9b::8.8.8.8]/v1")


def test_localhost_by_its_name():
    with pytest.raises(AddressError, match="not a public address"):
        check_url("http://localhost:4080/v1")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "1.2.3",
                                  "127.0.0.1.", "1.2.3.4.5", "256.1.1.1", "08.8.8.8", "a.0x"])  # fmt: skip
@pytest.mark.parametrize("private", [True, False])
def test_an_address_has_one_way_of_writing(names, host, private):
    """Programs differ in what they take the others for."""
    with pytest.raises(AddressError, match="is not an address"):
        check_url(f"http://{host}/v1", private)


@pytest.mark.parametrize("url", ["", "public.example", "ftp://public.example", "file:///etc/passwd", "http:///v1",
                                 "http://host:port/", "http://[::1", "gopher://8.8.8.8/", "http://host:0/",
                                 "http://a%2eb/", "http://a,b/", "http://[v1.a]/"])  # fmt: skip
def test_no_url(names, url):
    with pytest.raises(AddressError, match="is not a"):
        check_url(url, private=True)


@pytest.mark.parametrize("odd", ["\r\nX-Injected: 1", "\n", "\t", " ", "\0", "\x7f", "\x85", "\u2028", "ä", "\\", "。"])
@pytest.mark.parametrize(
    "form", ["http://public.example{}/v1", "http://public.example/v1{}", "{}http://public.example"]
)
def test_what_programs_read_in_different_ways(names, form, odd):
    with pytest.raises(AddressError, match="escape blanks"):
        check_url(form.format(odd), private=True)


@pytest.mark.parametrize("who", ["user@", "user:password@", "@", ":@", "public.example@"])
def test_no_user_in_it(names, who):
    with pytest.raises(AddressError, match="a user or a password") as refused:
        check_url(f"http://{who}8.8.8.8/v1", private=True)
    assert "password@" not in str(refused.value)


@pytest.mark.parametrize("host", ["nowhere.example", "a..b", "x" * 70 + ".example"])
def test_a_name_that_stands_for_nothing(names, host):
    with pytest.raises(AddressError, match="could not be resolved"):
        check_url(f"http://{host}/v1")


def test_an_origin_is_written_in_one_way():
    assert origin("https://Pool.Example./v1") == origin("https://pool.example:443") == "https://pool.example:443"
    assert origin("http://[::1]/v1") == "http://[::1]:80" != origin("https://[::1]/v1")
