"""The address of the viewer, behind a proxy too."""

import urllib.error
import urllib.request

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
