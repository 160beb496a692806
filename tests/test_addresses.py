"""Which URLs may be fetched: only those on the public internet, whatever their name or their way of writing."""

import socket

import pytest

from vbs import addresses
from vbs.addresses import AddressError, check_public


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


@pytest.mark.parametrize("url", ["https://public.example/v1", "http://8.8.8.8:8000/v1", "https://[2606:4700::1111]/v1"])
def test_public(names, url):
    check_public(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fc00::1]",
        "[fd00:ec2::254]", "[::ffff:10.0.0.1]", "[::ffff:127.0.0.1]", "[64:ff9b::10.0.0.1]", "[2002:7f00:1::]",
        "[ff02::1]", "mixed.example",
    ],
)  # fmt: skip
def test_private(names, settings, host):
    with pytest.raises(AddressError, match=r"not a public address: set VBS_PRIVATE_URLS=true"):
        check_public(f"http://{host}/v1")
    settings.VBS_PRIVATE_URLS = True
    check_public(f"http://{host}/v1")


def test_ipv4_within_ipv6_is_the_ipv4_address(names):
    check_public("http://[::ffff:8.8.8.8]/v1")
    check_public("http://[64:ff9b::8.8.8.8]/v1")


def test_localhost_by_its_name():
    with pytest.raises(AddressError, match="not a public address"):
        check_public("http://localhost:4080/v1")


@pytest.mark.parametrize("url", ["", "public.example", "ftp://public.example", "file:///etc/passwd", "http:///v1",
                                 "http://host:port/", "http://[::1", "gopher://8.8.8.8/"])  # fmt: skip
def test_no_url(names, settings, url):
    settings.VBS_PRIVATE_URLS = True
    with pytest.raises(AddressError, match="is no http"):
        check_public(url)


@pytest.mark.parametrize("host", ["nowhere.example", "a..b", "x" * 70 + ".example"])
def test_a_name_that_stands_for_nothing(names, host):
    with pytest.raises(AddressError, match="could not be found"):
        check_public(f"http://{host}/v1")
