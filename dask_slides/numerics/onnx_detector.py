"""Find tissue with a segmentation model in an ONNX file, which you bring.

The defaults are those of the tissue model of GrandQC (Z. Weng et al., GrandQC: A comprehensive
solution to quality control problem in digital pathology, Nature Communications 15, 2024). No model
comes with this package.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideArgumentError,
    SlideChangedError,
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.numerics.mask_detectors import Overview

OUTPUTS = ("classes", "probability", "logit")
JPEG_SIDE = 65_500
"""Longest side of a JPEG that libjpeg writes."""


@dataclass(frozen=True, repr=False)
class OnnxTissue:
    """Find tissue with a segmentation model in an ONNX file. It needs the extra `onnx`.

    The model takes one float32 array (batch, 3, patch, patch), red, green and blue first, of
    ``(sample / 255 - mean) / std``. It returns scores (batch, classes, patch, patch), of which the
    largest decides, or one channel (batch, 1, patch, patch). Patches overlap, and only the centre
    of each one is used. Around the slide, and where pixels are missing, is the colour of glass.

    It works on the CPU. The model is loaded once per process, and the file is checked against the
    one that the detector was made with.

    Parameters
    ----------
    path : str or path
        The model. It must be at this path on every worker.
    mpp : float
        Micrometres per pixel that the model was trained at. Smaller pictures are not enlarged to
        it. If the pixel size of the slide is not known, 0.5 is assumed, and the longest side of
        the picture has 1,024 to 4,096 px.
    tissue_classes : sequence of int
        The classes that are tissue. In the tissue model of GrandQC, 0 is tissue and 1 background.
    output : {"classes", "probability", "logit"}
        Scores of two or more classes, or one channel: the probability of tissue, or its logit.
    threshold : float
        With one channel, tissue is where the probability is larger.
    mean, std : sequence of 3 floats
        Normalization of red, green and blue, whose samples are 0 to 1. By default of ImageNet.
    jpeg_quality : int, optional
        The picture is compressed as JPEG and decoded first, as GrandQC does, which was trained on
        such pictures; None = leave it as it is.
    patch : int
        Height and width of a patch in pixels.
    margin : int
        Pixels at each side of a patch that are not used.
    batch : int
        Patches per call of the model.
    threads : int
        Threads of one call of the model. Several tasks may call it at the same time.

    Raises
    ------
    SlideNotFoundError
        There is no file at `path`.
    SlideFormatError
        The file is not an ONNX model.
    SlideUnsupportedError
        The model has other inputs or outputs, or onnxruntime is not installed.
    SlideArgumentError
        An argument is not valid, or the slide is not RGB of 8 bits.
    """

    path: str
    _: KW_ONLY
    mpp: float = 10.0
    tissue_classes: tuple[int, ...] = (0,)
    output: Literal["classes", "probability", "logit"] = "classes"
    threshold: float = 0.5
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    jpeg_quality: int | None = 80
    patch: int = 512
    margin: int = 64
    batch: int = 1
    threads: int = 1
    sha256: str = field(init=False)
    """Checksum of the file; the repr, which outputs hold, shows the start of it."""

    def __post_init__(self) -> None:
        for name in ("tissue_classes", "mean", "std"):
            object.__setattr__(self, name, tuple(np.atleast_1d(getattr(self, name)).tolist()))
        _check_arguments(self)
        object.__setattr__(self, "path", os.path.abspath(self.path))
        object.__setattr__(self, "sha256", _checksum(self.path))
        _check_model(self, _session(self.path, self.sha256, self.threads))

    def __repr__(self) -> str:
        given = [repr(os.path.basename(self.path))]  # without the names of folders
        for one in fields(self)[1:-1]:
            if getattr(self, one.name) != one.default:
                given.append(f"{one.name}={getattr(self, one.name)!r}")
        given.append(f"sha256={self.sha256[:12]!r}")
        return f"OnnxTissue({', '.join(given)})"

    def check(self, channels: int, dtype: np.dtype[Any]) -> None:
        """Raise SlideArgumentError unless a slide with these pixels is RGB of 8 bits."""
        if channels != 3 or dtype != np.uint8:
            raise SlideArgumentError(
                f"OnnxTissue needs RGB of 8 bits, but this is {channels} channels of {dtype}; use "
                "Tissue()"
            )

    def fit(self, overview: Overview) -> OnnxTissue:
        """Return the detector itself: it does not depend on the slide."""
        return self

    def find(self, overview: Overview) -> NDArray[np.bool_]:
        """Return the mask (h, w) of the picture, True = tissue."""
        pixels = overview.pixels
        self.check(pixels.shape[2], pixels.dtype)
        glass = _glass(pixels, overview.valid)
        if overview.valid is not None:
            pixels = np.where(overview.valid[..., None], pixels, glass)
        picture = _reduced(pixels, 1.0 if overview.mpp is None else overview.mpp / self.mpp)
        if self.jpeg_quality is not None:
            picture = _compressed(picture, self.jpeg_quality)
        return _enlarged(_in_patches(self, picture, glass), pixels.shape[:2])


def _in_patches(detector: OnnxTissue, picture: Array, glass: Array) -> NDArray[np.bool_]:
    """Return the mask of `picture`, from the centres of patches that cover it."""
    (height, width), side, margin = picture.shape[:2], detector.patch, detector.margin
    step = side - 2 * margin
    rows, columns = -(-height // step), -(-width // step)
    padded = np.empty((rows * step + 2 * margin, columns * step + 2 * margin, 3), np.uint8)
    padded[:] = glass
    padded[margin : margin + height, margin : margin + width] = picture
    windows = sliding_window_view(padded, (side, side), axis=(0, 1))[::step, ::step]
    out = np.empty((rows, columns, step, step), bool)
    for start in range(0, rows * columns, detector.batch):
        # the last batch is filled up with the last patch, as models may have a fixed batch
        numbers = np.minimum(np.arange(start, start + detector.batch), rows * columns - 1)
        i, j = np.divmod(numbers, columns)
        masks = _masks(detector, windows[i, j])
        out[i, j] = masks[:, margin : margin + step, margin : margin + step]
    return out.swapaxes(1, 2).reshape(rows * step, columns * step)[:height, :width]


def _masks(detector: OnnxTissue, patches: Array) -> NDArray[np.bool_]:
    """Return the masks (n, h, w) of patches (n, 3, h, w) of uint8."""
    session = _session(detector.path, detector.sha256, detector.threads)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (detector.mean, detector.std))
    scaled = (patches.astype(np.float32) / 255 - mean) / std
    try:
        scores = session.run(None, {session.get_inputs()[0].name: scaled})[0]
    except Exception as error:
        raise SlideError(f"{detector.path}: the model failed: {_one_line(error)}") from error
    _check_output(detector, scores.shape)
    if detector.output == "classes":
        return np.isin(scores.argmax(axis=1), detector.tissue_classes)
    share = detector.threshold
    limit = share if detector.output == "probability" else math.log(share / (1 - share))
    return np.asarray(scores[:, 0] > limit)


@lru_cache(maxsize=4)
def _session(path: str, sha256: str, threads: int) -> Any:
    """Load the model at `path`, once per process."""
    try:
        import onnxruntime
    except ImportError:
        raise SlideUnsupportedError(
            f"{path}: ONNX models need onnxruntime; pip install 'dask-slides[onnx]'"
        ) from None
    if _checksum(path) != sha256:
        raise SlideChangedError(
            f"{path}: the model is not the one that the detector was made with; make it again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SlideFormatError(
            f"{path}: it cannot be loaded as an ONNX model: {_one_line(error)}"
        ) from error


def _checksum(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SlideNotFoundError(
            f"{path}: {error.strerror or error}; give the path of an ONNX model"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_arguments(detector: OnnxTissue) -> None:
    """Raise SlideArgumentError for arguments that no model accepts."""
    one, classes = detector, detector.tissue_classes
    whole, numbers = (int, np.integer), (int, float, np.number)
    quality = 1 if one.jpeg_quality is None else one.jpeg_quality
    largest = (one.patch - 1) // 2 if isinstance(one.patch, whole) else 0
    colours = {n: all(isinstance(v, numbers) for v in getattr(one, n)) for n in ("mean", "std")}
    for name, fits, rule in (
        ("output", one.output in OUTPUTS, f"one of {', '.join(OUTPUTS)}"),
        ("mpp", isinstance(one.mpp, numbers) and 0 < one.mpp < math.inf, "a number above 0"),
        ("threshold", isinstance(one.threshold, numbers) and 0 < one.threshold < 1, "0 to 1"),
        ("tissue_classes", classes and all(isinstance(v, whole) and v >= 0 for v in classes),
         "numbers of classes, from 0"),
        ("mean", colours["mean"] and len(one.mean) == 3, "3 numbers"),
        ("std", colours["std"] and len(one.std) == 3 and all(one.std), "3 numbers other than 0"),
        ("jpeg_quality", isinstance(quality, whole) and 1 <= quality <= 100, "1 to 100, or None"),
        ("patch", isinstance(one.patch, whole) and one.patch > 0, "1 or more pixels"),
        ("margin", isinstance(one.margin, whole) and 0 <= one.margin <= largest,
         f"0 to {largest} pixels, less than half of the patch"),
        ("batch", isinstance(one.batch, whole) and one.batch > 0, "1 or more patches"),
        ("threads", isinstance(one.threads, whole) and one.threads > 0, "1 or more threads"),
    ):  # fmt: skip
        if not fits:
            raise SlideArgumentError(f"{name}={getattr(one, name)!r} is not valid; give {rule}")


def _check_model(detector: OnnxTissue, session: Any) -> None:
    """Raise SlideUnsupportedError unless the model has the documented input and output."""
    found = [(one.type, one.shape) for one in session.get_inputs()]
    expected = (detector.batch, 3, detector.patch, detector.patch)
    if [kind for kind, _ in found] != ["tensor(float)"] or not _fits(found[0][1], expected):
        takes = ", ".join(f"{kind} {_text(shape)}" for kind, shape in found)
        raise SlideUnsupportedError(
            f"{detector.path}: the model takes {takes}, but gets tensor(float) {_text(expected)}; "
            "set patch= and batch=, or export one input (batch, 3, height, width)"
        )
    _check_output(detector, session.get_outputs()[0].shape)


def _check_output(detector: OnnxTissue, shape: Sequence[Any]) -> None:
    """Raise SlideUnsupportedError unless a model that returns `shape` fits."""
    least = max(2, max(detector.tissue_classes) + 1)
    channels, wanted = 1, "1"
    if detector.output == "classes":
        own = shape[1] if len(shape) == 4 and isinstance(shape[1], int) else least
        channels, wanted = max(own, least), f"{least} or more"
    batch, side = detector.batch, detector.patch
    if not _fits(shape, (batch, channels, side, side)):
        raise SlideUnsupportedError(
            f"{detector.path}: the model returns {_text(shape)}, not ({batch}, {wanted}, {side}, "
            f"{side}); set output= and tissue_classes= as it needs them"
        )


def _fits(shape: Sequence[Any], expected: Sequence[int]) -> bool:
    """Return whether a declared `shape`, whose symbols stand for any length, can be `expected`."""
    if len(shape) != len(expected):
        return False
    pairs = zip(shape, expected, strict=True)
    return all(not isinstance(one, int) or one == other for one, other in pairs)


def _text(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(one) for one in shape)})"


def _glass(pixels: Array, valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Return the colour of glass (3,): brighter are at most 5 % of the pixels."""
    seen = pixels.reshape(-1, 3) if valid is None else pixels[valid]
    if not len(seen):
        return np.full(3, 255, np.uint8)
    return np.percentile(seen, 95, axis=0, method="nearest").astype(np.uint8)


def _reduced(pixels: Array, scale: float) -> Array:
    """Return the picture at `scale` of its size; within 5 % of 1 or above, as it is."""
    from PIL import Image

    if scale > 0.95:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _enlarged(mask: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return `mask` at `shape`, each pixel that of the nearest centre."""
    rows, columns = (
        (2 * np.arange(n, dtype=np.int64) + 1) * m // (2 * n)
        for n, m in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def _compressed(picture: Array, quality: int) -> Array:
    """Return `picture` after compression as JPEG with chroma at half the resolution."""
    from PIL import Image

    if max(picture.shape) > JPEG_SIDE:
        raise SlideArgumentError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} px is too large for JPEG; use "
            "jpeg_quality=None or a larger mpp"
        )
    file = io.BytesIO()
    # Pillow, as OpenCV in GrandQC, has the exact transform; simplejpeg encodes with the fast one
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))
