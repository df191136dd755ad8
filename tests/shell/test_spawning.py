"""What a worker's environment says."""

import pytest

from hostd.shell.processes.environment import (
    THREAD_VARIABLES,
    data_limit_bytes,
    oom_score_adj_of_worker,
    worker_environment,
)

GIB = 1 << 30


def environment(base=None, **changes):
    given = {
        "model_id": "m",
        "spec_env": {},
        "token": "00ff",
        "endpoint": "ipc:///w",
        "supervisor_pid": 12,
        "cpu_threads": 3,
        "limit_bytes": None,
        "oom_score_adj": 300,
        "host": "1.12.99",
    }
    return worker_environment(base or {}, **{**given, **changes})


def test_a_worker_is_told_who_it_is_and_whom_it_belongs_to():
    made = environment({"PATH": "/bin"}, spec_env={"MODE": "x"})
    assert {name: value for name, value in made.items() if name not in THREAD_VARIABLES} == {
        "PATH": "/bin",
        "MODE": "x",
        "PYTHONUNBUFFERED": "1",
        "HOSTD_MODEL_ID": "m",
        "HOSTD_HOST": "1.12.99",
        "HOSTD_SUPERVISOR_PID": "12",
        "HOSTD_WORKER_ENDPOINT": "ipc:///w",
        "HOSTD_WORKER_TOKEN": "00ff",
        "HOSTD_CPU_THREADS": "3",
        "HOSTD_OOM_SCORE_ADJ": "300",
    }


def test_a_models_settings_cannot_change_what_is_between_host_and_worker():
    forged = dict.fromkeys(environment(limit_bytes=GIB), "forged")
    made = environment(forged, spec_env=forged, limit_bytes=GIB)
    assert {name for name, value in made.items() if value == "forged"} == set(THREAD_VARIABLES)


def test_every_library_gets_the_threads_that_are_allotted():
    made = environment()
    assert {made[name] for name in (*THREAD_VARIABLES, "HOSTD_CPU_THREADS")} == {"3"}


@pytest.mark.parametrize("where", ["base", "spec_env"])
def test_a_number_of_threads_that_somebody_has_set_stands(where):
    given = {"OMP_NUM_THREADS": "8"}
    made = environment(given) if where == "base" else environment(spec_env=given)
    assert (made["OMP_NUM_THREADS"], made["MKL_NUM_THREADS"], made["HOSTD_CPU_THREADS"]) == ("8", "3", "3")


def test_the_models_settings_win_over_the_hosts_environment():
    made = environment({"OMP_NUM_THREADS": "8", "A": "1"}, spec_env={"OMP_NUM_THREADS": "2", "A": "2"})
    assert (made["OMP_NUM_THREADS"], made["A"]) == ("2", "2")


def test_only_a_worker_with_a_limit_has_its_data_limited():
    assert "HOSTD_DATA_LIMIT_BYTES" not in environment({"HOSTD_DATA_LIMIT_BYTES": "5"})
    assert environment(limit_bytes=GIB)["HOSTD_DATA_LIMIT_BYTES"] == str(3 * GIB)
    assert data_limit_bytes(4096) > GIB, "an interpreter must be able to start and to say that it has too little"


@pytest.mark.parametrize(("own", "workers"), [(0, 300), (-1000, -700), (200, 500), (900, 1000), (1000, 1000)])
def test_workers_are_killed_sooner_than_the_host(own, workers):
    assert oom_score_adj_of_worker(own) == workers
