"""Results of a campaign: the number of each outcome, and all failures with the data to replay them."""

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any


class Figures:
    """Counts by campaign, and failures. Several threads may add to it."""

    def __init__(self) -> None:
        """Start without any outcome."""
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def count(self, campaign: str, what: str, times: int = 1) -> None:
        """Count an outcome."""
        with self._lock:
            self.counts[campaign, what] += times

    def fail(self, campaign: str, what: str, seen: Any, **again: Any) -> None:
        """Record a failure; `again` holds the data for `--replay`."""
        with self._lock:
            self.counts[campaign, what.upper()] += 1
            self.failures.append({"campaign": campaign, "what": what, **again, "seen": seen})
        print(f"{campaign}: {what}", file=sys.stderr, flush=True)  # a run may be stopped before its figures are printed

    def describe(self) -> str:
        """Return a table of all counts; failures are in capitals."""
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
    """Return the last lines of a command's output."""
    return "\n".join(text.strip().splitlines()[-12:])[-2000:]
