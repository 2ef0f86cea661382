"""Autotuning across runs: which choices of a strategy are cached, and for how long. No test measures a time."""

import json

import pytest

from jaxscape.runs import strategy as strategy_stage
from jaxscape.runs.strategy import fastest_strategy
from jaxscape.training.choice import Choice

HOUR = 3600.0


class Machine:
    """A clock that tests set, and the results of the measurements to come; counts those that were made."""

    def __init__(self, monkeypatch, cache):
        self.now, self.measured, self.file = 1e9, 0, cache / "jaxscape" / "strategies.json"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(strategy_stage.time, "time", lambda: self.now)

    def run(self, chosen, *, consistent=True, key="work"):
        """Return the strategy of one run and when it was measured, if a measurement now would choose `chosen`."""

        def choose(*arguments, known):
            if key in known:
                return Choice(known[key], {}, key)
            self.measured += 1
            return Choice(chosen, {"loop": 1.0, "threads": 0.9}, key, consistent)

        self._monkeypatch.setattr(strategy_stage, "choose_strategy", choose)
        strategy, record, when = fastest_strategy(None, None, None, None)
        assert record == {"chosen": strategy, "seconds_per_step": {"loop": 1.0, "threads": 0.9}}
        return strategy, when


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def test_a_choice_is_valid_for_an_hour_and_then_measured_once_more(machine):
    assert machine.run("threads") == ("threads", "measured now")
    machine.now += HOUR - 1
    assert machine.run("loop") == ("threads", "measured before")
    machine.now += 2
    assert machine.run("threads") == ("threads", "measured now")  # which confirms it
    machine.now += 1000 * HOUR
    assert machine.run("loop") == ("threads", "measured before")
    assert machine.measured == 2


def test_a_choice_of_a_busy_hour_is_replaced(machine):
    assert machine.run("loop") == ("loop", "measured now")
    machine.now += 2 * HOUR
    assert machine.run("threads") == ("threads", "measured now")
    machine.now += 2 * HOUR
    assert machine.run("threads") == ("threads", "measured now")
    machine.now += 2 * HOUR
    assert machine.run("loop") == ("threads", "measured before")


def test_a_measurement_whose_times_disagree_is_not_cached(machine):
    for chosen in ("loop", "threads"):
        strategy, when = machine.run(chosen, consistent=False)
        assert (strategy, when[:23]) == (chosen, "measured now; not cache")
    assert machine.measured == 2
    assert not machine.file.exists()


def test_a_measurement_whose_times_disagree_does_not_replace_an_earlier_one(machine):
    machine.run("threads")
    machine.now += 2 * HOUR
    strategy, when = machine.run("loop", consistent=False)
    assert strategy == "threads"
    assert when == "measured before, as the times of a new measurement disagree"
    assert machine.run("threads")[1] == "measured now"  # it was not confirmed


def test_choices_of_other_work_are_kept(machine):
    machine.run("threads", key="a")
    machine.run("loop", key="b")
    assert machine.run("vmap_grad", key="a")[0] == "threads"
    assert machine.run("vmap_grad", key="b")[0] == "loop"


def test_choices_of_an_earlier_version_are_confirmed_by_one_measurement(machine):
    def write():
        machine.file.parent.mkdir(exist_ok=True)
        machine.file.write_text(json.dumps({"work": {"chosen": "loop", "seconds_per_step": {"loop": 1, "threads": 2}}}))

    write()
    machine.run("loop")
    machine.now += 2 * HOUR
    assert machine.run("threads") == ("loop", "measured before")
    write()
    assert machine.run("threads") == ("threads", "measured now")


def test_a_clock_that_was_set_back_makes_a_choice_no_younger(machine):
    machine.run("threads")
    machine.now -= 1000 * HOUR
    assert machine.run("loop") == ("loop", "measured now")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"work": 3}',
        '{"work": {"seconds_per_step": {}}}',
        '{"work": {"chosen": "loop"}}',
        '{"work": {"chosen": "strange", "seconds_per_step": {}}}',
        '{"work": {"chosen": "loop", "seconds_per_step": {}, "measured": "today"}}',
    ],
)
def test_a_damaged_cache_is_replaced(machine, text):
    machine.file.parent.mkdir()
    machine.file.write_text(text)
    assert machine.run("threads") == ("threads", "measured now")
    assert machine.run("loop") == ("threads", "measured before")
