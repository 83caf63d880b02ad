"""Chromium without a window, driven through its DevTools protocol over two pipes: no library and no port.

    python -m tests.look.browser RUN/report.html docs/report.jpg

takes the picture of docs/report.md: its first part on light ground, its last on dark. No photograph is on it, for those of
the flowers are their makers'.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

PATIENCE = 60.0  # seconds for an answer


class Page:
    """One page of a browser: what it logs and asks the network for is kept."""

    def __init__(self, into: int, out: int) -> None:
        self.into, self.out = into, out
        self.numbers = itertools.count(1)
        self.read = b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come first are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.read:
            assert select.select([self.out], [], [], PATIENCE)[0], "the browser does not answer"
            piece = os.read(self.out, 1 << 20)
            assert piece, "the browser has ended"
            self.read += piece
        message, _, self.read = self.read.partition(b"\0")
        return json.loads(message)

    def wait_for(self, event: str) -> None:
        """Until an event has come since the last look."""
        while not any(one.get("method") == event for one in self.events):
            self.events.append(self._next())

    def open(self, path: Path, *, tab: str = "") -> float:
        """Opens a file; returns the seconds until it has loaded."""
        for url in ("about:blank", f"file://{path}{tab}"):  # else another tab is the same page
            self.events.clear()
            begin = time.monotonic()
            self.ask("Page.navigate", url=url)
            self.wait_for("Page.loadEventFired")
        self.js("1")  # its script has run
        return time.monotonic() - begin

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        said = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def key(self, name: str, *, shift: bool = False) -> None:
        """Presses a key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}
        about = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name], "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if name == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """The size of the window, and the colours that its owner prefers."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                 mobile=width < 600)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def shot(self) -> bytes:
        """What is to be seen, as a PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def asked_for(self) -> list[str]:
        """The addresses that the page has had fetched, its own file and what lies in it left out."""
        self.js("1")
        urls = [
            one["params"]["request"]["url"] for one in self.events if one.get("method") == "Network.requestWillBeSent"
        ]
        documents = [
            one["params"]["documentURL"] for one in self.events if one.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url, page in zip(urls, documents, strict=True)
                if not url.startswith(("data:", "blob:")) and url.partition("#")[0] != page.partition("#")[0]]  # fmt: skip

    def complaints(self) -> list[str]:
        """What the console says: exceptions, errors, warnings, what the content policy refused."""
        self.js("1")
        found = []
        for one in self.events:
            about = one.get("params", {})
            if one.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(about["exceptionDetails"])[:500])
            elif one.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(about["args"])[:500])
            elif one.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
        return found


def program() -> str | None:
    """Where the browser is; None: there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser(folder: Path):
    """A page of a new browser, whose profile goes into `folder`."""
    there, into = os.pipe()
    out, here = os.pipe()
    # the protocol's pipes are descriptors 3 and 4; dash knows no descriptor above 9
    command = ["bash", "-c", f'exec "$@" 3<&{there} 4>&{here}', "bash", str(program()), "--headless", "--no-sandbox",
               "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
               "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
    process = subprocess.Popen(command, pass_fds=(there, here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(there)
    os.close(here)
    try:
        yield Page(into, out)
    finally:
        os.close(into)
        os.close(out)
        process.terminate()
        process.wait(20)


def picture(report: Path, out: Path) -> None:
    """Two parts of a report beside each other, as a JPEG."""
    wide, high = 1100, 1430
    both = Image.new("RGB", (1240, 800), "white")
    with TemporaryDirectory() as folder, browser(Path(folder)) as page:
        for at, tab in enumerate(("#overview", "#paper")):
            page.size(wide, high, dark=at == 1)
            page.open(report.resolve(), tab=tab)
            page.js(
                "Promise.all([...document.querySelectorAll('.panel:not([hidden]) img')].map((one) => one.decode()))"
            )
            small = Image.open(BytesIO(page.shot())).convert("RGB").resize((615, 800), Image.Resampling.LANCZOS)
            both.paste(small, (625 * at, 0))
    both.save(out, quality=82, optimize=True)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
