"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Path of the browser; None if there is none here."""
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
    "disable-background-networking", "disable-component-update", "hide-scrollbars",
)  # fmt: skip


class Browser:
    """A browser with one page. It waits for conditions of the page, never for a time."""

    def __init__(self, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        self.requests: list[str] = []
        """Addresses of all requests, those of web sockets too."""
        self.messages: list[str] = []
        """Errors and warnings of the console, and exceptions."""
        self.responses: dict[str, int] = {}
        """Status by address."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        flags = [f"--{name}" for name in FLAGS]
        flags += [f"--user-data-dir={self._profile.name}", "--remote-debugging-port=0"]
        self._process = subprocess.Popen(
            [BROWSER, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for line in self._process.stderr:  # it prints its address when it listens
            if b"DevTools listening on" in line:
                address = line.split()[-1].decode()
                break
        port = address.split(":")[2].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = json.load(answer)
        self._socket = self._loop.run_until_complete(_connect(pages[0]["webSocketDebuggerUrl"]))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.prefer(dark)

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command; return its answer."""
        number = next(self._numbers)
        message = json.dumps({"id": number, "method": method, "params": parameters})
        return self._loop.run_until_complete(self._call(number, message))

    async def _call(self, number: int, message: str) -> dict:
        await self._socket.write_message(message)
        while True:
            answer = json.loads(await self._socket.read_message())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, method: str, event: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(event["url"])
        elif method == "Network.responseReceived":
            self.responses[event["response"]["url"]] = event["response"]["status"]
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.messages.append(" ".join(str(one.get("value")) for one in event["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(event["exceptionDetails"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.messages.append(f"{event['entry']['text']} {event['entry'].get('url')}")

    def run(self, code: str) -> object:
        """Return the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, code: str, limit: float = 60) -> object:
        """Wait until an expression is true in the page; return its value."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            found = self.run(code)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"not true in {limit} s: {code}; {self.messages[:5]}")

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def load(self, url: str) -> None:
        """Go to a page; return when it has loaded and was drawn."""
        self.open(url)
        self.run(
            "new Promise(done => { const drawn = () => requestAnimationFrame(() => "
            "requestAnimationFrame(done)); document.readyState === 'complete' ? drawn() : "
            "addEventListener('load', drawn) })"
        )

    def prefer(self, dark: bool) -> None:
        """Choose dark or light colours, as a system does."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        """Send an event of the mouse: mouseMoved, mousePressed, mouseReleased or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Click at a place."""
        self.drag([(x, y)])

    def drag(self, places: list[tuple[float, float]]) -> None:
        """Press the button of the mouse, move it over places, and release it."""
        self.mouse("mouseMoved", *places[0])
        self.mouse("mousePressed", *places[0], button="left", buttons=1, clickCount=1)
        for place in places[1:]:
            self.mouse("mouseMoved", *place, button="left", buttons=1)
        self.mouse("mouseReleased", *places[-1], button="left", clickCount=1)

    def key(self, key: str, text: str = "", code: int = 0) -> None:
        """Press a key; its `code` is needed where the browser itself answers, as to Tab."""
        more = {"text": text} if text else {}
        more |= {"windowsVirtualKeyCode": code} if code else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path | None = None, whole: bool = False) -> bytes:
        """Return a picture of the page as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = base64.b64decode(found["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self) -> None:
        """End the browser."""
        self._loop.run_until_complete(self._end())
        self._loop.close()
        self._process.terminate()
        self._process.wait(30)
        self._process.stderr.close()
        self._profile.cleanup()

    async def _end(self) -> None:
        self._socket.close()  # tornado takes the loop that runs

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _connect(address: str):
    from tornado.websocket import websocket_connect

    return await websocket_connect(address, max_message_size=2**28)
