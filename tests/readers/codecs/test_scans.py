"""JPEG that the compiled loops decode: to the bit what libjpeg makes of it, or nothing."""

import copy

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_streams import ADOBE, DHT, JFIF, block, huffman_table, jpeg, number, scan, segment, tables
from rw_fixtures import noise, segments, smooth
from strategies import pixels, scan_streams, seeds, shapes

import dask_slides as ds
from dask_slides.numerics.loops import codes, samples
from dask_slides.readers.codecs import scans, strict
from dask_slides.readers.codecs.headers import jpeg_frame
from dask_slides.readers.codecs.scans import decode_scans
from dask_slides.readers.codecs.strict import strict_decode
from dask_slides.runtime import numba_loader

FACTORS = [((1, 1),), ((1, 1),) * 2, ((2, 2), (1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 2), (1, 1)),
           ((2, 2), (2, 1), (1, 2)), ((4, 1), (1, 1), (2, 1)), ((1, 1),) * 4, ((1, 3), (1, 1)),
           ((3, 2), (2, 1))]  # fmt: skip
"""Sampling factors, component by component; no whole number enlarges the last ones."""


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setattr(numba_loader, "_modules", {"codes": codes, "samples": samples})


def decoded(stream, guessed=False):
    return decode_scans(stream, None, of_image=0, guessed=guessed)


def as_they_are(stream):
    """Return what libjpeg makes of components whose colours are left alone."""
    if jpeg_frame(stream).samples == 3:
        return imagecodecs.jpeg8_decode(stream, colorspace="ycbcr", outcolorspace="ycbcr")
    found = imagecodecs.jpeg8_decode(stream)
    return found[..., None] if found.ndim == 2 else found


@given(
    seed=seeds,
    shape=shapes,
    count=st.sampled_from([1, 2, 3, 4]),
    level=st.integers(5, 100),
    subsampling=st.sampled_from(["444", "422", "420", "440", "411"]),
)
def test_any_image_of_12_bits(seed, shape, count, level, subsampling):
    image = pixels(seed, (*shape, count), "uint16") >> 4
    how = {"subsampling": subsampling} if count == 3 else {}
    stream = imagecodecs.jpeg8_encode(image.squeeze(-1) if count == 1 else image, level,
                                      bitspersample=12, **how)  # fmt: skip
    guessed = imagecodecs.jpeg8_decode(stream)
    np.testing.assert_array_equal(decoded(stream, True), guessed.reshape(*shape, count))
    np.testing.assert_array_equal(decoded(stream), as_they_are(stream))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440"])
@pytest.mark.parametrize("level", [40, 97])
def test_a_picture(subsampling, level):
    image = smooth(160, 208).astype(np.uint16) * 16 + noise(160, 208, 3) % 16
    stream = imagecodecs.jpeg8_encode(image, level, bitspersample=12, subsampling=subsampling)
    np.testing.assert_array_equal(decoded(stream, True), imagecodecs.jpeg8_decode(stream))


@given(seed=seeds, shape=shapes, level=st.integers(1, 100))
def test_two_samples_of_8_bits(seed, shape, level):
    stream = imagecodecs.jpeg8_encode(pixels(seed, (*shape, 2), "uint8"), level)
    found = decoded(stream)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, imagecodecs.jpeg8_decode(stream))


@given(scan_streams(FACTORS, 200))
def test_scans_of_any_order(made):
    stream = made()
    try:
        expected = as_they_are(stream)
    except imagecodecs.Jpeg8Error:  # of sampling factors
        assert decoded(stream) is None
    else:
        np.testing.assert_array_equal(decoded(stream), expected)


@given(scan_streams(FACTORS, 8000))
def test_samples_far_out_of_range_are_right_or_left_to_libjpeg(made):
    stream = made()
    found = decoded(stream)
    if found is not None:
        np.testing.assert_array_equal(found, as_they_are(stream))


