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


def test_a_stored_map_of_whole_tiles_has_no_threshold(found, tmp_path):
    stored = open_blank_map(ds.write(found, tmp_path / "a.map.zarr"))
    for one, count in ((found, 1), (stored, 0)):
        controls = ThresholdControls(lambda: None)
        controls.show(one)
        assert len(controls.root.children) == count + 1  # and the facts
        assert (controls.applied(one).blank == one.blank).all()
        controls.tell("3 tiles are blank")
        assert ("no threshold" in controls.facts.text) == (count == 0)


def test_the_contrast_of_data_without_negative_values_begins_at_zero(found):
    look = Look.of(found.slide.channels, np.dtype(np.uint8))
    for window, start in (((3.0, 28.0), 0.0), ((-5.0, 28.0), -38.0)):
        controls = ChannelControls(look.with_window(0, window), lambda _: None)
        slider = controls.root.children[-1]
        assert (slider.start, slider.value) == (start, window)


def test_wide_contrasts_are_whole_numbers(found):
    look = Look.of(found.slide.channels, np.dtype(np.uint16)).with_window(0, (405.0, 31116.03))
    slider = ChannelControls(look, lambda _: None).root.children[-1]
    assert (slider.value, slider.step) == ((405, 31116), 307)
