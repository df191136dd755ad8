"""What the package offers to the outside; a change of it must be meant."""

import inspect
import subprocess
import sys

from helpers import REPOSITORY

import hostd

PUBLIC = set(
    """
    AbortedError AlreadyExistsError AsyncClient AsyncModel CancelledError Change Client DeadlineExceededError Event
    FailedPreconditionError Feed Holder Host HostError HostInfo HostSummary InternalError InvalidArgumentError LoadPlan LogLine
    MemoryInfo MessageTooLargeError MethodInfo Model ModelError ModelInfo ModelSummary NotFoundError PendingCall
    PermissionDeniedError ProtocolError ResourceExhaustedError SizeEstimate Status SyncReport TemplateInfo TemplatesInfo TensorInfo
    UnavailableError UnimplementedError UnloadReport VersionMismatchError WorkerInfo __version__ connect
    """.split()  # noqa: SIM905 - as a list it is a page
)

VERBS = set(
    """
    load_model unload_model unload_all_models retrieve_model get_model_size estimate_model_size deploy_model
    undeploy_model sync_local_models list_models get_model explain_model plan_load pin_model unpin_model memory_info
    templates_info events watch model_logs log_lines host_info host_summary reload_config host_settings shutdown close
    """.split()  # noqa: SIM905 - as a list it is a page
)


def test_the_package_offers_these_names_and_no_others():
    assert set(hostd.__all__) == PUBLIC
    assert list(hostd.__all__) == sorted(hostd.__all__)
    assert all(hasattr(hostd, name) for name in PUBLIC)


def test_both_clients_have_every_verb_with_the_same_arguments():
    for verb in sorted(VERBS):
        ours, theirs = (inspect.signature(getattr(c, verb)).parameters for c in (hostd.Client, hostd.AsyncClient))
        assert list(ours) == list(theirs), verb
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()], verb


def test_everything_public_is_documented():
    for name in PUBLIC - {"__version__"}:
        thing = getattr(hostd, name)
        assert (thing.__doc__ or "").strip(), name
        for member_name, member in inspect.getmembers(thing, callable) if inspect.isclass(thing) else []:
            if not member_name.startswith("_") and str(getattr(member, "__module__", "")).startswith("hostd"):
                assert (member.__doc__ or "").strip(), f"{name}.{member_name}"


def test_every_error_has_a_status_of_its_own_kind():
    errors = [getattr(hostd, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, hostd.HostError) for error in errors)
    assert all(isinstance(error.status, hostd.Status) for error in errors)
    assert {int(status) for status in hostd.Status} == set(range(17))


def test_importing_the_package_brings_in_neither_frameworks_nor_the_supervisor():
    unwanted = [
        "numpy",
        "sklearn",
        "onnxruntime",
        "torch",
        "pydantic",
        "prometheus_client",
        "hostd.shell",
        "hostd.core",
    ]
    source = f"import sys, hostd; print(sorted(name for name in {unwanted!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_says_that_it_is_typed():
    assert (REPOSITORY / "hostd" / "py.typed").exists()
    assert (REPOSITORY / "workers" / "py.typed").exists()


def test_everything_public_says_where_it_is_imported_from():
    # In a fresh process: what was imported from a private place first says so as well.
    source = """
import typing
from dataclasses import is_dataclass
from hostd.embed import Host
import hostd

assert hostd.Host is Host
for name in hostd.__all__:
    thing = getattr(hostd, name)
    if name != "__version__":
        assert thing.__module__ == "hostd", f"{name} says {thing.__module__}"
        if is_dataclass(thing):
            typing.get_type_hints(thing)
"""
    of_a_host = "import hostd\nwith hostd.Host() as host: print(type(host.client()))"
    done = subprocess.run([sys.executable, "-c", of_a_host], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "<class 'hostd.Client'>"
    subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, check=True)