@pytest.mark.parametrize("difference", [8191, -8191, 8190 * 2, -8190 * 2])
def test_what_libjpeg_cuts_and_what_comes_round(difference):
    """Levels of 12 bits go from 0 to 4095, of 2048 and `difference`: cut up to 8191."""
    stream = jpeg(8, 8, scan([block(difference)]))
    far = abs(difference) > 8191
    assert (decoded(stream) is None) == far
    if not far:
        np.testing.assert_array_equal(decoded(stream), as_they_are(stream))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless(bits, predictor):
    rng = np.random.default_rng([bits, predictor])
    shift, count = (bits - 2) % 3, 1 + predictor % 4
    units = ["".join(f"{size:05b}{text}" for size, text in
                     (number(int(n)) for n in rng.integers(-(2**bits) // 3, 2**bits // 3, count)))
             for _ in range(7 * 11)]  # fmt: skip
    for restart in (0, 11, 22):
        data = scan(units, range(count), restart, (predictor, 0, shift))
        stream = jpeg(7, 11, data, bits=bits, frame=0xC3, given=tables(17), restart=restart,
                      factors=((1, 1),) * count)  # fmt: skip
        expected = imagecodecs.jpeg8_decode(stream).reshape(7, 11, count)
        found = decoded(stream)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_code_of_ones_alone():
    """Differences of 0 have it here, of 16 codes of 4 bits: the standard forbids it."""
    units = ["".join(f"{15 - size:04b}{bits}00000000" for size, bits in [number(one)])
             for one in (0, 5, -900, 0)]  # fmt: skip
    ones = segment(DHT, bytes([0, 0, 0, 0, 16] + [0] * 12 + [*range(15, -1, -1)]))
    given = tables().replace(huffman_table(0, 5, 16), ones)
    stream = jpeg(16, 16, scan(units), given=given)
    np.testing.assert_array_equal(decoded(stream), as_they_are(stream))


def test_lossless_components_apart():
    units = [[f"{size:05b}{text}" for size, text in map(number, values)]
             for values in np.random.default_rng(0).integers(-9, 9, (2, 30)).tolist()]  # fmt: skip
    parts = [scan(one, (n,), spectrum=(4, 0, 0)) for n, one in enumerate(units)]
    stream = jpeg(5, 6, *parts, bits=12, frame=0xC3, given=tables(17), factors=((1, 1),) * 2)
    np.testing.assert_array_equal(decoded(stream), imagecodecs.jpeg8_decode(stream))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (jpeg(2, 4, scan(["00000"] * 8, (0,), 3, (1, 0, 0)), frame=0xC3, given=tables(17),
              restart=3), "a restart interval that ends within a row"),
        (jpeg(2, 4, scan(["00000"] * 8, spectrum=(0, 0, 0)), frame=0xC3, given=tables(17)),
         "no predictor"),
        (jpeg(2, 4, scan(["00000"] * 8, spectrum=(1, 0, 12)), frame=0xC3, given=tables(17)),
         "no bits that are left"),
        (jpeg(2, 4, scan(["00000"] * 8, spectrum=(1, 0, 0)), frame=0xC3, given=tables(17),
              bits=200), "more than 16 bits"),
        (jpeg(8, 8, scan([block()]), bits=10), "neither 8 nor 12 bits"),
        (jpeg(8, 8, scan([block()]), given=tables().replace(b"\xff\xdb", b"\xff\xec", 1)),
         "no quantisation"),
        (jpeg(8, 8, scan([block()]), given=tables() +
              segment(b"\xff\xdb", b"\x10" + b"\x10\x00" * 64)), "very coarse quantisation"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
def test_what_is_left_to_libjpeg(stream, why):
    assert decoded(stream) is None, why


@pytest.mark.parametrize("names", [(1, 2, 3), (0, 1, 2), tuple(b"RGB")], ids=str)
@pytest.mark.parametrize("told", [b"", segment(b"\xff\xe0", JFIF), *(
    segment(b"\xff\xee", ADOBE + bytes([kind])) for kind in (0, 1))])  # fmt: skip
def test_colours_are_what_libjpeg_takes_them_for(names, told):
    units = [block(one, {3: 9}) + block(-3 * one) + block(2 * one) for one in range(20, 180, 40)]
    stream = jpeg(16, 16, scan(units, names), factors=((1, 1),) * 3, given=told + tables(),
                  names=names)  # fmt: skip
    np.testing.assert_array_equal(decoded(stream, True), imagecodecs.jpeg8_decode(stream))
    np.testing.assert_array_equal(decoded(stream), as_they_are(stream))


@pytest.mark.parametrize("kind", [None, 0, 2])
def test_four_components_are_left_to_libjpeg_if_it_transforms_them(kind):
    told = b"" if kind is None else segment(b"\xff\xee", ADOBE + bytes([kind]))
    units = ["".join(block(40 * n + one) for n in range(4)) for one in range(4)]
    stream = jpeg(16, 16, scan(units, range(4)), factors=((1, 1),) * 4, given=told + tables())
    if kind == 2:
        assert decoded(stream, True) is None
    else:
        np.testing.assert_array_equal(decoded(stream, True), imagecodecs.jpeg8_decode(stream))


@pytest.mark.parametrize("frame", [0xC1, 0xC3])
def test_no_memory_is_taken_for_what_cannot_be_in_the_stream(frame):
    """65,500 x 65,500 px in a stream of 200 bytes."""
    stream = jpeg(65_500, 65_500, scan([block()] * 4, spectrum=(0, 63, 0) if frame == 0xC1 else
                  (1, 0, 0)), frame=frame, given=tables())  # fmt: skip
    memory = {}
    reader = scans._Decoding(0, 8 * len(stream), memory)
    with pytest.raises(ValueError, match="the JPEG stream has"):
        scans.read_scans(stream, None, reader)
    assert sum(array.nbytes for array in memory.values()) < 10_000
    assert reader.pixels(False) is None


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_too_large_is_checked_and_left_to_libjpeg(apart, monkeypatch):
    """Of another stream one block is missing."""
    monkeypatch.setattr(scans, "_MOST", 2**15)
    count = 2**15 // 64 + 2

    def stream(more):
        if apart:
            parts = [scan([block()] * (count // 2 + more), (n,)) for n in (0, 1)]
            return jpeg(8, 8 * (count // 2), *parts, factors=((1, 1),) * 2)
        return jpeg(8, 8 * count, scan([block()] * (count + more)))

    memory = {}
    for more in (0, -1):
        reader = scans._Decoding(0, 8 * len(stream(more)), memory)
        if more:
            with pytest.raises(ValueError, match="less data"):
                scans.read_scans(stream(more), None, reader)
        else:
            scans.read_scans(stream(more), None, reader)
        assert reader.pixels(False) is None
    assert memory["blocks"].nbytes == 2048


class Counted:
    """The decode of a page of tifffile, and how often it was asked."""

    def __init__(self, decode):
        self.decode, self.asked = decode, 0

    def __call__(self, *args, **options):
        self.asked += 1
        return self.decode(*args, **options)


def counted(page):
    page.__dict__["decode"] = found = Counted(page.decode)
    return found


def slide(path, kind):
    """Write tiles of (48, 64) px, some of them not whole."""
    stored = smooth(300, 400).astype(np.uint16) * 16 + noise(300, 400, 3) % 16
    how = {"photometric": "rgb", "tile": (48, 64)}
    if kind == "big-endian":  # its writer encodes native samples only
        tiles = [
            imagecodecs.jpeg8_encode(np.ascontiguousarray(stored[y : y + 48, x : x + 64]), 90,
                                     bitspersample=12, colorspace="rgb", outcolorspace="rgb")
            for y in range(0, 300, 48) for x in range(0, 400, 64)
        ]  # fmt: skip
        how |= {"byteorder": ">", "shape": stored.shape, "dtype": "uint16", "bitspersample": 12}
        stored = iter(tiles)
    elif kind == "planes":
        stored, how["planarconfig"] = np.ascontiguousarray(stored.transpose(2, 0, 1)), "separate"
    elif kind == "grey":
        stored, how["photometric"] = np.ascontiguousarray(stored[..., 0]), "minisblack"
    elif kind == "two samples of 8 bits":
        stored = (stored[..., :2] >> 4).astype(np.uint8)
        how |= {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [0]}
    elif kind == "lossless":
        how["compressionargs"] = {"lossless": True}
    elif kind == "strips":
        del how["tile"]
        how["rowsperstrip"] = 48
    tifffile.imwrite(path, stored, compression="jpeg", metadata=None, **how)


KINDS = ["little-endian", "big-endian", "planes", "grey", "two samples of 8 bits", "lossless",
         "strips"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_tile_is_decoded_once_after_two_that_prove_it(tmp_path, kind):
    path = tmp_path / "a.tif"
    slide(path, kind)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        right = copy.copy(page).decode
        decode = strict_decode(page)
        decode._decode = tifffiles = Counted(decode._decode)
        for index, (offset, count) in enumerate(segments(path)):
            tiff.filehandle.seek(offset)
            data = tiff.filehandle.read(count)
            found, expected = (
                decode(data, index, _fullsize=True),
                right(data, index, _fullsize=True),
            )
            assert found[1:] == expected[1:]
            assert found[0].dtype == expected[0].dtype
            np.testing.assert_array_equal(found[0], expected[0])
    assert index > 3
    assert tifffiles.asked == 2  # the first one is only looked at, the second proves the way
    read = ds.open_slide(path).read(0, 0, 300, 400)
    whole = tifffile.imread(path)
    whole = whole.transpose(1, 2, 0) if kind == "planes" else whole.reshape(300, 400, -1)
    np.testing.assert_array_equal(read, whole)


def test_a_way_that_makes_other_samples_is_not_used(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    slide(path, "little-endian")
    ours = strict.decode_scans
    monkeypatch.setattr(strict, "decode_scans", lambda *args, **how: ours(*args, **how) ^ 1)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tifffiles, decode = counted(page), strict_decode(page)
        for index, (offset, count) in enumerate(segments(path)):
            tiff.filehandle.seek(offset)
            data = tiff.filehandle.read(count)
            np.testing.assert_array_equal(
                decode(data, index)[0], tifffiles.decode(data, index)[0]
            )  # fmt: skip
    assert tifffiles.asked == index + 1


def test_tiles_decoded_before_the_loops_are_there_do_not_count(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    slide(path, "little-endian")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tifffiles, decode = counted(page), strict_decode(page)
        places = segments(path)

        def read(index):
            offset, count = places[index]
            tiff.filehandle.seek(offset)
            decode(tiff.filehandle.read(count), index)

        with monkeypatch.context() as patch:
            patch.setattr(numba_loader, "_modules", {"codes": None})
            for index in range(10):
                read(index)
        assert tifffiles.asked == 10
        for index in range(10, 20):
            read(index)
        assert tifffiles.asked == 12


@st.composite
def lossless(draw):
    """Return a stream of differences of up to 16 bits."""
    height, width, count = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rng, bits = np.random.default_rng(draw(seeds)), draw(st.integers(2, 16))
    units = ["".join(f"{size:05b}{text}" for size, text in
                     (number(int(n)) for n in rng.integers(1 - 2**bits, 2**bits, count) // 2))
             for _ in range(height * width)]  # fmt: skip
    restart = draw(st.sampled_from([0, width]))
    data = scan(units, range(count), restart, (draw(st.integers(1, 7)), 0, draw(st.integers(0, 1))))
    return jpeg(height, width, data, bits=bits, frame=0xC3, given=tables(17), restart=restart,
                factors=((1, 1),) * count)  # fmt: skip


any_streams = st.one_of(scan_streams(FACTORS, 200).map(lambda made: made()), lossless())


@given(any_streams, st.binary(max_size=40), st.floats(0, 1))
@settings(deadline=None)
def test_as_plain_python(stream, some, at):
    """Which looks at every index, as the compiled loops do not; of damaged streams too."""
    start = int(at * len(stream))
    plain = {
        name: type(name, (), {key: staticmethod(value.py_func)
                              for key, value in vars(module).items() if hasattr(value, "py_func")})
        for name, module in (("codes", codes), ("samples", samples))
    }  # fmt: skip
    for data in (stream, stream[:start] + some + stream[start + len(some) :]):
        found = []
        for modules in (plain, numba_loader._modules):
            reader = scans._Decoding(0, 8 * len(data), {})
            with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
                patch.setattr(numba_loader, "_modules", modules)
                if modules is plain:  # compiled, it would give back numbers of Python
                    patch.setattr(codes, "_filled", codes._filled.py_func)
                try:
                    scans.read_scans(data, None, reader)
                    found.append([reader.pixels(guessed) for guessed in (False, True)])
                except ValueError as error:
                    found.append(str(error))
        if isinstance(found[0], str):
            assert found[0] == found[1]
            continue
        for ours, theirs in zip(*found, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                np.testing.assert_array_equal(ours, theirs)
