"""Which layers belong to which slide, and what cannot be viewed."""

import numpy as np
import pytest
from click.testing import CliRunner

import dask_slides as ds
from dask_slides.cli import main
from dask_slides.errors import SlideArgumentError
from dask_slides.view.content import Shown, open_paths, with_layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two slides, and what is made of the first one."""
    out = tmp_path_factory.mktemp("content")
    slide = ds.open_slide(ds.sample_slide(out / "a.tif", shape=(2048, 2560), tile=256))
    ds.sample_slide(out / "b.tif", shape=(2560, 2048), tile=256)
    found = ds.blank_map(slide).compute()
    ds.write(found, out / "a.map.zarr")
    ds.write(ds.pack_tiles(slide, tile_size=128, blank_map=found), out / "a.tiles.zarr")
    ds.write(ds.cutoff_resize(slide, downsample=2, blank_map=found), out / "a.cut.ome.zarr")
    ds.write(ds.resize(slide, downsample=2), out / "small.ome.zarr")
    found.to_geojson(out / "a.geojson")
    return out


LAYERS = ("a.map.zarr", "a.tiles.zarr", "a.cut.ome.zarr", "a.geojson")


@pytest.mark.parametrize("slides", [("a.tif",), ("b.tif", "a.tif")])
def test_layers_go_to_their_slide(folder, slides):
    shown = open_paths(folder / name for name in (*LAYERS, *slides))
    assert [one.slide.name for one in shown] == list(slides)
    own = shown[-1]
    assert own.blank_map.slide is own.slide
    assert [name for name, _ in own.packs] == ["a.tiles.zarr"]
    assert [one.name for one in own.annotations] == ["a.geojson"]
    assert [one.name for one in own.cuts] == ["a.cut.ome.zarr"]
    for other in shown[:-1]:
        assert not (other.packs or other.annotations or other.cuts or other.blank_map)


def test_a_layer_without_its_slide_is_shown_alone(folder):
    for name in ("a.tiles.zarr", "a.map.zarr"):
        (one,) = open_paths([folder / name])
        assert (one.slide.shape[:2], one.has_pixels) == ((2048, 2560), False)
    (together,) = open_paths(folder / name for name in LAYERS[:3])
    assert together.packs and together.cuts and together.blank_map is not None
    (cut,) = open_paths([folder / "a.cut.ome.zarr"])
    assert cut.has_pixels and not cut.cuts
    (store,) = open_paths([folder / "small.ome.zarr"])
    assert store.slide.shape == (1024, 1280, 3)


def test_objects_are_layers_too(folder):
    slide = ds.open_slide(folder / "a.tif")
    found = ds.blank_map(slide)
    cut = ds.cutoff_resize(slide, downsample=2, blank_map=found.compute())
    shown = with_layers(Shown(slide), [found, cut, folder / "a.tiles.zarr"])
    assert shown.blank_map is not None and len(shown.packs) == len(shown.cuts) == 1
    for wrong in (np.zeros(3), folder / "b.tif"):
        with pytest.raises(SlideArgumentError, match="layer"):
            with_layers(Shown(slide), [wrong])


def test_a_layer_of_another_slide_is_refused(folder):
    other = ds.open_slide(folder / "b.tif")
    for name in ("a.tiles.zarr", "a.map.zarr"):
        with pytest.raises(SlideArgumentError, match="2048 x 2560 px"):
            with_layers(Shown(other), [folder / name])


@pytest.mark.parametrize(
    ("paths", "code", "message"),
    [
        (["nothing.tif"], 1, "nothing.tif: "),
        (["a.geojson"], 2, "which slide is it of"),
        (["b.tif", "a.tiles.zarr"], 2, "2048 x 2560 px"),
        (["a.tif", "b.tif", "--blank-map", "a.geojson"], 2, "give the path of one"),
    ],
)
def test_what_cannot_be_viewed_gets_one_line(folder, monkeypatch, paths, code, message):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["view", "--no-browser", *paths])
    assert result.exit_code == code
    assert message in result.output and result.output.count("\n") == 1


def test_a_port_in_use_gets_one_line(folder):
    slide = ds.open_slide(folder / "a.tif")
    with slide.view() as view:
        port = int(view.url.split(":")[2].split("/")[0])
        assert view.url in view._repr_html_() and "a.tif" in repr(view)
        result = CliRunner().invoke(
            main, ["view", "--no-browser", "--port", str(port), str(folder / "a.tif")]
        )
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert f"port {port} cannot be used" in result.output
