"""What the report tells about the tiles that a step kept and dropped, against NumPy."""

import base64
import io

import dask
import numpy as np
import pytest
import tifffile
from PIL import Image

import dask_slides as ds
from dask_slides.cohort.card import read_card
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tile_cache import TILE_CACHE

SIDE, TILE = 256, 16
ROWS = SIDE // TILE


@pytest.fixture(scope="module")
def image():
    """Return an image whose tiles have noise and colour from hardly any to strong."""
    rng = np.random.default_rng(5)
    strength = rng.permuted(np.geomspace(0.01, 1, ROWS * ROWS)).reshape(ROWS, ROWS)
    strength = strength.repeat(TILE, 0).repeat(TILE, 1)[..., None]
    stain = rng.random((SIDE, SIDE, 3)) * (90, 190, 60)
    return np.round(245 - strength * stain).astype(np.uint8)


@pytest.fixture(scope="module")
def path(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("decision") / "slide.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def tiles_of(image):
    return image.reshape(ROWS, TILE, ROWS, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)


def contrast(image):
    tiles = tiles_of(image).reshape(ROWS * ROWS, -1).astype(float)
    return tiles.std(axis=1) / tiles.mean(axis=1)


def darker_than(image, grey):
    """Return the share of the pixels of each tile whose whole grey value is below `grey`."""
    return (np.floor(tiles_of(image).mean(axis=-1)) < grey).mean(axis=(1, 2))


def otsu(image):
    """Return the first grey value of the brighter class of the largest variance between both."""
    greys = np.floor(image.mean(axis=-1)).reshape(-1)

    def variance(first):
        low, high = greys[greys < first], greys[greys >= first]
        if not (len(low) and len(high)):
            return 0.0
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    return max(range(1, 256), key=variance)


def coloured(image):
    """Return the share of pixels of each tile of which the saturation is above 51 of 255."""
    tiles = tiles_of(image).astype(float)
    largest, smallest = tiles.max(axis=-1), tiles.min(axis=-1)
    return (np.rint(255 * (largest - smallest) / largest) > 51).mean(axis=(1, 2))


CASES = {
    "contrast": (ds.Contrast(0.05), lambda image: (contrast(image), 0.05)),
    "otsu": (ds.Otsu(0.05), lambda image: (darker_than(image, otsu(image)), 0.05)),
    "brightness": (
        ds.Brightness(0.875, share=0.3), lambda image: (darker_than(image, 224), 0.3)
    ),
    "saturation": (ds.Saturation(0.2, share=0.1), lambda image: (coloured(image), 0.1)),
    "union": (
        ds.Contrast(0.05) | ds.Saturation(0.2, share=0.1),
        lambda image: (np.minimum(contrast(image) - 0.05, coloured(image) - 0.1), 0.0),
    ),
    "intersection": (
        ds.Contrast(0.05) & ds.Saturation(0.2, share=0.1),
        lambda image: (np.maximum(contrast(image) - 0.05, coloured(image) - 0.1), 0.0),
    ),
}  # fmt: skip


def card_of(path, job, *steps, **options):
    with dask.config.set(scheduler="sync"):
        result = ds.run_cohort(path, job=job, steps=list(steps), **options)
    assert result.done == 1
    return read_card(str(job / path.stem))["steps"]


def pack(detector, **options):
    return {"pack": {"tile_size": TILE, "detector": detector, **options}}


def edges(histogram):
    """Return the ends of the bins, which have equal widths or ratios beside the threshold."""
    (low, high), at, middle = (histogram[one] for one in ("ends", "at", "threshold"))
    space = np.geomspace if histogram["logarithmic"] else np.linspace
    return np.concatenate([space(low, middle, at + 1), space(middle, high, 21 - at)[1:]])


@pytest.mark.parametrize("name", CASES)
def test_all_tiles_are_counted_by_the_number_that_decided(name, image, path, tmp_path):
    detector, number = CASES[name]
    values, threshold = number(image)
    kept = values > threshold
    assert 20 < kept.sum() < len(kept) - 20
    steps = {"mask": {"tile_size": TILE, "detector": detector}}, pack(detector)
    card = card_of(path, tmp_path / "job", *steps)
    for facts in card.values():
        assert (facts["kept"], facts["dropped"]) == (kept.sum(), (~kept).sum())
        assert facts["tissue"] == pytest.approx(kept.mean())
        found = facts["histograms"][0]
        assert found["threshold"] == threshold
        assert found["logarithmic"] == (name in ("contrast", "otsu", "saturation"))
        shown = np.maximum(values, found["ends"][0])
        for which, some in (("kept", kept), ("dropped", ~kept)):
            expected = np.histogram(shown[some], edges(found))[0]
            # a value may lie on an edge, but never on the other side of the threshold
            assert np.abs(np.cumsum(found[which]) - np.cumsum(expected)).max() <= 1
        assert not any(found["kept"][: found["at"]]) and not any(found["dropped"][found["at"] :])
    scores = card["pack"]["histograms"][1]
    spread = tiles_of(image).reshape(len(kept), -1).std(axis=1)[kept]
    assert scores["ends"] == pytest.approx([spread.min(), spread.max()])
    assert scores["threshold"] is None and sum(scores["kept"]) == kept.sum()


@pytest.mark.parametrize("name", CASES)
def test_sheets_show_the_tiles_on_both_sides_of_the_threshold(name, image, path, tmp_path):
    detector, number = CASES[name]
    values, threshold = number(image)
    facts = card_of(path, tmp_path / "job", pack(detector))["pack"]
    some = values if name in ("union", "intersection") else values[values > 0]
    above, below = np.sort(some[some > threshold])[:8], np.sort(some[some <= threshold])[-8:]
    for which, near in (("kept", above), ("dropped", below)):
        sheet = facts[f"nearest_{which}"]
        assert sheet["ends"] == pytest.approx([near[0], near[-1]]) and sheet["count"] == 8
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["picture"]))))
        for value, left in ((near[0], 0), (near[-1], 7)):
            tile = tiles_of(image)[np.flatnonzero(np.isclose(values, value))]
            corner = shown[4 : 4 + TILE, 4 + left * (TILE + 4) :][:, :TILE].astype(float)
            assert min(np.abs(corner.mean((0, 1)) - one.mean((0, 1))).max() for one in tile) < 6


