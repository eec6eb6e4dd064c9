"""Scans of JPEG that no library tells the damage of: 12 bits, two components, lossless."""

import io
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from jpeg_streams import (
    COLOUR,
    DAMAGE,
    EOI,
    REFUSED,
    WRONG,
    block,
    damaged,
    jpeg,
    number,
    restarts,
    scan,
    scan_start,
    segment,
    tables,
)
from PIL import Image
from rw_fixtures import noise, one_line, real, segments, smooth
from strategies import pixels, scan_streams, seeds, shapes

import dask_slides as ds
from dask_slides.numerics.loops import codes, samples
from dask_slides.readers.codecs.entropy import Checker, read_scans
from dask_slides.readers.codecs.headers import has_end, jpeg_frame
from dask_slides.readers.codecs.scans import decode_scans
from dask_slides.runtime import numba_loader

FACTORS = [((1, 1),), ((1, 1),) * 2, ((1, 1),) * 3, ((2, 2),), COLOUR, ((2, 1), (1, 2), (1, 1)),
           ((4, 1), (1, 1), (1, 1))]  # fmt: skip
"""Sampling factors, component by component."""


MODULES = {"plain": {"codes": None}, "compiled": {"codes": codes, "samples": samples}}
"""What is loaded, as `compiled` keeps it."""


@pytest.fixture(params=MODULES)
def check(request, monkeypatch):
    """The check of a stream, by plain Python and by the loops that decode it too."""
    monkeypatch.setattr(numba_loader, "_modules", MODULES[request.param])
    return lambda stream, tables=None: decoded(bytes(stream), tables)


def check_scans(stream, tables):
    read_scans(stream, tables, Checker())


def decoded(stream, tables=None):
    return decode_scans(stream, tables, of_image=0, guessed=False)


def picture(kind, height, width):
    """Return colour of 12 bits."""
    if kind == "noise":
        return noise(height, width, 3, dtype="uint16", top=4095)
    if kind == "constant":
        return np.full((height, width, 3), (3000, 900, 2048), np.uint16)
    return smooth(height, width).astype(np.uint16) * 16 + noise(height, width, 3) % 16


@pytest.mark.parametrize("kind", ["smooth", "noise", "constant"])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "411", "grey"])
@pytest.mark.parametrize("size", [(64, 64), (61, 83), (1, 1), (9, 40)], ids=str)
def test_what_an_encoder_writes_is_whole(check, kind, subsampling, size):
    colour = picture(kind, *size)
    if subsampling == "grey":
        colour, subsampling = colour[..., 0].copy(), None
    for level in (60, 98):
        check(imagecodecs.jpeg8_encode(
            colour, level, bitspersample=12, subsampling=subsampling
        ))  # fmt: skip


@given(seed=seeds, shape=shapes, samples=st.sampled_from([1, 2, 3, 4]), level=st.integers(1, 100))
def test_any_image_of_12_bits_is_whole(seed, shape, samples, level):
    image = pixels(seed, (*shape, samples), "uint16") >> 4
    check_scans(imagecodecs.jpeg8_encode(image.squeeze(-1) if samples == 1 else image, level,
                                         bitspersample=12), None)  # fmt: skip


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", [1, 7])
def test_lossless(check, bits, predictor):
    image = picture("smooth", 40, 50) << 4 >> 16 - bits
    image = image.astype(np.uint8) if bits == 8 else image
    stream = imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=predictor, bitspersample=bits, colorspace="rgb"
    )
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), image)
    check(stream)
    for kind in ("cut", "zeros to the end"):
        for seed in range(20):
            with pytest.raises(ValueError, match="the JPEG stream has"):
                check(damaged(stream, kind, np.random.default_rng(seed)))


