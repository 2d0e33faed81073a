"""A page as Chromium shows it, without a window: over the pipe of its devtools, so that no port is opened."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
# The browser reads commands from its descriptor 3 and answers on 4.
_START = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
_PATIENCE = 60.0  # seconds


def find() -> str:
    """Path of the browser; an error that says how to get it, as a page nobody has looked at is not tested."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install -y chromium)")
    return found


class Browser:
    """One tab. `events` holds what the browser told without being asked."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers, self.left = commands, answers, b""
        self.count, self.session, self.events = 0, "", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.count += 1
        command = {"id": self.count, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") != self.count:
                self.events.append(told)
            elif "error" in told:
                raise RuntimeError(f"{method}: {told['error']}")
            else:
                return told["result"]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self.left:
            if not select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError(f"the browser was silent for {_PATIENCE:.0f} s")
            more = os.read(self.answers, 1 << 20)
            if not more:
                raise RuntimeError("the browser ended")
            self.left += more
        first, _, self.left = self.left.partition(b"\0")
        return json.loads(first)

    def show(self, page: Path, width: int, height: int = 900, *, dark: bool = False, media: str = "screen") -> None:
        """Load a page, as wide as so many pixels."""
        self.events.clear()
        look = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=media, features=look)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        """Return what the browser told of one kind since the page was loaded."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it."""
    program = find()
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    # Far above 4, so that neither is in the way of the other when they are moved.
    far = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
    command = [
        sys.executable,
        "-c",
        _START,
        *map(str, far),
        program,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    with open(profile.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, pass_fds=far, stdout=log, stderr=log)
    for fd in (theirs_in, theirs_out, *far):
        os.close(fd)
    try:
        tab = Browser(commands, answers)
        yield tab
        tab.session = ""
        tab.call("Browser.close")
    finally:
        os.close(commands)
        os.close(answers)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
