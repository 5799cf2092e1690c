"""Arguments and names of files are UTF-8, whatever the locale says."""

from __future__ import annotations

import os
import sys


def speak_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the locale has another encoding: Parquet holds names in UTF-8.

    Python decodes arguments and names of files once, at its start.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_utf8(text: str) -> bool:
    """Whether an argument was bytes of UTF-8: Python has surrogates in place of others."""
    return not any("\ud800" <= each <= "\udfff" for each in text)
