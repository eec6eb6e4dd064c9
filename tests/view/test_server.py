"""The address of the viewer, behind a proxy too, and its end."""

import contextlib
import gc
import socket
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

import dask_slides as ds
from dask_slides.errors import SlideArgumentError
from dask_slides.view.content import Shown
from dask_slides.view.server import View


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "a.tif"
    return ds.open_slide(ds.sample_slide(path, shape=(512, 512), tile=128))


def answer(port, path, host):
    """Return the page that the port gives to a proxy, or the status of the refusal."""
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host})) as page:
            return page.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("host", ["hub.example.org", "hub.example.org:8443"])
def test_a_proxy_that_keeps_the_path_shows_the_page(slide, host):
    address = f"https://{host}/user/me/proxy/absolute/{{port}}/"
    with View((Shown(slide),), address=address) as view:
        path = view.url.removeprefix(f"https://{host}")
        port = path.split("/")[5]
        assert path.startswith(f"/user/me/proxy/absolute/{port}/")
        assert f'src="{view.url}"' in view._repr_html_()
        page = answer(port, path, host)
        assert "a.tif" in page and f"wss://{host};" in page
        assert f'src="{path}static/js/bokeh.min.js' in page
        assert answer(port, path, "evil.example.org") == 403
        assert answer(port, path, f"127.0.0.1:{port}") == 403
        assert answer(port, "/user/me/proxy/absolute/1/", host) == 404  # without the secret


def test_an_address_must_lead_to_the_port(slide):
    for wrong in ("hub.example.org/{port}", "https://hub.example.org/proxy/8888"):
        with pytest.raises(SlideArgumentError, match=r"\{port\}"):
            slide.view(address=wrong)


TILE = "tiles/0/0/a/0/0/0.png"


@pytest.mark.parametrize("paths", [[], [""], [TILE], [TILE, TILE], ["", TILE]])
@pytest.mark.parametrize("is_whole", [True, False])
def test_the_end_closes_all_connections(slide, paths, is_whole):
    """Whatever they wait for; an open one is a ResourceWarning, which fails the test."""
    go_on = threading.Event()
    with View((Shown(slide),)) as view:
        view.tiles.tile = lambda *place: go_on.wait()
        url = urlsplit(view.url)
        text = "".join(
            f"GET {url.path}{path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n" for path in paths
        )
        clients = []
        for _ in range(4):
            clients.append(socket.create_connection((url.hostname, url.port), timeout=20))
            clients[-1].sendall(text.encode()[: None if is_whole else -5])
        closing = threading.Thread(target=view.close)
        closing.start()
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):
                while client.recv(4096):  # until it is closed
                    pass
        go_on.set()
        closing.join()
    gc.collect()
