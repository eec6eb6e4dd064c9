"""Detectors that run a model. The models are made here, and are sums that numpy computes too."""

import hashlib
import io
import pickle
import sys
from types import SimpleNamespace

import dask
import dask.array
import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

import dask_slides as ds
from dask_slides import errors
from dask_slides.cli import main
from dask_slides.numerics import onnx_detector
from dask_slides.numerics.mask_detectors import MaskDetector, Overview

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

GLASS = (240, 238, 236)
LIMIT = 600.5
"""Tissue is where the mean over a window of the sum of red, green and blue is smaller."""
RAW = {"mean": (0, 0, 0), "std": (1 / 255,) * 3, "jpeg_quality": None}
"""The samples as they are."""


def save_model(path, size=1, shape=("n", 3, "h", "w"), final="classes", weights=(1, 1, 1)):
    """Write a model: LIMIT minus the mean over size x size pixels of the weighted sum."""
    kernel = np.zeros((2 if final == "classes" else 1, 3, size, size), np.float32)
    kernel[0] = -np.array(weights)[:, None, None] / size**2
    bias = np.array([LIMIT, 0][: len(kernel)], np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["score"], pads=[size // 2] * 4),
        helper.make_node("Sigmoid" if final == "probability" else "Identity", ["score"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "tissue",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, (shape[0], len(kernel), *shape[2:]))],
        [onnx.numpy_helper.from_array(kernel, "kernel"),
         onnx.numpy_helper.from_array(bias, "bias")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the paths of models by name."""
    folder = tmp_path_factory.mktemp("models")
    return SimpleNamespace(
        folder=folder,
        one=save_model(folder / "one.onnx"),
        window=save_model(folder / "window.onnx", size=5),
        logit=save_model(folder / "logit.onnx", final="logit"),
        probability=save_model(folder / "probability.onnx", final="probability"),
        fixed=save_model(folder / "fixed.onnx", shape=(2, 3, 24, 24)),
    )


def picture(seed, shape):
    """Return glass with stained squares; at least 95 % of each channel are at most the glass."""
    rng = np.random.default_rng(seed)
    image = np.empty((*shape, 3), np.uint8)
    image[:] = GLASS
    dark = rng.random(shape) < 0.4
    image[dark] = rng.integers(60, 236, (int(dark.sum()), 3))
    return image


def windowed(image, size=1):
    """Return the mask of `image` amid glass by the sums over windows."""
    sums = image.sum(axis=2, dtype=np.int64)
    kernel = np.ones((size, size), np.int64)
    totals = ndimage.convolve(sums, kernel, mode="constant", cval=sum(GLASS))
    return totals < LIMIT * size**2


@given(
    st.integers(0, 99),
    st.tuples(st.integers(8, 90), st.integers(8, 90)),
    st.integers(5, 40),
    st.integers(2, 9),
    st.integers(1, 5),
)
def test_seams_of_patches_do_not_show(models, seed, shape, patch, margin, batch):
    image = picture(seed, shape)
    margin = min(margin, (patch - 1) // 2)
    options = {"patch": patch, "margin": margin, "batch": batch}
    detector = ds.OnnxTissue(models.window, **options, **RAW)
    found = detector.find(Overview(image, None, 10))
    assert np.array_equal(found, windowed(image, 5))


def test_without_a_margin_seams_show(models):
    image = picture(1, (90, 90))
    found = ds.OnnxTissue(models.window, patch=30, margin=0, **RAW).find(Overview(image, None, 10))
    wrong = found != windowed(image, 5)
    assert wrong.any() and not wrong[2:28, 2:28].any()


@pytest.mark.parametrize("name", ["logit", "probability"])
@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_one_channel(models, name, threshold):
    image = picture(2, (50, 70))
    detector = ds.OnnxTissue(
        getattr(models, name), output=name, threshold=threshold, patch=32, margin=4, **RAW
    )
    logits = LIMIT - image.sum(axis=2, dtype=np.int64)
    expected = 1 / (1 + np.exp(-logits)) > threshold
    assert np.array_equal(detector.find(Overview(image, None, None)), expected)


def test_classes_that_are_tissue(models):
    image = picture(3, (40, 40))
    overview = Overview(image, None, 10)
    other = ds.OnnxTissue(models.one, tissue_classes=[1], **RAW).find(overview)
    assert np.array_equal(other, ~windowed(image))
    assert ds.OnnxTissue(models.one, tissue_classes=(0, 1), **RAW).find(overview).all()


def test_a_model_of_a_fixed_batch(models):
    image = picture(4, (50, 50))  # nine patches in batches of two
    detector = ds.OnnxTissue(models.fixed, patch=24, margin=2, batch=2, **RAW)
    assert np.array_equal(detector.find(Overview(image, None, 10)), windowed(image))


def test_defaults_are_the_input_of_grandqc(models):
    """JPEG at quality 80 with chroma at half the resolution, normalized as ImageNet."""
    weights = (300, 200, -100)
    path = save_model(models.folder / "weighted.onnx", weights=weights)
    image = ndimage.uniform_filter(picture(5, (96, 112)), (5, 5, 1))
    detector = ds.OnnxTissue(path)
    assert (detector.mpp, detector.patch, detector.tissue_classes) == (10, 512, (0,))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    seen = simplejpeg.decode_jpeg(buffer.getvalue(), "RGB")
    assert np.abs(seen.astype(int) - image).max() > 3
    scaled = (seen / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    score = LIMIT - scaled @ weights
    found = detector.find(Overview(image, None, 10))
    certain = np.abs(score) > 0.1  # more than float32 rounds off
    assert 0.1 < found.mean() < 0.9 and certain.mean() > 0.9
    assert np.array_equal(found[certain], (score > 0)[certain])


def test_a_finer_picture_is_reduced_to_the_mpp_of_the_model(models):
    rng = np.random.default_rng(6)
    blocks = rng.random((15, 20)) < 0.5
    image = np.where(np.kron(blocks, np.ones((4, 4), bool))[..., None], 120, GLASS)
    image[::2, ::2][image[::2, ::2] == 120] = 255  # single pixels that are not tissue
    detector = ds.OnnxTissue(models.one, patch=16, margin=3, **RAW)
    found = detector.find(Overview(image.astype(np.uint8), None, 2.5))
    assert np.array_equal(found, np.kron(blocks, np.ones((4, 4), bool)))
    alone = detector.find(Overview(image.astype(np.uint8), None, None))
    assert np.array_equal(alone, windowed(image))


def test_missing_pixels_are_glass(models):
    image = picture(7, (40, 60))
    valid = np.ones((40, 60), bool)
    valid[10:20, 5:30] = False
    filled = np.where(valid[..., None], image, GLASS)
    garbage = np.where(valid[..., None], image, 0).astype(np.uint8)
    detector = ds.OnnxTissue(models.window, patch=20, margin=2, **RAW)
    found = detector.find(Overview(garbage, valid, 10))
    assert np.array_equal(found, windowed(filled, 5))
    assert not detector.find(Overview(garbage, np.zeros_like(valid), 10)).any()


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_through_a_blank_map(models, scheduler):
    images = [picture(seed, (130 + seed, 170)) for seed in range(4)]
    detector = ds.OnnxTissue(models.window, patch=48, margin=8, batch=3, **RAW)
    maps = [
        ds.blank_map(ds.from_dask(dask.array.from_array(one, chunks=64), mpp=10), tile_size=32,
                     detector=detector)
        for one in images
    ]  # fmt: skip
    with dask.config.set(scheduler=scheduler):
        found = dask.compute(*(one.tissue_fraction for one in maps))
    for image, fraction in zip(images, found, strict=True):
        mask = windowed(image, 5)
        for i, j in np.ndindex(fraction.shape):
            expected = mask[32 * i : 32 * i + 32, 32 * j : 32 * j + 32].mean()
            assert fraction[i, j] == pytest.approx(expected, abs=1e-12)


def test_pickling(models):
    detector = ds.OnnxTissue(models.one, patch=32, margin=4, **RAW)
    data = pickle.dumps(detector)
    onnx_detector._session.cache_clear()  # as in another process
    copy = pickle.loads(data)
    assert copy == detector and hash(copy) == hash(detector) and isinstance(copy, MaskDetector)
    image = picture(8, (30, 30))
    assert np.array_equal(copy.find(Overview(image, None, 10)), windowed(image))
    assert "one.onnx" in repr(copy) and str(models.folder) not in repr(copy)
    assert hashlib.sha256(models.one.read_bytes()).hexdigest()[:12] in repr(copy)


def test_a_model_that_changed_is_refused(models):
    path = save_model(models.folder / "changing.onnx")
    detector = ds.OnnxTissue(path)
    save_model(path, size=3)
    onnx_detector._session.cache_clear()
    with pytest.raises(errors.SlideChangedError, match=r"changing\.onnx"):
        detector.find(Overview(picture(0, (9, 9)), None, 10))
    assert ds.OnnxTissue(path) != detector


def save_bytes(models):
    (models.folder / "text.onnx").write_bytes(b"no model")
    return models.folder / "text.onnx"


BAD_MODELS = {
    "missing": (lambda m: m.folder / "none.onnx", {}, errors.SlideNotFoundError, "none.onnx"),
    "folder": (lambda m: m.folder, {}, errors.SlideNotFoundError, "directory"),
    "text": (save_bytes, {}, errors.SlideFormatError, "ONNX"),
    "patch": (lambda m: m.fixed, {"batch": 2}, errors.SlideUnsupportedError, "(2, 3, 512, 512)"),
    "batch": (lambda m: m.fixed, {"patch": 24, "margin": 2}, errors.SlideUnsupportedError, "batch"),
    "class": (lambda m: m.one, {"tissue_classes": (2,)}, errors.SlideUnsupportedError, "3 or more"),
    "channel": (lambda m: m.logit, {}, errors.SlideUnsupportedError, "(n, 1, h, w)"),
    "classes": (lambda m: m.one, {"output": "logit"}, errors.SlideUnsupportedError, "(1, 1, 512"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_other_models_are_refused_in_one_line(models, case):
    make, options, kind, text = BAD_MODELS[case]
    with pytest.raises(kind) as caught:
        ds.OnnxTissue(make(models), **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_returns_another_size_than_it_declares(models):
    path = save_model(models.folder / "smaller.onnx", size=3)
    model = onnx.load(path)
    model.graph.node[0].attribute[0].ints[:] = [0] * 4  # no padding
    onnx.save(model, path)
    detector = ds.OnnxTissue(path, patch=32, margin=4)
    with pytest.raises(errors.SlideUnsupportedError, match=r"\(1, 2, 30, 30\)"):
        detector.find(Overview(picture(0, (9, 9)), None, 10))


def test_without_onnxruntime(models, monkeypatch):
    onnx_detector._session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.SlideUnsupportedError, match=r"dask-slides\[onnx\]"):
        ds.OnnxTissue(models.one)


@pytest.mark.parametrize(("channels", "dtype"), [(1, "u1"), (4, "u1"), (3, "u2")])
def test_slides_that_are_not_rgb_are_refused(models, channels, dtype):
    image = np.zeros((40, 40, channels), dtype)
    detector = ds.OnnxTissue(models.one)
    with pytest.raises(errors.SlideArgumentError, match=r"^dask array: .* RGB"):
        ds.blank_map(dask.array.from_array(image), detector=detector)
    with pytest.raises(errors.SlideArgumentError, match="RGB"):
        detector.find(Overview(image, None, 10))


@pytest.mark.parametrize(
    "options",
    [
        {"mpp": 0}, {"mpp": "10"}, {"tissue_classes": ()}, {"tissue_classes": (-1,)},
        {"output": "mask"}, {"threshold": 1}, {"mean": (0, 0)}, {"std": (1, 1, 0)},
        {"jpeg_quality": 101}, {"patch": 0}, {"margin": 256}, {"batch": 1.5}, {"threads": 0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments(models, options):
    with pytest.raises(errors.SlideArgumentError, match=next(iter(options))):
        ds.OnnxTissue(models.one, **options)


def test_the_command_line_takes_the_path_of_a_model(models, tmp_path):
    path = ds.sample_slide(tmp_path / "slide.tif", shape=(512, 512), tile=128)
    out = tmp_path / "mask.ome.zarr"
    command = ["mask", str(path), str(out), "--detector", str(models.one)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    texts = [one.read_text() for one in out.rglob("zarr.json")]
    assert any("OnnxTissue('one.onnx'" in one for one in texts)
    assert not any(str(models.folder) in one for one in texts)
    result = CliRunner().invoke(main, [*command[:-1], str(models.folder / "none.onnx")])
    assert result.exit_code == 2 and "none.onnx: No such file" in result.output