def test_the_best_tiles_are_told_from_others_by_their_score(image, path, tmp_path):
    facts = card_of(path, tmp_path / "job", pack(ds.Contrast(0.05), top_k=30))["pack"]
    passed = contrast(image) > 0.05
    spread = np.sort(tiles_of(image).reshape(len(passed), -1).std(axis=1)[passed])
    ratios, scores = facts["histograms"]
    assert (facts["kept"], sum(ratios["dropped"])) == (30, len(passed) - 30)
    assert scores["threshold"] == pytest.approx(spread[-30])
    assert (sum(scores["kept"]), sum(scores["dropped"])) == (30, passed.sum() - 30)
    assert not any(scores["kept"][: scores["at"]])
    assert facts["nearest_kept"]["ends"] == pytest.approx([spread[-30], spread[-23]])
    assert facts["nearest_dropped"]["ends"] == pytest.approx([spread[-38], spread[-31]])
    page = (tmp_path / "job" / "report.html").read_text("utf-8")
    assert f"8 kept tiles nearest to the threshold; score: {spread[-30]:.3g} to " in page


def test_crops_are_judged_by_their_own_pixels(image, path, tmp_path):
    crops = {"crops": {"n": 20, "size": TILE, "detector": ds.Contrast(0.05)}}
    facts = card_of(path, tmp_path / "job", crops)["crops"]
    drawn = ds.open_pack(tmp_path / "job" / "slide" / "slide.crops.zarr")
    pixels = [image[y : y + TILE, x : x + TILE] for y, x in zip(drawn.y, drawn.x, strict=True)]
    ratios = [one.std() / one.mean() for one in pixels]
    found = facts["histograms"][0]
    assert (facts["kept"], facts["dropped"], sum(found["dropped"])) == (20, None, 0)
    assert found["ends"][1] == pytest.approx(max(ratios))
    assert found["kept"] == np.histogram(ratios, edges(found))[0].tolist()
    assert facts["nearest_kept"]["ends"] == pytest.approx([min(ratios), sorted(ratios)[7]])


def test_tiles_with_missing_pixels_are_not_drawn(image, tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[5]
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    missing = np.zeros((ROWS, ROWS), bool)
    missing[4:8, 4:8] = True  # tile 5 of 4 x 4
    for name, detector in (("statistics", ds.Contrast(0.05)), ("mask", ds.Tissue())):
        facts = card_of(path, tmp_path / name, pack(detector), on_bad_tile="mask")["pack"]
        found = facts["histograms"][0]
        assert (facts["corrupt"], found["unknown"], facts["skipped"]) == (1, 16, 16)
        assert sum(found["kept"]) + sum(found["dropped"]) == missing.size - 16
        assert facts["kept"] + facts["dropped"] == missing.size
    assert "not drawn: 16 tiles with missing pixels" in (tmp_path / "mask/report.html").read_text()


def test_the_report_reads_only_the_tiles_that_it_shows(image, tmp_path, monkeypatch):
    """Those are 8 on each side of the threshold, and 16 for brightness and focus."""
    path = tmp_path / "slide.tif"
    large = np.tile(image, (4, 4, 1))
    tifffile.imwrite(path, large, tile=(64, 64), photometric="rgb", compression="zlib")
    decodes, decode = [], TileDecoder.__call__

    def counted(self, number, data, factor, into=None):
        decodes.append(number)
        return decode(self, number, data, factor, into)

    monkeypatch.setattr(TileDecoder, "__call__", counted)
    totals = []
    for report in (False, True):
        TILE_CACHE.clear()
        decodes.clear()
        card_of(path, tmp_path / str(report), pack(ds.Contrast(0.05)), report=report)
        totals.append(len(decodes))
    assert totals[0] >= (large.shape[0] // 64) ** 2  # all of them for the statistics
    assert totals[0] < totals[1] <= totals[0] + 32
