"""Corrections of blank maps: exact areas, undo, and outlines that give the same map again."""

import numpy as np
import pytest

import dask_slides as ds
from dask_slides.core.polygons import Outline
from dask_slides.errors import (
    OutputDeniedError,
    OutputExistsError,
    SlideArgumentError,
    SlideNotFoundError,
)
from dask_slides.view.content import Shown
from dask_slides.view.corrections import Corrections
from dask_slides.view.slides import ViewedSlide
from dask_slides.view.tile_server import TileServer


@pytest.fixture
def slide():
    return ds.from_dask(np.full((700, 900, 3), 240, np.uint8), mpp=0.5)


def map_of(slide, blank):
    return ds.blank_map(slide).with_blank(blank)


@pytest.mark.parametrize("tissue", [True, False])
def test_a_polygon_covers_the_pixels_whose_centres_are_inside(slide, tissue):
    corrections = Corrections((700, 900), slide.mpp_yx)
    ring = np.array([(100.3, 100.1), (600.2, 200.7), (300.9, 800.4)])
    corrections.polygon(ring, tissue)
    found = corrections.applied(map_of(slide, np.full((70, 90), tissue)))
    shapely = pytest.importorskip("shapely")
    inside = shapely.Polygon(ring[:, ::-1])
    mask = found.mask
    y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (mask.y_edges, mask.x_edges))
    xx, yy = np.meshgrid(x, y)
    expected = shapely.contains_xy(inside, xx, yy)
    assert (mask.tissue == (expected == tissue)).all()


def test_a_stroke_covers_what_is_near_its_line(slide):
    corrections = Corrections((700, 900), slide.mpp_yx)
    line = np.array([(100.0, 100.0), (100.0, 500.0), (400.0, 500.0)])
    corrections.stroke(line, 60.0, tissue=True)
    mask = corrections.applied(map_of(slide, np.ones((7, 9), bool))).mask
    shapely = pytest.importorskip("shapely")
    y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (mask.y_edges, mask.x_edges))
    xx, yy = np.meshgrid(x, y)
    far = shapely.distance(shapely.LineString(line[:, ::-1]), shapely.points(xx, yy))
    assert (mask.tissue == (far <= 30)).all()


def test_later_corrections_win_and_the_last_can_be_undone(slide):
    corrections = Corrections((700, 900), slide.mpp_yx)
    whole = np.array([(0.0, 0.0), (0.0, 900.0), (700.0, 900.0), (700.0, 0.0)])
    blank = map_of(slide, np.ones((7, 9), bool))
    corrections.polygon(whole, tissue=True)
    corrections.stroke(np.array([(350.0, 450.0)]), 100.0, tissue=False)
    cut = corrections.applied(blank).mask.tissue
    assert 0 < np.count_nonzero(~cut) < cut.size / 10
    corrections.undo()
    assert corrections.applied(blank).mask.tissue.all()
    corrections.undo()
    corrections.undo()
    assert not corrections.applied(blank).mask.tissue.any()


def test_outlines_give_the_same_map_again(slide, tmp_path):
    rng = np.random.default_rng(1)
    corrections = Corrections((700, 900), slide.mpp_yx)
    found = map_of(slide, rng.random((33, 41)) > 0.5)
    for tissue in (True, False, True):
        corrections.polygon(rng.random((7, 2)) * (700, 900), tissue)
        corrections.stroke(rng.random((5, 2)) * (700, 900), 40.0, not tissue)
    corrected = corrections.applied(found)
    again = ds.BlankMap.from_geojson(corrected.to_geojson(tmp_path / "a.geojson"), slide)
    assert (again.mask.tissue == corrected.mask.tissue).all()
    assert (again.blank == corrected.blank).all()


def test_points_are_no_area(slide):
    corrections = Corrections((700, 900), slide.mpp_yx)
    corrections.polygon(np.array([(1.0, 1.0), (5.0, 5.0)]), True)
    assert not corrections.made
    corrections.polygon(np.array([(-50.0, -50.0), (-50.0, -10.0), (-10.0, -10.0)]), True)
    assert not corrections.applied(map_of(slide, np.ones((7, 9), bool))).mask.tissue.any()


def test_files_of_others_are_not_replaced(slide, tmp_path):
    viewed = ViewedSlide(Shown(slide), "tissue", tmp_path, TileServer())
    found = map_of(slide, np.zeros((7, 9), bool))
    path = viewed.save(found, "mine.geojson")
    assert viewed.save(found, "mine.geojson") == path == str(tmp_path / "mine.geojson")
    (tmp_path / "other.geojson").write_text("{}")
    with pytest.raises(OutputExistsError, match="exists already"):
        viewed.save(found, "other.geojson")
    for wrong in ("../out.geojson", "map.txt", "", "/tmp/x.geojson"):
        with pytest.raises(SlideArgumentError, match="file name"):
            viewed.save(found, wrong)
    assert viewed.usual_file == "dask array.corrections.geojson"
    (tmp_path / viewed.usual_file).write_text("{}")
    assert viewed.usual_file == "dask array.corrections-2.geojson"
    with pytest.raises(OutputDeniedError, match=r"cannot be written \(File name too long\)"):
        viewed.save(found, f"{'long' * 60}.geojson")
    viewed.folder = str(tmp_path / "nowhere")
    with pytest.raises(SlideNotFoundError, match="nowhere is not a directory; create it"):
        viewed.save(found, "mine.geojson")
    viewed.close()
    viewed.tiles.close()


def test_the_map_of_the_viewer_is_that_of_the_library(tmp_path):
    slide = ds.open_slide(ds.sample_slide(tmp_path / "a.tif", shape=(2048, 2560), tile=256))
    viewed = ViewedSlide(Shown(slide), "tissue", tmp_path, TileServer())
    _, found = viewed.load()
    expected = ds.blank_map(slide).compute()
    assert found.result() == expected
    assert [*map(type, found.result().polygons())] == [Outline] * len(expected.polygons())
    viewed.close()
    viewed.tiles.close()
