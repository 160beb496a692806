"""Answers in a route's one format, whether a client asks for `application/json` or `application/binary`."""

from typing import Any

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request

from vbs.openai.errors import InvalidRequest


class OneAnswer(DefaultContentNegotiation):
    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Raises InvalidRequest for a compressed body."""
        coding = request.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise InvalidRequest(
                f"The Content-Encoding '{coding[:50]}' is not supported: send the body without it.",
                code="unsupported_content_encoding",
            )
        return super().select_parser(request, parsers)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type
