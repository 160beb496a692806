"""WebSockets with a limit on what a client may send: a page of ours sends once what it shows, and then only listens.

A client that sends more is closed here, before a message is handed on: it costs more to handle one than to send one.
"""

import time

from daphne.ws_protocol import WebSocketProtocol

TOO_MUCH = 4429  # the code with which the socket is closed
BURST, PER_SECOND = 20.0, 1.0  # frames that may come at once, and that may come every second without end


class Socket(WebSocketProtocol):
    """Daphne's WebSocket, which counts the client's frames, pings included."""

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
        """Count a frame. False when it is one too many: then the socket is closed, and nothing more is read."""
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
