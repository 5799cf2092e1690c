"""A headless Chromium that a test drives over a pipe (the DevTools protocol), and what it saw of a page.

Tests import it by its name: pytest puts tests/helpers on the path.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_OVERFLOWS = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return false;
  return box.right > document.documentElement.clientWidth + 1;
}).map(e => e.tagName + ' ' + (e.textContent || '').trim().slice(0, 40)).slice(0, 5)
"""


def installed() -> str | None:
    """The path of a Chromium, None without one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Seen(NamedTuple):
    """What a page did while it loaded, and what of it can be seen."""

    problems: list[str]
    """Errors, warnings and exceptions on the console."""
    requests: list[str]
    """URLs that it asked for beside itself."""
    text: str
    drawn: str
    """Text inside SVG."""
    scrolls_to: int
    """Width that the page scrolls over; more than the window's is an overflow."""
    overflowing: list[str]


class Chromium:
    """A running browser: `look` opens a file in a window of a given width."""

    def __init__(self, profile: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # Chromium reads descriptor 3 and writes descriptor 4, which only a shell can name.
        script = 'exec "$@" 3<&"$COMMANDS" 4>&"$ANSWERS"'
        environment = {**os.environ, "COMMANDS": str(commands), "ANSWERS": str(answers)}
        command = ["bash", "-c", script, "bash", str(installed()), *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, env=environment, pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(commands), os.close(answers)
        self._buffer, self._count, self._events = b"", 0, []

    def look(self, page: Path, width: int, dark: bool = False, screenshot: Path | None = None) -> Seen:
        """Open `page`, wait until it has loaded, and tell what was seen; the whole page goes to `screenshot` as PNG."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", session)
        self._ask("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", session, features=scheme)
        self._events.clear()
        self._ask("Page.navigate", session, url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        own = page.resolve().as_uri()
        problems = [problem for event in self._events if (problem := _problem(event["method"], event["params"]))]
        asked = [e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        drawn = "[...document.querySelectorAll('svg text')].map(e => e.textContent).join('\\n')"
        values = ("document.body.innerText", drawn, "document.documentElement.scrollWidth", _OVERFLOWS)
        outside = [url for url in asked if url != own and not url.startswith("data:")]
        seen = Seen(problems, outside, *(self._value(session, value) for value in values))
        if screenshot:
            image = self._ask("Page.captureScreenshot", session, captureBeyondViewport=True, format="png")
            screenshot.write_bytes(base64.b64decode(image["data"]))
        self._ask("Target.closeTarget", targetId=target)
        return seen

    def close(self) -> None:
        self._ask("Browser.close")
        self._process.wait(30)
        os.close(self._read), os.close(self._write)

    def _value(self, session: str, expression: str):
        return self._ask("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"].get("value")

    def _ask(self, method: str, session: str | None = None, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._events.append(answer)

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 16)
            if not piece:
                raise RuntimeError("Chromium ended")
            self._buffer += piece
        first, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(first)


def _problem(method: str, about: dict) -> str | None:
    """What an event complains of."""
    if method == "Runtime.exceptionThrown":
        return about["exceptionDetails"]["text"]
    if method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
        return str(about["args"])
    if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
        return about["entry"]["text"]
    return None
