"""The feed in PyTorch's DataLoader. Slow, and skipped without PyTorch, which is large."""

import copy
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from feed_slides import jpeg_stream
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides import feed

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
DOCS = Path(__file__).parents[2] / "docs" / "howto"
WORKERS = [(0, None, False)] + [
    (count, method, persistent)
    for count in (2, 4)
    for method in ("fork", "spawn")
    for persistent in (False, True)
]


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Return a stream of six slides, of which some have been read in this process."""
    made = jpeg_stream(tmp_path_factory.mktemp("slides"), 6, size=64, length=300)
    next(iter(made.batches(8)))
    return made


def loader_of(dataset, count, method, persistent, **options):
    context = {} if method is None else {"multiprocessing_context": method}
    return data.DataLoader(
        dataset, num_workers=count, persistent_workers=persistent, **context, **options
    )


@pytest.mark.parametrize(("count", "method", "persistent"), WORKERS)
def test_batches_are_the_same_with_any_workers(stream, count, method, persistent):
    batches = stream.batches(16, rank=1, world=2, window=64)
    loader = loader_of(batches, count, method, persistent, batch_size=None, sampler=batches.steps())
    assert len(loader) == 10
    found = [batch for _ in range(2) for batch in loader]
    own = stream.batches(16, rank=1, world=2)
    expected = [batch for _ in range(2) for batch in own]
    assert len(found) == len(expected) == 19
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one["pixels"], torch.Tensor) and one["slide"] == other["slide"]
        for name in ("number", "y", "x", "flip", "pixels"):
            assert np.array_equal(one[name].numpy(), other[name])
    state = batches.state_dict(found[4])
    resumed = stream.batches(32, start=state)
    assert next(iter(resumed))["number"].tolist() == list(range(160, 192))


@pytest.mark.parametrize(
    ("count", "method", "persistent"),
    [(0, None, False), (2, "fork", True), (2, "spawn", False)],
)
def test_streams_and_datasets_are_map_style(stream, tmp_path, count, method, persistent):
    loader = loader_of(stream, count, method, persistent, batch_size=20)
    numbers = [number for batch in loader for number in batch["number"].tolist()]
    assert numbers == list(range(300))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(600, 700, 0), tile=(64, 64), photometric="rgb")
    tiles = feed.SlideDataset(path, size=64, downsample=1, detector=ds.Contrast(0.05))
    expected = sorted((item["y"], item["x"]) for item in tiles)
    loader = loader_of(tiles, count, method, persistent, batch_size=7, shuffle=True)
    found = [
        pair for batch in loader
        for pair in zip(batch["y"].tolist(), batch["x"].tolist(), strict=True)
    ]  # fmt: skip
    assert sorted(found) == expected and len(found) > 50


def test_the_recipes_run_on_one_process_and_on_two_ranks():
    text = (DOCS / "feed.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|sh)(?: needs=(\w+))?", text, re.MULTILINE)
    count = sum(not needs or find_spec(needs) is not None for needs in blocks)
    command = [sys.executable, DOCS.parent / "run_examples.py", DOCS / "feed.md"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f": {count} examples ran" in done.stdout


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_lightning_goes_on_within_an_epoch(stream, tmp_path):
    lightning = pytest.importorskip("lightning")
    text = (DOCS / "feed.md").read_text(encoding="utf-8")
    recipe = re.search(r"```python needs=lightning\n(.*?)options = ", text, re.DOTALL)[1]
    even = copy.copy(stream)
    even._length = 160
    names = {"stream": even, "DataLoader": data.DataLoader, "torch": torch}
    exec(recipe, names)
    seen = []

    class Stopped(names["Net"]):
        stop = None

        def training_step(self, batch, index):
            seen.extend(batch["number"].tolist())
            return super().training_step(batch, index)

        def on_train_batch_end(self, *_):
            if len(seen) == self.stop:
                self.trainer.save_checkpoint(tmp_path / "last.ckpt")
                raise RuntimeError("stopped")

    options = {
        "use_distributed_sampler": False, "logger": False, "enable_progress_bar": False,
        "enable_checkpointing": False, "enable_model_summary": False, "max_epochs": 2,
        "accelerator": "cpu",
    }  # fmt: skip
    net = Stopped()
    net.stop = 64
    with pytest.raises(RuntimeError, match="stopped"):
        lightning.Trainer(**options).fit(net, datamodule=names["Crops"]())
    checkpoint = tmp_path / "last.ckpt"
    lightning.Trainer(**options).fit(Stopped(), datamodule=names["Crops"](), ckpt_path=checkpoint)
    assert seen == list(range(320))
