"""A real Chromium without a window, driven over its DevTools protocol: what a reader of the page would do and see."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
)
PATIENCE_S = 60.0
CODES = {
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowDown": 40,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
}


class Browser:
    """One page in a browser of its own; `complaints` are console errors and exceptions, `asked` what was fetched."""

    def __init__(self, profile: Path) -> None:
        command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._calls = 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._socket = self._attach(profile / "DevToolsActivePort")
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=PATIENCE_S)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that come meanwhile are noted."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == self._calls:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._note(message)

    def open(self, url: str) -> None:
        """Go to a page and wait until it says that it is ready."""
        self.call("Page.navigate", url=url)
        self.until("document.documentElement?.dataset.ready !== undefined")

    def see(self, script: str) -> Any:
        """What an expression is; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE_S) -> None:
        """Wait for an expression to be true."""
        deadline = time.monotonic() + seconds
        while not self.see(script):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {script}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """An element's text."""
        return str(self.see(f"document.querySelector({json.dumps(selector)}).textContent"))

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element's first box."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.see(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.see(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getClientRects()[0])")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press named keys, one after the other."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                text = {"text": "\r"} if (key, kind) == ("Enter", "keyDown") else {}
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=modifiers,
                    windowsVirtualKeyCode=CODES[key], **text,
                )  # fmt: skip

    def fill(self, selector: str, value: str) -> None:
        """Give a field a value, with the events that typing would cause."""
        self.see(
            f"""(field => {{ field.value = {json.dumps(value)};
            for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {{bubbles: true}})); }})
            (document.querySelector({json.dumps(selector)}))"""
        )

    def look(self, *, width: int = 1400, height: int = 900, scheme: str = "light", scale: float = 1) -> None:
        """Set the window's size and the reader's colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
            mobile=width < 600,
        )  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as it is seen, as PNG; `whole` takes what lies below the window, too."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _attach(self, port_file: Path) -> ClientConnection:
        """A connection to the browser's only page."""
        import httpx

        deadline = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "chromium ended at once"
            assert time.monotonic() < deadline, "chromium does not come up"
            time.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S).json()
        page = next(target for target in targets if target["type"] == "page")
        return connect(page["webSocketDebuggerUrl"], max_size=None)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
