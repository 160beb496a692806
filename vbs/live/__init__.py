"""Sends changes to browsers: a page names its topics, a changed row announces its topics, and a socket sends the new
parts.

A trigger in the database announces a row's change (`topics`) in the transaction that makes it: so every statement of
every process is covered, and nothing is announced before the commit. The channel layer brings the topics to the web
processes. There, viewers who look at the same page with the same rights share a room (`rooms`), whose parts are built
and rendered once for all of them. Every page is also right after a plain reload, and polls while its socket is down
(`pages`).
"""
