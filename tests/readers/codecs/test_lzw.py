"""LZW by the compiled loop: the bytes of imagecodecs, or none."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import dask_slides as ds
from dask_slides.numerics.loops import lzw as loops
from dask_slides.readers.codecs import lzw, strict_bytes
from dask_slides.runtime import numba_loader

CLEAR, END = 256, 257


@pytest.fixture(params=["compiled", "plain"])
def unpack(request):
    """The loop as compiled, or the Python that it was compiled from."""
    return loops.unpack if request.param == "compiled" else loops.unpack.py_func


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setattr(numba_loader, "_modules", {"lzw": loops})


def decoded(unpack, data, size):
    memory = np.full(256 + size + 8 + 64, 77, np.uint8)
    memory[:256] = np.arange(256)
    length = unpack(np.frombuffer(data + bytes(8), np.uint8), memory[: 256 + size + 8])
    assert -1 <= length <= size
    assert (memory[:256] == np.arange(256)).all()  # nothing is written beside it
    assert (memory[256 + size + 8 :] == 77).all()
    return length, memory[256 : 256 + max(length, 0)].tobytes()


def stream(codes, width=9):
    """Return codes of one width as TIFF packs them: the highest bit first."""
    return packed("".join(f"{code:0{width}b}" for code in codes))


def packed(bits):
    return bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))


def patterns():
    rng = np.random.default_rng(1)
    yield "noise: the table fills and is cleared", rng.integers(0, 256, 40_000)
    yield "one value: strings of thousands", np.zeros(3_000_000)
    yield "two by turns", np.arange(60_000) % 2
    yield "steps", np.repeat(rng.integers(0, 9, 3000), rng.integers(1, 60, 3000))
    yield "few values", rng.integers(0, 3, 60_000)


@pytest.mark.parametrize(("name", "values"), list(patterns()), ids=lambda one: str(one)[:6])
def test_what_libraries_write(name, values):
    plain = values.astype(np.uint8).tobytes()
    data = imagecodecs.lzw_encode(plain)
    assert decoded(loops.unpack, data, len(plain)) == (len(plain), plain)
    assert bytes(lzw.unpacked(data, len(plain), 0)) == plain


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=600) | st.lists(st.sampled_from(b"ab"), max_size=900).map(bytes))
def test_any_bytes(plain):
    assert decoded(loops.unpack, imagecodecs.lzw_encode(plain), len(plain)) == (len(plain), plain)


def test_step_by_step(unpack):
    """The example of the TIFF 6.0 specification, section 13, page 60."""
    codes = [CLEAR, 7, 258, 8, 8, 258, 6, 6, END]
    expected = bytes([7, 7, 7, 8, 8, 7, 7, 6, 6])
    assert decoded(unpack, stream(codes), 9) == (9, expected)
    assert imagecodecs.lzw_decode(stream(codes), out=9) == expected
    twice = [CLEAR, 1, 258, CLEAR, CLEAR, 2, 258, END, 9, 9]
    assert decoded(unpack, stream(twice), 6) == (6, bytes([1, 1, 1, 2, 2, 2]))
    assert decoded(unpack, stream([CLEAR, END]), 0) == (0, b"")


@pytest.mark.parametrize(
    ("why", "codes", "size"),
    [
        ("no end", [CLEAR, 1, 2], 2),
        ("nothing", [], 0),
        ("no clear", [1, 2, END], 2),
        ("an end alone", [END], 0),
        ("more than there is room", [CLEAR, 1, 2, 3, END], 2),
        ("a string with more", [CLEAR, 1, 258, 259, END], 5),
        ("a code of no string", [CLEAR, 1, 260, END], 9),
        ("a string before the first byte", [CLEAR, 258, END], 9),
        ("the same after a clear", [CLEAR, 1, 2, CLEAR, 258, END], 9),
    ],
)
def test_what_is_no_stream(unpack, why, codes, size):
    assert decoded(unpack, stream(codes), size)[0] == -1, why
    if codes:
        assert lzw.unpacked(stream(codes), size, 0) is None


def test_a_full_table_is_no_stream():
    """Codes go on where a clear must come: 12 bits can tell 3,838 strings."""
    plain = np.random.default_rng(2).integers(0, 256, 3837).astype(np.uint8)
    codes, widths = [CLEAR, *plain.tolist()], [9]
    for new in range(258, 258 + len(plain)):
        widths.append(min(12, max(9, int(new).bit_length())))
    bits = "".join(f"{code:0{width}b}" for code, width in zip(codes, widths, strict=True))
    for more, length in (([END], 3837), ([1, 1, END], 3839), ([1, 1, 1, END], -1)):
        data = packed(bits + "".join(f"{code:012b}" for code in more))
        assert decoded(loops.unpack, data, 4000)[0] == length


@settings(deadline=None, max_examples=400)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-40, 40),
)
@example(0, [(0.999, 0)], 0)
def test_damage_is_told_or_read_as_imagecodecs_reads_it(seed, damage, more):
    rng = np.random.default_rng(seed)
    plain = rng.integers(0, rng.integers(2, 256), 3000).astype(np.uint8).tobytes()
    data = bytearray(imagecodecs.lzw_encode(plain))
    for at, value in damage:
        data[int(at * (len(data) - 1))] = value
    size = len(plain) + more
    length, found = decoded(loops.unpack, bytes(data), size)
    if length >= 0:
        assert found == bytes(imagecodecs.lzw_decode(bytes(data), out=size))


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("layout", ["tiles", "strips", "planes", "16 bits", "turned bits"])
def test_slides_are_read_by_it(tmp_path, monkeypatch, layout, predictor):
    shape = (3, 300, 200) if layout == "planes" else (300, 200, 3)
    dtype = np.uint16 if layout == "16 bits" else np.uint8
    pixels = np.random.default_rng(4).integers(0, 5, shape).cumsum(axis=-2).astype(dtype)
    how = {"tile": (64, 64)} if layout in ("tiles", "16 bits") else {"rowsperstrip": 50}
    if layout == "planes":
        how["planarconfig"] = "separate"
    path = tmp_path / "s.tif"
    if layout == "turned bits":  # the lowest bit of a byte first
        tags = {266: 2, 317: predictor}
        Image.fromarray(pixels).save(path, compression="tiff_lzw", tiffinfo=tags)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].fillorder == 2
    else:
        tifffile.imwrite(
            path, pixels, compression="lzw", predictor=predictor, photometric="rgb", **how
        )
    by_us = []

    def counted(*given):
        by_us.append(lzw.unpacked(*given))
        return by_us[-1]

    monkeypatch.setattr(strict_bytes, "unpacked", counted)
    found = np.asarray(ds.open_slide(path).data.compute())
    expected = np.moveaxis(pixels, 0, -1) if layout == "planes" else pixels
    np.testing.assert_array_equal(found, expected)
    assert by_us
    assert all(one is not None for one in by_us)
