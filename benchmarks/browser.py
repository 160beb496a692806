"""Somebody who has signed in, as their browser speaks: pages, what they need, and the sockets that follow them."""

import re
from urllib.parse import urljoin

import httpx

from benchmarks.rows import BenchmarkError
from benchmarks.system import System

USER, PASSWORD = "benchmark", "of the benchmarks"
ENCODINGS = "gzip, br"
SEEN = re.compile(r'name="seen" value="([^"]+)"')
NEEDED = re.compile(r'<(?:link rel="(?:stylesheet|icon)" href|script src)="([^"]+)"')


class Browser:
    """With the session's cookie. Raises BenchmarkError when it cannot sign in."""

    def __init__(self, system: System) -> None:
        self.url = system.stack.url
        code = (
            "from django.contrib.auth.models import User;"
            f"User.objects.filter(username={USER!r}).exists() or "
            f"User.objects.create_superuser({USER!r}, password={PASSWORD!r})"
        )
        system.manage("shell", "-v", "0", "-c", code)
        headers = {"Accept-Encoding": ENCODINGS}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)
        page = self.http.get("/login")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        if token is None:
            raise BenchmarkError(f"{self.url}/login answers {page.status_code} without a form.")
        given = {"csrfmiddlewaretoken": token[1], "username": USER, "password": PASSWORD}
        self.http.post("/login", data=given, headers={"Referer": f"{self.url}/login"})
        if "sessionid" not in self.http.cookies:
            raise BenchmarkError("Signing in did not work.")

    def close(self) -> None:
        self.http.close()

    def get(self, address: str) -> httpx.Response:
        return self.http.get(address)

    def first_visit(self, address: str) -> dict[str, int]:
        """Bytes of the bodies as they come over the wire: of the page, and of the sheets and scripts that it names."""
        page = self.get(address)
        found = {address: page.num_bytes_downloaded}
        for needed in NEEDED.findall(page.text):
            answer = self.get(urljoin(address, needed))
            if answer.status_code != 200:
                raise BenchmarkError(f"{needed}, which {address} names, answers {answer.status_code}.")
            found[needed.rpartition("/")[2]] = answer.num_bytes_downloaded
        return found

    @property
    def socket_headers(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        return {"Cookie": cookies, "Origin": self.url}
