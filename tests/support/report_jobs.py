"""Jobs for tests of the report."""

import csv
import shutil

import dask

import dask_slides as ds

HOSTILE = (
    "</title><script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\">'&"
)
SIDE, TILE = 512, 32
"""Sides of slides and of packed tiles in pixels."""


def score(slide):
    return {"text": HOSTILE, "number": float(slide.shape[0])}


def mixed_job(folder):
    """Run over slides of which one is damaged, one blurred, one no image; return the job."""
    slides = folder / "slides"
    slides.mkdir()
    for number in range(6):
        ds.sample_slide(slides / f"s{number}.tif", shape=(SIDE, SIDE), seed=number, mpp=2048 / SIDE)
    blurred = ds.resize(ds.resize(slides / "s1.tif", downsample=4), shape=(SIDE, SIDE))
    ds.export(blurred, slides / "blurred.ome.tif")
    data = bytearray((slides / "s2.tif").read_bytes())
    start = len(data) // 2
    data[start : start + 3000] = bytes(3000)
    (slides / "damaged.tif").write_bytes(data)
    (slides / "<b>broken.tif").write_text("This is not a TIFF.")
    with open(folder / "slides.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label <i>"])
        table.writerows([path, HOSTILE] for path in sorted(slides.iterdir()))
    steps = ["mask", {"pack": {"tile_size": TILE}}, {"resize": {"downsample": 4}}, score]
    with dask.config.set(scheduler="sync"):
        ds.run_cohort(folder / "slides.csv", job=folder / "job", steps=steps, on_bad_tile="mask")
    return folder / "job"


def large_job(source, folder, count):
    """Make a job of `count` slides of the cards of the job `source`."""
    with open(source / "process_list.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    folder.mkdir()
    with open(folder / "process_list.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        for number in range(count):
            row = rows[number % len(rows)]
            card = source / row["name"] / ".slide-card.json"
            row = row | {"name": f"slide-{number:04}"}
            table.writerow(row)
            (folder / row["name"]).mkdir()
            if card.exists():
                shutil.copy(card, folder / row["name"])
    return folder
