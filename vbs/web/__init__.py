"""The web server: Daphne, with bounds on what a connection may send, hold and cost.

Daphne spools the body of an HTTP request, then reads all of it into memory, and it writes a response without looking
whether the client reads it. This server changes that. It asks for a key before it takes a large body. The application
reads the spooled body piece by piece, knows its length, and waits while the client does not read. A request that is too
large, too slow, one too many or not HTTP is answered here, in the API's error envelope, without the application.

`server` listens and starts the application; `channel` is one connection, `request` one HTTP request and its response;
`limits` has the figures, `connections` and `spool` count what all connections hold together, `refusal` is an answer
that refuses.

The application, the limits and the check of who may send a body are arguments of `serve`: nothing here reads a setting
or looks up a route. Only messages name the settings that an operator would change.
"""
