"""The controls of the page, without a browser."""

import numpy as np
import pytest

import dask_slides as ds
from dask_slides.view.controls import ChannelControls, ThresholdControls
from dask_slides.view.look import Look
from dask_slides.writers.blank_map_reader import open_blank_map


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("controls") / "a.tif"
    return ds.blank_map(
        ds.open_slide(ds.sample_slide(path, shape=(2048, 2560), tile=256))
    ).compute()


def assert_thresholds(one, count):
    controls = ThresholdControls(lambda: None)
    controls.show(one)
    assert len(controls.root.children) == count + 1  # and the facts
    assert (controls.applied(one).blank == one.blank).all()
    controls.tell("3 tiles are blank")
    assert ("no threshold" in controls.facts.text) == (count == 0)


def test_maps_have_their_thresholds_when_they_are_stored_too(found, tmp_path):
    contrast = ds.blank_map(found.slide, detector=ds.Contrast() | ds.Saturation()).compute()
    whole = found.with_blank(found.blank)
    for one, count in ((found, 1), (contrast, 2), (whole, 0)):
        stored = open_blank_map(ds.write(one, tmp_path / "a.map.zarr", overwrite=True))
        for shown in (one, stored):
            assert_thresholds(shown, count)


def test_a_threshold_of_a_stored_map_moves_its_tiles(found, tmp_path):
    contrast = ds.blank_map(found.slide, detector=ds.Contrast(0.05)).compute()
    stored = open_blank_map(ds.write(contrast, tmp_path / "a.map.zarr"))
    controls = ThresholdControls(lambda: None)
    controls.show(stored)
    controls.root.children[0].value = 0.3
    expected = ds.blank_map(found.slide, detector=ds.Contrast(0.3)).compute()
    assert (controls.applied(stored).blank == expected.blank).all()
    assert (expected.blank != contrast.blank).any()


def test_the_contrast_of_data_without_negative_values_begins_at_zero(found):
    look = Look.of(found.slide.channels, np.dtype(np.uint8))
    for window, start in (((3.0, 28.0), 0.0), ((-5.0, 28.0), -38.0)):
        controls = ChannelControls(look.with_window(0, window), np.dtype(np.int16), lambda _: None)
        slider = controls.root.children[-1]
        assert (slider.start, slider.value) == (start, window)


def test_wide_contrasts_are_whole_numbers(found):
    look = Look.of(found.slide.channels, np.dtype(np.uint16)).with_window(0, (405.0, 31116.03))
    slider = ChannelControls(look, np.dtype(np.uint16), lambda _: None).root.children[-1]
    assert (slider.value, slider.step, slider.end) == ((405, 31116), 119, 61827)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0.0, 255.0), (0, 255, 1)),
        ((12.0, 200.0), (0, 255, 1)),
        ((12.0, 52.0), (0, 92, 0.4)),
        ((0.0, 300.0), (0, 300, 1)),  # of a file that says so
    ],
)
def test_the_contrast_of_8_bits_ends_at_255(found, window, expected):
    look = Look.of(found.slide.channels, np.dtype(np.uint8)).with_window(0, window)
    slider = ChannelControls(look, np.dtype(np.uint8), lambda _: None).root.children[-1]
    assert (slider.start, slider.end, slider.step) == expected
