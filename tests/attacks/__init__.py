"""What one client can do to a host in bad faith, as programs: `python -m attacks NAME TARGET SIZE` runs one of them.

An attack is a function of a module here, and a row of `catalogue.ATTACKS`. It runs in a process of its own against the
endpoint of a host, until it is told that it is over. `rig.observe` starts the host, another client that calls a model
all the while, and the attack, and says what became of each: the tests (`e2e/test_attacks.py`) and the benchmark
(`python -m benchmarks attack`) judge that. Nothing here looks into the host, so it may be written anew.
"""
