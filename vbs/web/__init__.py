"""The web server: Daphne, with bounds on what a connection may send, hold and cost.

Daphne spools a request's body and then reads all of it into memory, and writes a response without looking whether
anybody reads it. Here who sends a large body is asked for a key first, the application reads the spooled body piece by
piece and knows its length, and waits while the client does not read; and what is too large, too slow, too much at
once or not HTTP is answered at the door, in the API's error envelope.

`server` serves, `channel` is one connection, `request` one request and its answer; `limits` are figures, `guests` and
`spool` count what all connections hold, and `refusal` is what those are told who do not come in.

Knows no Django, no route and no setting: the application, the limits and who is admitted are arguments of `serve`.
"""
