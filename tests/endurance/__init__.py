"""Long runs: chaos, kills, changed messages, calls on lanes. `python tests/endurance NAME` runs one; see `__main__`."""
