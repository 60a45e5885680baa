"""The page for people who open the server's address in a browser."""

from litestar import Response, get

from commucat_server.api.answers import NO_STORE, Handlers
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import Answer, documented

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>CommuCat</title></head>
<body>
<h1>CommuCat</h1>
<p>A server for end-to-end encrypted chat. It has no web client: connect with one that speaks CCP-1.</p>
<ul>
<li><a href="/healthz">health</a></li>
<li><a href="/readyz">readiness</a></li>
<li><a href="/api/server-info">what clients ask first</a></li>
<li><a href="/openapi.json">the REST interface</a></li>
</ul>
</body>
</html>
"""


def handlers(context: ApiContext) -> Handlers:
    """``/`` and ``/index.html``."""

    @get(
        ["/", "/index.html"],
        sync_to_thread=False,
        opt=documented(
            "A page for people",
            tag="server",
            ok={200: Answer(media_type="text/html", description="Links to the other paths.")},
        ),
    )
    def landing() -> Response[str]:
        return Response(_PAGE, media_type="text/html", headers=NO_STORE)

    return [landing]
