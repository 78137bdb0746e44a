"""HTTP/1.1 and HTTP/2 for an ASGI application: hypercorn with what it lacks for long sessions."""
