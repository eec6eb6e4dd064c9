"""Requests to the server: which are answered at all, and those for tiles."""

from __future__ import annotations

from asyncio import CancelledError
from typing import Any
from weakref import WeakSet

from bokeh.server.tornado import BokehTornado
from bokeh.server.util import check_allowlist
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler, RequestHandler

from dask_slides.errors import SlideError


class LocalTornado(BokehTornado):  # type: ignore[misc]
    """Bokeh's server, which answers only those who call it by its own address.

    A site whose name is made to lead to this machine (DNS rebinding) is refused.
    """

    def find_handler(self, request: Any, **kwargs: Any) -> Any:
        """Return what answers a request."""
        if not check_allowlist(request.host, self.websocket_origins):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **kwargs)


class ClosingServer(HTTPServer):  # type: ignore[misc]
    """A server that closes its connections at once.

    Tornado's own way waits for answers that are being made, and leaves web sockets open.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Keep the connections too."""
        self._streams: WeakSet[Any] = WeakSet()
        super().initialize(*args, **kwargs)

    def handle_stream(self, stream: Any, address: Any) -> None:
        """Answer the requests of a connection."""
        self._streams.add(stream)
        super().handle_stream(stream, address)

    def close(self) -> None:
        """Take no more connections, and close those there are."""
        self.stop()
        for stream in tuple(self._streams):
            stream.close()


class TileHandler(RequestHandler):  # type: ignore[misc]
    """Answers requests for tiles, which are made in other threads."""

    def initialize(self, tiles: Any) -> None:
        """Keep what makes the tiles."""
        self._tiles = tiles

    async def get(self, number: str, look: str, z: str, x: str, y: str) -> None:
        """Send a tile as PNG."""
        place = int(number), look, int(z), int(x), int(y)
        try:
            data, final = await IOLoop.current().run_in_executor(
                self._tiles.pool, self._tiles.tile, *place
            )
        except ValueError:
            self.send_error(404)
            return
        except CancelledError:  # the viewer ends; Tornado would log an error
            self.set_status(204)
            return
        except (SlideError, OSError) as error:
            for call in tuple(self._tiles.listeners):
                call(int(number), str(error))
            self.set_status(500)
            self.finish(f"{error}\n")
            return
        self.set_header("Content-Type", "image/png")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        # the address has a number that changes with the pixels
        self.set_header("Cache-Control", "private, max-age=3600" if final else "no-store")
        self.finish(data)
