"""HTTP around Django's views: who may send what, errors, redirects, streams."""
