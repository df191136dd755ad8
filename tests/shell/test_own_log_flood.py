"""A warning that recurs without end does not fill the disk of the host's own log."""

import logging
import subprocess
import sys
import textwrap

from helpers import PATIENCE_S, REPOSITORY

from hostd.shell.own_log import BURST, PERIOD_S, Flood


def _shown(flood, at_s, *, line=1, level=logging.WARNING):
    record = logging.LogRecord("n", level, "file.py", line, "%s again", ("it",), None)
    record.created = at_s
    return record.getMessage() if flood.filter(record) else None


def test_the_first_of_a_place_are_shown_and_then_how_many_were_not():
    flood = Flood()
    first = [_shown(flood, 1000.0) for _ in range(BURST)]
    assert first[:-1] == ["it again"] * (BURST - 1)
    assert f"the {BURST}th like this" in str(first[-1])
    assert [_shown(flood, 1000.0 + number / 10_000) for number in range(10_000)] == [None] * 10_000
    assert _shown(flood, 1001.0, line=2) == "it again", "what another line says is another matter"
    assert [_shown(flood, 1002.0, level=logging.INFO) for _ in range(100)] == ["it again"] * 100
    assert _shown(flood, 1000.0 + PERIOD_S) == "it again (10000 more like this were not shown)"
    assert _shown(flood, 1000.1 + PERIOD_S) == "it again"
    assert _shown(flood, 500.0) == "it again", "a clock that was set back silences nothing"


def test_a_host_shows_a_burst_of_a_flood_of_warnings():
    source = """
        import logging
        from hostd.shell import own_log
        own_log.configure("info", "text")
        own_log.configure("info", "json")  # as a reload does
        for number in range(1000):
            logging.getLogger("x").warning("again %s", number)
        logging.getLogger("x").error("another %s", "one")
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr.count("again ") == BURST
    assert done.stderr.count("another one") == 1