def test_lossless_differences_of_16_bits_have_no_number(check):
    codes = [f"{size:05b}{bits}" for size, bits in map(number, [0, 1, -1])]
    lossless = {"bits": 16, "frame": 0xC3, "given": tables(17)}
    stream = jpeg(2, 2, scan([*codes, "10000"], spectrum=(1, 0, 0)), **lossless)
    assert imagecodecs.jpeg8_decode(stream).tolist() == [[32768, 32769], [32767, 65535]]
    check(stream)


def test_the_streams_made_here_are_what_they_should_be():
    """By the levels of libjpeg: eight blocks in restart intervals of three."""
    differences = [100, -50, 3, -200, 0, 7, 1000, -2000]
    blocks = [block(one, {5: 3, 40: -7, 63: 1} if one == 7 else None) for one in differences]
    stream = jpeg(16, 32, scan(blocks, restart=3), restart=3)
    found = imagecodecs.jpeg8_decode(stream).reshape(2, 8, 4, 8).mean(axis=(1, 3)).reshape(-1)
    sums = [np.cumsum(differences[at : at + 3]) for at in (0, 3, 6)]
    np.testing.assert_allclose(found, 2048 + np.concatenate(sums), atol=0.6)


@given(scan_streams(FACTORS))
def test_scans_of_any_order_have_as_many_blocks_as_they_need(made):
    stream = made()
    imagecodecs.jpeg8_decode(stream)
    check_scans(stream, None)
    for more in (-1, 1):
        with pytest.raises(ValueError, match="the JPEG stream has"):
            check_scans(made(more), None)


def test_fill_bytes_and_what_lies_between_scans_are_legal(check):
    data = scan([block(511)] * 4, restart=2)
    stream = jpeg(8, 32, data, restart=2)
    first = restarts(stream)[0]
    filled = stream[:first] + b"\xff\xff\xff" + stream[first:-2] + b"\xff" + EOI
    check(filled)
    check(stream[:-2] + segment(b"\xff\xfe", b"a comment") + EOI + bytes(9))
    assert imagecodecs.jpeg8_decode(filled).shape == (8, 32)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(check, name):
    stream, told = WRONG[name]
    with pytest.raises(ValueError, match=told) as error:
        check(stream)
    assert "the JPEG stream" in one_line(error)


@pytest.mark.parametrize("name", REFUSED)
def test_libjpeg_refuses_it_too(name):
    with pytest.raises(imagecodecs.Jpeg8Error):
        imagecodecs.jpeg8_decode(REFUSED[name][0])


@given(st.sampled_from(sorted(WRONG)), st.binary(max_size=40), st.floats(0, 1), st.booleans())
def test_any_bytes_are_taken_or_a_value_error(name, some, at, instead):
    stream = WRONG[name][0]
    start = int(at * len(stream))
    mutant = stream[:start] + some + stream[start + instead * len(some) :]
    found = []
    for modules in MODULES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numba_loader, "_modules", modules)
            try:
                decoded(mutant)
            except ValueError as error:
                found.append(one_line(error))
            else:
                found.append(None)
    assert found[0] == found[1]


@pytest.mark.parametrize("frame", [0xC2, 0xC9, 0xCA, 0xCB])
def test_other_processes_are_told(check, frame):
    with pytest.raises(ValueError, match=f"SOF{frame - 0xC0}.*sequential") as error:
        check(jpeg(16, 16, scan([block()] * 4), frame=frame))
    one_line(error)


