"""JPEG that only imagecodecs decodes (lossless, 12 bits, two components) is read right or refused.

The streams are built code by code, so the expected samples follow from the standard (ITU-T T.81)
and not from a decoder.
"""

import numpy as np
import pytest
import tifffile
from jpeg_streams import block, jpeg, number, scan, tables
from rw_fixtures import noise, one_line, smooth
from tiff_bytes import tags_of, tiff

import dask_slides as ds

DCT = np.array([
    [np.sqrt((1 + (u > 0)) / 8) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)]
    for u in range(8)
])  # fmt: skip
ZIGZAG = sorted(range(64), key=lambda n: (sum(divmod(n, 8)), n if sum(divmod(n, 8)) % 2 else -n))


def slide_of(path, stream, shape, bits, photometric=None):
    """Return a slide of one strip of `shape` (h, w, c)."""
    tags = tags_of(shape, 7, bits=8 if bits <= 8 else 16, photometric=photometric)
    if shape[2] in (2, 4):
        tags[338] = (3, [0] * (shape[2] - 1))
    path.write_bytes(tiff(tags, [stream]))
    return ds.open_slide(path)


def read(slide):
    return slide.read(0, 0, *slide.shape[:2])


# ---------------------------------------------------------------- lossless (annex H)


def predicted(samples, y, x, predictor, middle, first):
    """Return the prediction of a sample; `first` tells whether its row begins an interval."""
    if x == 0:
        return middle if first else samples[y - 1, 0]
    left = samples[y, x - 1]
    if first or predictor == 1:
        return left
    above, corner = samples[y - 1, x], samples[y - 1, x - 1]
    return (above, corner, left + above - corner, left + (above - corner >> 1),
            above + (left - corner >> 1), left + above >> 1)[predictor - 2]  # fmt: skip


def lossless(samples, bits, predictor, shift=0, rows=0, **header):
    """Return a stream of `samples` (h, w, c), with a restart marker every `restart` rows."""
    samples = samples.astype(int) >> shift
    height, width, count = samples.shape
    units = []
    for y, x in np.ndindex(height, width):
        expected = predicted(samples, y, x, predictor, 1 << bits - shift - 1, y % (rows or 99) == 0)
        differences = (samples[y, x] - expected + 2**15) % 2**16 - 2**15
        codes = [(16, "") if n == -(2**15) else number(int(n)) for n in differences]
        units.append("".join(f"{size:05b}{text}" for size, text in codes))
    data = scan(units, range(count), rows * width, (predictor, 0, shift))
    return jpeg(height, width, data, bits=bits, frame=0xC3, restart=rows * width, **{
        "given": tables(17), "factors": ((1, 1),) * count} | header)  # fmt: skip


@pytest.mark.parametrize("bits", [2, 8, 9, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless(tmp_path, bits, predictor):
    count, shift, rows = 1 + predictor % 4, predictor % 2, (0, 1, 2)[predictor % 3]
    samples = noise(7, 11, count, dtype="uint16", top=2**bits - 1) >> shift << shift
    stream = lossless(samples, bits, predictor, shift, rows)
    slide = slide_of(tmp_path / "a.tif", stream, samples.shape, bits)
    found = read(slide)
    assert found.dtype == ("uint8" if bits <= 8 else "uint16")
    np.testing.assert_array_equal(found, samples)


COLOUR = noise(4, 8, 3)


@pytest.mark.parametrize(
    ("stream", "photometric", "reason"),
    [
        (lossless(COLOUR, 8, 1), 6, "lossless JPEG of YCbCr"),
        (lossless(COLOUR, 8, 1, factors=((2, 1), (1, 1), (1, 1))), 2, "subsampled components"),
        (
            # imagecodecs.ljpeg_decode returns other samples for this stream
            jpeg(2, 4, scan(["00000"] * 8, (0,), 3, (1, 0, 0)), frame=0xC3, bits=8,
                 given=tables(17), restart=3),
            None, "restart interval",
        ),
    ],
)  # fmt: skip
def test_lossless_that_would_be_decoded_wrong_is_refused(tmp_path, stream, photometric, reason):
    shape = COLOUR.shape if photometric else (2, 4, 1)
    slide = slide_of(tmp_path / "a.tif", stream, shape, 8, photometric)
    with pytest.raises(ds.errors.TileDecodeError, match=reason) as error:
        read(slide)
    one_line(error)


# ---------------------------------------------------------------- of a DCT (annexes F and G)


def samples_of(coefficients, bits, size, grid):
    """Return the samples of a `grid` of quantised blocks."""
    plane = np.zeros((grid[0], 8, grid[1], 8))
    for at, values in zip(np.ndindex(grid), coefficients, strict=True):
        square = np.zeros(64)
        square[[ZIGZAG[place] for place in values]] = [8 * value for value in values.values()]
        plane[at[0], :, at[1]] = DCT.T @ square.reshape(8, 8) @ DCT
    whole = plane.reshape(8 * grid[0], 8 * grid[1])[: size[0], : size[1]]
    return np.clip(whole + 2 ** (bits - 1), 0, 2**bits - 1)


def dct_stream(size, bits, count, *, apart=False, progressive=False, restart=0):
    """Return a stream of random coefficients and its unrounded samples (h, w, c)."""
    rng = np.random.default_rng([*size, bits, count])
    grid = -(-size[0] // 8), -(-size[1] // 8)
    largest = 2 ** (bits - 4)
    units, planes = [], []
    for _ in range(count):
        level, codes, blocks = 0, [], []
        for n in range(grid[0] * grid[1]):
            step = int(rng.integers(-largest, largest))
            level = step + (level if not restart or n % restart else 0)
            more = {int(at): int(rng.integers(1, largest)) for at in rng.integers(1, 64, 3)}
            first, rest = block(step)[: -len("00000000")], block(0, more)[len("00000") :]
            codes.append((first, rest))
            blocks.append({0: level, **more})
        units.append(codes)
        planes.append(samples_of(blocks, bits, size, grid))
    together = ["".join(f + r for f, r in unit) for unit in zip(*units, strict=True)]
    scans = [scan(together, range(count), restart)]
    if progressive:  # differences of all components first
        firsts = ["".join(f for f, _ in unit) for unit in zip(*units, strict=True)]
        scans = [scan(firsts, range(count), restart, (0, 0, 0)), *(
            scan([r for _, r in codes], (n,), restart, (1, 63, 0)) for n, codes in enumerate(units)
        )]  # fmt: skip
    elif apart:
        scans = [scan([f + r for f, r in codes], (n,), restart) for n, codes in enumerate(units)]
    frame = 0xC2 if progressive else 0xC1
    stream = jpeg(*size, *scans, factors=((1, 1),) * count, bits=bits, frame=frame, restart=restart)
    return stream, np.stack(planes, axis=-1)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"apart": True}, {"progressive": True}], ids=str)
