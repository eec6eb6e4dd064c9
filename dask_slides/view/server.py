"""The server of the viewer: Bokeh's own, and beside it the tiles of the slides.

It listens on this machine only. Its address holds a secret, so that other users of the machine
cannot open it, and it refuses requests for other hosts, as other sites make them in a browser. A
proxy that passes requests on, as JupyterHub has one, is named by its address.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.slide import Slide
from dask_slides.view.content import Shown, with_layers
from dask_slides.view.slides import ViewedSlide
from dask_slides.view.tile_server import TileServer

HOST = "127.0.0.1"


class View:
    """A viewer that runs in threads of this process until you close it.

    In a notebook it shows itself. `url` is its address in a browser on this machine.
    """

    def __init__(
        self,
        shown: Sequence[Shown],
        *,
        detector: Any = DEFAULT_DETECTOR,
        port: int = 0,
        address: str | None = None,
        folder: str = ".",
    ) -> None:
        import_bokeh()
        self.tiles = TileServer()
        self.slides = tuple(ViewedSlide(one, detector, folder, self.tiles) for one in shown)
        self._port, self._secret = port, secrets.token_urlsafe(16)
        self._address = checked_address(address or f"http://{HOST}:{{port}}")
        self._started = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="dask-slides view", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self.close()
            raise self._failed

    def _run(self) -> None:
        from tornado.ioloop import IOLoop

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = IOLoop.current()
        try:
            server, http = self._servers()
            server.start()
        except OSError as error:
            self._failed = SlideArgumentError(
                f"port {self._port} cannot be used ({error.strerror}); give another one"
            )
            return
        except Exception as error:  # raised again in the thread that waits
            self._failed = error
            return
        finally:
            self._started.set()
        self._loop.start()
        http.close()
        left = asyncio.all_tasks(loop)  # pages that are open or being made; they need the server
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        server.stop(wait=False)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.run_until_complete(loop.shutdown_asyncgens())
        self._loop.close(all_fds=True)

    def _servers(self) -> tuple[Any, Any]:
        """Return Bokeh's server, and that of Tornado which it uses."""
        from bokeh.application import Application
        from bokeh.application.handlers.function import FunctionHandler
        from bokeh.server.server import BaseServer

        from dask_slides.view.handlers import ClosingServer, LocalTornado, TileHandler
        from dask_slides.view.page import build

        listening = socket.create_server((HOST, self._port))
        listening.setblocking(False)
        self._port = listening.getsockname()[1]
        application = Application(FunctionHandler(lambda doc: build(doc, self.slides)))
        tile = r"/tiles/(\d+)/\d+/([^/]+)/(\d+)/(\d+)/(\d+)\.png"
        public = urlsplit(self.url)
        tornado = LocalTornado(
            {"/": application},
            prefix=public.path,
            extra_websocket_origins=[public.netloc],
            extra_patterns=[(tile, TileHandler, {"tiles": self.tiles})],
        )
        http = ClosingServer(tornado)
        http.add_sockets([listening])
        return BaseServer(self._loop, tornado, http), http

    @property
    def url(self) -> str:
        """The address of the viewer."""
        return f"{self._address.replace('{port}', str(self._port))}/{self._secret}/"

    def close(self) -> None:
        """End the server; pages that show the viewer no longer answer."""
        if self._thread.is_alive() and self._failed is None:
            self._loop.add_callback(self._loop.stop)
        self._thread.join()
        self.tiles.close()
        for slide in self.slides:
            slide.close()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The names of the slides."""
        return ", ".join(one.slide.name for one in self.slides)

    def __repr__(self) -> str:
        return f"View<{self.name}, {self.url}>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.url}" title="{escape(f"Viewer of {self.name}")}" width="100%" '
            'height="720" style="border: 0"></iframe>'
        )


def checked_address(address: str) -> str:
    """Return the address of a proxy without its last slash, or raise SlideArgumentError."""
    if not address.startswith(("http://", "https://")) or "{port}" not in address:
        raise SlideArgumentError(
            f"address={address!r}: give what leads to the port through the proxy, such as "
            "https://hub.example.org/user/NAME/proxy/absolute/{port}"
        )
    return address.rstrip("/")


def import_bokeh() -> None:
    """Raise ImportError with the name of the extra if Bokeh is not installed."""
    try:
        import bokeh.server  # noqa: F401
    except ImportError as error:
        raise ImportError("the viewer needs Bokeh; pip install 'dask-slides[view]'") from error


def view_slide(
    slide: Slide, layers: Sequence[Any], detector: Any, port: int, address: str | None
) -> View:
    """Return a viewer of a slide and its layers; see `Slide.view`."""
    import_bokeh()
    return View((with_layers(Shown(slide), layers),), detector=detector, port=port, address=address)
