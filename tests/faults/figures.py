"""What a campaign found: how often each thing happened, and all failures with what it takes to see them again."""

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any


class Figures:
    """Counts by campaign, and failures. Several threads may add to it."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def count(self, campaign: str, what: str, times: int = 1) -> None:
        """Something happened."""
        with self._lock:
            self.counts[campaign, what] += times

    def fail(self, campaign: str, what: str, seen: Any, **again: Any) -> None:
        """Something is wrong; `again` is the entry that `--replay` takes."""
        with self._lock:
            self.counts[campaign, what.upper()] += 1
            self.failures.append({"campaign": campaign, "what": what, **again, "seen": seen})
        print(f"{campaign}: {what}", file=sys.stderr, flush=True)  # a run may be ended before its figures are printed

    def describe(self) -> str:
        """A table of all counts; what is wrong is in capitals."""
        rows = sorted(self.counts.items())
        return "\n".join(f"{campaign:8} {what:44} {count:6}" for (campaign, what), count in rows)

    def save(self, path: Path, **about: Any) -> None:
        """Write everything as JSON."""
        counts: dict[str, dict[str, int]] = {}
        for (campaign, what), count in sorted(self.counts.items()):
            counts.setdefault(campaign, {})[what] = count
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**about, "figures": counts, "failures": self.failures}, indent=1) + "\n")


def shorten(text: str) -> str:
    """The last lines of what a command printed."""
    return "\n".join(text.strip().splitlines()[-12:])[-2000:]
