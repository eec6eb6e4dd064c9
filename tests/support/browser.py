"""A headless Chromium that opens pages and runs expressions in them, by its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
         "disable-background-networking", "disable-component-update")  # fmt: skip
START_SECONDS = 60


@contextmanager
def browser(profile):
    """Yield a function that opens an address in a new page, as a `Page`."""
    command = [BROWSER, *(f"--{flag}" for flag in FLAGS), f"--user-data-dir={profile}",
               "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]  # fmt: skip
    loop = asyncio.new_event_loop()
    pages = []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            port = port_of(Path(profile) / "DevToolsActivePort")

            def open_page(width=1400, height=900, dark=False):
                pages.append(Page(loop, port, width, height, dark))
                return pages[-1]

            yield open_page
        finally:
            loop.run_until_complete(close(pages))
            process.terminate()
            loop.close()


async def close(pages):
    for page in pages:
        page.socket.close()  # tornado takes the loop that runs


def port_of(path):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if path.exists() and path.read_text().count("\n"):
            return int(path.read_text().splitlines()[0])
        time.sleep(0.05)
    raise TimeoutError(f"{path}: the browser did not start")


class Page:
    """A page of a size in CSS pixels, light or dark."""

    def __init__(self, loop, port, width, height, dark):
        from tornado.websocket import websocket_connect

        self.loop = loop
        self.numbers = itertools.count(1)
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(one for one in json.load(answer) if one["type"] == "page")
        address = target["webSocketDebuggerUrl"]

        async def connect():  # tornado takes the loop that runs
            return await websocket_connect(address, max_message_size=2**28)

        self.socket = loop.run_until_complete(connect())
        self.send("Page.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def send(self, method, **parameters):
        """Send a command and return its result."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        return self.loop.run_until_complete(self._answer(number, json.dumps(message)))

    async def _answer(self, number, message):
        await self.socket.write_message(message)
        while True:
            answer = json.loads(await self.socket.read_message())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address):
        """Open an address; return when the page has loaded and was drawn."""
        self.send("Page.navigate", url=address)
        self.evaluate(
            "new Promise(done => { const drawn = () => requestAnimationFrame(() => "
            "requestAnimationFrame(done)); document.readyState === 'complete' ? drawn() : "
            "addEventListener('load', drawn) })"
        )

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key, code, text=None):
        """Press a key of the keyboard."""
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = values | ({"text": text} if text else {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def picture(self, path, whole=False):
        """Write a PNG of what the page shows, or of the whole page."""
        options = {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        data = self.send("Page.captureScreenshot", **options)["data"]
        Path(path).write_bytes(base64.b64decode(data))
