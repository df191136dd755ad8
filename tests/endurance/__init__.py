"""Long runs: chaos, kills, changed messages. `python tests/endurance chaos|kills|mutations` runs one; see `__main__`."""
