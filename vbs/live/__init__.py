"""What pushes changes to browsers: a page says which topics it shows, a changed row names its topics, a socket follows.

A row's change is told by a trigger in the database (`topics`), within the transaction that makes it: it holds for
every statement and every process, and is heard at the commit. The channel layer carries the topics to the web
processes; there, those who look at the same thing with the same rights share a room (`rooms`), whose parts are built
and rendered once for all of them. Every page is right on a plain reload, and polls when its socket is down (`pages`).
"""
