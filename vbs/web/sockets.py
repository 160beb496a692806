"""WebSockets, with a bound on what a client may say: a page of ours says once what it shows, and then listens.

Whoever says more is closed at once, here: what comes in is not even handed on, for each message costs more to be looked
at than to be sent.
"""

import time

from daphne.ws_protocol import WebSocketProtocol

TOO_MUCH = 4429  # the code that it is closed with
BURST, PER_SECOND = 20.0, 1.0  # frames that may come at once, and that may come on and on


class Socket(WebSocketProtocol):
    """Daphne's, which counts the frames, pings among them."""

    allowance, counted_at, over = BURST, 0.0, False

    def onMessageFrameBegin(self, length: int) -> None:
        self._may()
        super().onMessageFrameBegin(length)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not self.over:
            super().onMessage(payload, isBinary)

    def onPing(self, payload: bytes) -> None:
        if self._may():
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        if self._may():
            super().onPong(payload)

    def _may(self) -> bool:
        """Whether one more is within its allowance. If not, it is told so, and nothing more is read from it."""
        now = time.monotonic()
        if not self.counted_at:
            self.counted_at = now
        self.allowance = min(BURST, self.allowance + (now - self.counted_at) * PER_SECOND) - 1
        self.counted_at = now
        if self.allowance < 0 and not self.over:
            self.over = True
            self.sendClose(TOO_MUCH, "Too many messages.")
            self.transport.pauseProducing()  # the connection goes when the time for a closing handshake is over
        return not self.over