def test_samples_of_a_dct(tmp_path, bits, count, options):
    for size, restart in (((16, 24), 0), ((17, 33), 3), ((5, 9), 1)):
        stream, expected = dct_stream(size, bits, count, restart=restart, **options)
        slide = slide_of(tmp_path / f"{restart}.tif", stream, expected.shape, bits)
        assert np.abs(read(slide) - expected).max() <= 1


@pytest.mark.parametrize("bits", [9, 10, 16])
def test_a_dct_of_other_bits_is_refused(tmp_path, bits):
    stream, expected = dct_stream((16, 24), bits, 1)
    slide = slide_of(tmp_path / "a.tif", stream, expected.shape, bits)
    with pytest.raises(ds.errors.TileDecodeError, match=f"precision {bits}") as error:
        read(slide)
    one_line(error)


LAYOUTS = {
    "tiles": {"tile": (48, 64)},
    "strips": {"rowsperstrip": 16},
    "planes": {"tile": (48, 64), "planarconfig": "separate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("args", [{"lossless": True}, {"level": 98}], ids=str)
@pytest.mark.parametrize("bits", [8, 12])
def test_images_that_tifffile_writes(tmp_path, layout, args, bits):
    path, picture = tmp_path / "a.tif", smooth(150, 200)
    picture = picture if bits == 8 else picture.astype(np.uint16) * 16
    options = {"photometric": "rgb"}
    if layout == "planes":
        options = {"photometric": "minisblack", "extrasamples": [0, 0]}
    stored = np.ascontiguousarray(picture.transpose(2, 0, 1)) if layout == "planes" else picture
    tifffile.imwrite(
        path, stored, compression="jpeg", compressionargs={**args}, metadata=None,
        **LAYOUTS[layout], **options,
    )  # fmt: skip
    slide = ds.open_slide(path)
    off = np.abs(slide.data.compute() - picture.astype(int))
    assert off.mean() <= (0 if "lossless" in args else 2 ** (bits - 8))
    assert ds.resize(slide, downsample=8).shape == (19, 25, 3)


# ---------------------------------------------------------------- header and end


def test_tables_that_are_stored_apart(tmp_path):
    whole, expected = dct_stream((16, 24), 12, 2)
    path = tmp_path / "a.tif"
    apart = b"\xff\xd8" + tables() + b"\xff\xd9"
    tifffile.imwrite(
        path, iter([whole.replace(tables(), b"")]), shape=(16, 24, 2), dtype="uint16",
        rowsperstrip=16, photometric="minisblack", planarconfig="contig", extrasamples=[0],
        compression="jpeg", metadata=None, jpegtables=apart,
    )  # fmt: skip
    assert np.abs(read(ds.open_slide(path)) - expected).max() <= 1


STREAMS = {
    "12 bits": (12, (16, 24, 1), dct_stream((16, 24), 12, 1)[0]),
    "lossless": (8, (16, 24, 1), lossless(noise(16, 24, 1), 8, 1)),
    "two components": (8, (16, 24, 2), dct_stream((16, 24), 8, 2)[0]),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_header_and_end_are_checked(tmp_path, kind):
    """Damage between header and end is not detected: imagecodecs ignores warnings of libjpeg."""
    bits, (height, width, count), stream = STREAMS[kind]
    assert read(slide_of(tmp_path / "a.tif", stream, (height, width, count), bits)).any()
    start = stream.index(b"\xff\xda")
    for name, data, shape, deep, reason in (
        ("end", stream[:-2], (height, width, count), bits, "has no end"),
        ("cut", stream[: start + 20], (height, width, count), bits, "has no end"),
        ("header", stream[:20] + stream[start:], (height, width, count), bits, "JPEG stream has"),
        ("size", stream, (height + 1, width, count), bits, "where the page says"),
        ("samples", stream, (height, width, 3), bits, "components where the page says"),
        ("bits", stream, (height, width, count), 20 - bits, "bits per sample where the page says"),
    ):
        slide = slide_of(tmp_path / f"{name}.tif", data, shape, deep)
        with pytest.raises(ds.errors.TileDecodeError, match=reason) as error:
            read(slide)
        one_line(error)