def encoded_8_bits():
    """Return streams of 8 bits of all kinds, and their colours for simplejpeg."""
    for kind in ("smooth", "noise", "constant"):
        for mode, subsampling in (("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2)):
            for blocks in (0, 3):
                image = Image.fromarray((picture(kind, 61, 83) >> 4).astype(np.uint8)).convert(mode)
                stream = io.BytesIO()
                how = {"restart_marker_blocks": blocks} if blocks else {}
                image.save(stream, "JPEG", quality=80, subsampling=subsampling, **how)
                yield stream.getvalue(), "GRAY" if mode == "L" else "RGB"


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_libjpeg_warns_of_is_found(check, kind):
    """simplejpeg, which makes errors of its warnings, refuses no mutant that is taken here."""
    refused = 0
    for index, (stream, colours) in enumerate(encoded_8_bits()):
        simplejpeg.decode_jpeg(stream, colours)
        check(stream)
        if "restart" in kind and not restarts(stream):
            continue
        for seed in range(6):
            mutant = damaged(stream, kind, np.random.default_rng([index, seed]))
            assert has_end(mutant)
            try:
                simplejpeg.decode_jpeg(mutant, colours)
            except ValueError:
                refused += 1
                with pytest.raises(ValueError, match="the JPEG stream"):
                    check(mutant)
    assert refused > 20


LAYOUTS = {
    "tiles": {"tile": (48, 64)},
    "strips": {"rowsperstrip": 16},
    "planes": {"tile": (48, 64), "planarconfig": "separate"},
    "grey": {"tile": (48, 64)},
    "two samples of 8 bits": {"tile": (48, 64)},
    "lossless": {"tile": (48, 64), "compressionargs": {"lossless": True}},
}


@pytest.fixture(params=MODULES)
def either(request, monkeypatch):
    """Without and with the loops, whatever was loaded before."""
    monkeypatch.setattr(numba_loader, "_modules", MODULES[request.param])


def written(path, layout):
    """Write a slide of (96, 128) px and return its pixels, as tifffile has them."""
    stored = picture("smooth", 96, 128)
    how = {"photometric": "rgb"}
    if layout in ("planes", "grey", "two samples of 8 bits"):
        how = {"photometric": "minisblack"}
    if layout == "planes":
        stored, how["extrasamples"] = np.ascontiguousarray(stored.transpose(2, 0, 1)), [0, 0]
    elif layout == "grey":
        stored = np.ascontiguousarray(stored[..., 0])
    elif layout == "two samples of 8 bits":
        stored, how["extrasamples"] = (stored[..., :2] >> 4).astype(np.uint8), [0]
        how["planarconfig"] = "contig"
    tifffile.imwrite(path, stored, compression="jpeg", metadata=None, **how, **LAYOUTS[layout])
    whole = tifffile.imread(path)
    return whole.transpose(1, 2, 0) if layout == "planes" else whole.reshape(96, 128, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [None, "cut", "zeros to the end"])
@pytest.mark.usefixtures("either")
def test_slides(tmp_path, layout, kind):
    """Of all layouts are right or refused; the tile is named, and all others are read."""
    path = tmp_path / "a.tif"
    expected = written(path, layout)
    offset, count = segments(path)[1]
    if kind is not None:
        data = bytearray(path.read_bytes())
        stream = data[offset : offset + count]
        mutant = damaged(stream, kind, np.random.default_rng(2))
        # a stream that is cut has its end, and zeros behind it
        data[offset : offset + count] = mutant.ljust(count, b"\0")
        path.write_bytes(data)
    slide = ds.open_slide(path)
    found = ds.check_slide(path)
    if kind is None:
        np.testing.assert_array_equal(slide.read(0, 0, 96, 128), expected)
        assert ds.resize(slide, downsample=2).data.compute().shape[:2] == (48, 64)
        assert found.good
        return
    for read in (
        lambda: slide.read(0, 0, 96, 128),
        lambda: ds.resize(slide, downsample=8).data.compute(),
    ):
        with pytest.raises(ds.errors.TileDecodeError, match="the JPEG stream") as error:
            read()
        assert error.value.offset == offset
        one_line(error)
    (bad,) = (tile for tile in found.bad_tiles if tile.status == "corrupt")
    y, x = (16, 0) if layout == "strips" else (0, 64)
    assert (bad.region.y, bad.region.x) == (y, x)
    masked = ds.open_slide(path, on_bad_tile="mask").read(0, 0, 96, 128)
    np.testing.assert_array_equal(masked[48:], expected[48:])


def slide_of(path, stream, height=64, width=64, samples=1, **tags):
    """Write a slide of one strip, whose stream is given."""
    shape = (height, width, samples)[: 2 + (samples > 1)]
    tifffile.imwrite(
        path, iter([bytes(stream)]), shape=shape, dtype="uint16", rowsperstrip=height,
        photometric="rgb" if samples == 3 else "minisblack", compression="jpeg", metadata=None,
        **tags,
    )  # fmt: skip
    return ds.open_slide(path)


@pytest.mark.usefixtures("either")
def test_a_slide_with_restart_intervals(tmp_path):
    stream = jpeg(64, 64, scan([block(n) for n in range(64)], restart=7), restart=7)
    found = slide_of(tmp_path / "a.tif", stream).read(0, 0, 64, 64)[..., 0]
    np.testing.assert_array_equal(found, imagecodecs.jpeg8_decode(stream))


NO_PAGE = {"a difference too large", "no rows", "no columns", "eleven components"}
"""Of 8 bits, or of sizes that no page has."""


@pytest.mark.parametrize("name", [name for name in WRONG if name not in NO_PAGE])
@pytest.mark.usefixtures("either")
def test_a_slide_with_what_is_wrong(tmp_path, name):
    stream = WRONG[name][0]
    size = (16, 16, 1)
    with suppress(ValueError):  # there may be no frame header to tell
        frame = jpeg_frame(stream)
        size = frame.height, frame.width, frame.samples
    slide = slide_of(tmp_path / "a.tif", stream, *size)
    with pytest.raises(ds.errors.TileDecodeError, match="the JPEG stream") as error:
        slide.read(0, 0, *size[:2])
    one_line(error)
    assert ds.check_slide(slide).statuses["corrupt"] == 1


@pytest.mark.usefixtures("either")
def test_tables_that_lie_apart(tmp_path):
    units = [block(n) for n in range(64)]
    apart = b"\xff\xd8" + tables() + EOI
    path = tmp_path / "a.tif"
    stream = jpeg(64, 64, scan(units), given=b"")
    found = slide_of(path, stream, jpegtables=apart).read(0, 0, 64, 64)[..., 0]
    whole = jpeg(64, 64, scan(units))
    np.testing.assert_array_equal(found, imagecodecs.jpeg8_decode(whole))
    half = jpeg(64, 64, scan(units[:32]), given=b"")
    with pytest.raises(ds.errors.TileDecodeError, match="less data"):
        slide_of(path, half, jpegtables=apart).read(0, 0, 64, 64)


@pytest.mark.parametrize("kind", ["cut", "zeros to the end"])
def test_mutants_of_12_bits(tmp_path, kind):
    """`python -m benchmarks.trust` goes through a thousand of each kind."""
    path = tmp_path / "a.tif"
    stream = imagecodecs.jpeg8_encode(picture("smooth", 64, 64)[..., 0].copy(), bitspersample=12)
    right = slide_of(path, stream).read(0, 0, 64, 64)
    for seed in range(60):
        mutant = damaged(stream, kind, np.random.default_rng(seed))
        if mutant != stream:
            assert imagecodecs.jpeg8_decode(mutant).shape == right.shape[:2]  # silently
            with pytest.raises(ds.errors.TileDecodeError, match="the JPEG stream"):
                slide_of(path, mutant).read(0, 0, 64, 64)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region.jpeg.tiff"])
def test_tiles_of_real_slides_are_whole(name):
    """With tables apart and without, though they are of 8 bits."""
    with tifffile.TiffFile(real(name)) as tiff:
        page = tiff.pages[0]
        for index in range(0, len(page.dataoffsets), max(1, len(page.dataoffsets) // 12)):
            tiff.filehandle.seek(page.dataoffsets[index])
            stream = tiff.filehandle.read(page.databytecounts[index])
            check_scans(stream, page.jpegtables)
            if scan_start(stream) < len(stream) // 2:
                with pytest.raises(ValueError, match="less data"):
                    check_scans(stream[: len(stream) // 2] + EOI, page.jpegtables)
