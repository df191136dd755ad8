"""One validated configuration object.

Covers every setting of a host with its unit, its default and the reason for it. Does not cover where settings come from
(`hostd.config.sources` reads the file and the environment) or what is done with them. A model's own settings are in its
`model.yaml` (`hostd.config.model_yaml`); what the types of plugins mean is in `hostd.plugins.registry`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hostd import paths
from hostd.config.plain import check_plain
from hostd.config.preload import PreloadTable  # noqa: TC001 - pydantic reads the annotations
from hostd.config.types import (
    NAME,
    Address,
    Budget,
    Bytes,
    Directory,
    Flag,
    NotBool,
    Period,
    QuietPeriod,
    Retries,
    Seconds,
    Share,
    SpinSeconds,
    Templates,
    Threads,
)
from hostd.config.values import is_loopback, located
from hostd.hints import why_missing
from hostd_workers.wire.errors import HostError


class _Section(BaseModel):
    # Numbers that JSON lacks are written as Python does, and read back: a plugin may be configured with them.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants")


class ModelsConfig(_Section):
    """Where models come from."""

    dir: Directory | None = None
    """The local models directory. Unset: models are loaded from the paths that clients name."""

    lazy_load: Flag = False
    """Whether a model that is asked for and not loaded is loaded from the directory. Off, because it lets every client
    that may call a model start processes."""

    poll_period_s: Period = 10
    """Seconds between two looks at the directory, with lazy loading. 0 or null: none. A look costs some microseconds
    per entry, and ten seconds are little beside the time that it takes to copy and to load a model."""

    write_quiet_period_s: QuietPeriod = 2
    """Seconds without any change after which a model's files count as completely written. 0, less, or null: at once.
    Copying tools pause for less than a second between two files; the wait delays the load of every new model."""

    completion_marker: str | None = None
    """Name of a file in a model's directory without which that is still being written. Unset: no marker is expected,
    because most tools write none."""

    load_on_start: Flag = True
    """Whether the models that are in the directory at the start are loaded then. On, because a directory is set to have
    them served."""

    wait_for_initial_loads: Flag = False
    """Whether the host is ready only when those loads are done. Off: one slow model would keep all others waiting."""

    lazy_load_retries: Retries = 2
    """How often a lazy load that failed is tried again. Twice, because nobody chose the moment: files may just have
    been replaced."""

    @field_validator("completion_marker")
    @classmethod
    def _is_file_name(cls, value: str | None) -> str | None:
        if value is not None and (value in ("", ".", "..") or "/" in value or not value.isprintable()):
            raise ValueError(f"must be the name of a file in the model's directory, such as COMPLETE, not {value!r}")
        return value


def _no_interpreter(value: str) -> str:
    """Say why an interpreter cannot be run, with its full path."""
    if "/" not in value:
        return f"there is no command {value!r} on PATH"
    path = Path(value).expanduser().absolute()
    why = "it is no program that this user may run" if path.exists() else why_missing(str(path))
    return f"there is no interpreter at {path}: {why}"


class WorkersConfig(_Section):
    """How worker processes are started, fed and ended."""

    python: str | None = None
    """The interpreter of workers if their model.yaml names none: a path, or a command found on PATH. It needs pyzmq and
    msgpack. Unset: the host's own."""

    spawn_timeout_s: Seconds = 30
    """Seconds from the start of a worker process to its hello. On a cold disk or a loaded machine an interpreter takes
    seconds to start; one that takes longer than this hangs."""

    load_timeout_s: Seconds = 600
    """Seconds that one load of a model may take. In ten minutes a fast disk gives some 500 GB."""

    drain_timeout_s: Seconds = 10
    """Seconds that running requests, and then the model's close(), get to finish when the model is unloaded; then they
    are answered with ABORTED and the process is killed."""

    load_retries: Retries = 0
    """How often a load that failed is tried again, each time in a fresh process, if the caller does not say. None: what
    fails once mostly fails again, and who loads a model by hand wants to hear of it."""

    retry_backoff_s: Seconds = 0.2
    """Seconds before the first retry; each further wait is twice as long. A moment for files or memory that are about
    to be there, too short to be noticed beside the start of a process."""

    retry_max_backoff_s: Seconds = 30
    """The longest wait between two tries, in seconds: soon enough after an outage that nobody asks for it by hand."""

    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000), NotBool] = 1024
    """Requests waiting or running per model before new ones are refused with RESOURCE_EXHAUSTED: enough for clients
    that pipeline, few enough that a stuck model cannot fill the host."""

    lanes: bool = True
    """Whether clients on this machine call workers directly, over a UNIX socket of each, which saves two thirds of the
    time of a small call. Off: all calls go through the host."""

    spin_s: SpinSeconds = 0.0
    """How long a worker of plain methods, and a synchronous client that waits for it, look for news before they sleep.
    Calls that end within this take a third to two thirds of their time; 0.001 suits models that are quicker than that.
    It keeps two cores busy, so it is not for a machine with more callers than cores."""

    templates: Templates = "auto"
    """Which libraries are kept imported, in processes that fork workers: a load then takes milliseconds, and its model
    shares the libraries' memory. auto: those that loads have imported. A list of modules: these, for all models. off:
    every worker is started afresh. A model's `isolation: fresh` keeps it out."""

    cpu_threads: Threads | None = None
    """How many threads the libraries of a model may use that says nothing itself. Unset: the cores (those that
    its control groups have time for, if that is less) divided by the number of loaded models when it is loaded, at
    least one: if each took all of them, they would slow each other."""

    log_bytes: Bytes = 2**20
    """Bytes of a model's standard output and error that are kept, the newest. 1 MiB holds some ten thousand lines,
    whatever the model prints."""

    @model_validator(mode="after")
    def _backoff_grows(self) -> WorkersConfig:
        if self.retry_max_backoff_s < self.retry_backoff_s:
            raise ValueError("retry_max_backoff_s must be at least retry_backoff_s, the wait before the first retry")
        return self

    @field_validator("python")
    @classmethod
    def _can_be_run(cls, value: str | None) -> str | None:
        if value is None:
            return None
        found = shutil.which(str(located(value)) if "/" in value else value)
        if found is None:
            raise ValueError(_no_interpreter(value))
        # Never resolved: a virtual environment's interpreter is a link, and following it would leave the environment.
        return str(Path(found).absolute())


class MemoryConfig(_Section):
    """How memory is measured, what models may take together, and what goes when it is not enough."""

    budget: Budget = "auto"
    """What all models together may take, pages of files apart: bytes, a percentage of what there is ("80%"), or auto:
    what there is less `memory.reserve`. "What there is" is the limit of the host's cgroup, or the machine's memory.
    none: no budget; every load starts at once."""

    reserve: Share = "10%"
    """What an automatic budget leaves to the host itself, to other programs and to the page cache: bytes or a
    percentage. A tenth, because the kernel begins to swap and to kill before the last byte is gone."""

    admission_timeout_s: Seconds = 60
    """Seconds that a load waits until there is memory for it; then it is refused with RESOURCE_EXHAUSTED. As long as a
    client waits for a call by default."""

    min_residence_s: Period = 1
    """Seconds that a model stays after its load before it may be evicted, and that a load waits before models in use
    have to yield for it. About what a load costs: less would load more than it serves."""

    idle_ttl_s: Period = 0
    """Seconds without a call after which a model is evicted, if its model.yaml does not say otherwise. 0 or null: only
    when others need the memory."""

    assumed_size: Bytes = 256 * 2**20
    """What is reserved for a load of which nothing is known: no path on the disk, or a sizer that fails."""

    remember: Literal["user", "host", "none"] = "user"
    """Which hosts learn from what models were measured to take: all of this user's, this one alone (in `state_dir`), or
    none when this one has ended. All, because the same content takes as much whichever host loads it, and an embedded
    host keeps nothing itself. What cannot be kept for all of them is kept for this one."""

    sample_period_s: Seconds = 5
    """Seconds between two samples of a worker in use or just loaded. Sampling a big process costs milliseconds of a
    core; workers that are idle and do not change are sampled less and less often, up to `max_sample_period_s`."""

    max_sample_period_s: Seconds = 60
    """The longest time between two samples of an idle worker, in seconds: a model may grow with nobody calling it."""

    watch_period_s: Seconds = 0.1
    """Seconds between two looks at a worker that is loading, or is in use and has a memory limit: what a model can
    allocate in between is what it may be over its limit. A look costs 20 microseconds. A worker with a limit that idles
    unchanged is looked at less often, down to every 10 of these periods."""

    estimate_timeout_s: Seconds = 10
    """Seconds that an estimate may take, of a sizer above all. A walk over the files of a big model takes less than
    one; but a sizer is somebody's code, and may hang."""


class MetricsConfig(_Section):
    """The Prometheus page."""

    port: Annotated[int, Field(ge=0, le=65535), NotBool] | None = None
    """TCP port of the page. Unset: no page. 0: any free port."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on. Metrics show model ids and need no credentials, so only this machine may ask unless you
    say otherwise."""


class FrontsConfig(_Section):
    """Servers for the clients of others: each is a process of its own that the host starts, watches and restarts."""

    http: Address | None = None
    """Where to serve HTTP: HOST:PORT, or a port of this machine alone; 0 is any free one. Unset: nowhere."""

    grpc: Address | None = None
    """Where to serve gRPC, as `http`. It is a port of its own: the servers of the two share none."""

    modelmesh: Address | None = None
    """Where to serve ModelMesh, which loads and unloads models here, and inference over gRPC, as `grpc`."""

    others: dict[str, Address] = {}
    """Where to serve fronts of other packages: by the name of an entry point in the group `hostd.fronts`, or an import
    path `module:attribute`, an address as above. Empty: none."""

    anonymous: Literal["none", "read", "call", "load", "deploy", "admin"] | None = None
    """What somebody without a token may do, each more than the one before. Unset: call at an address of this machine
    (every user of it can connect to that), none elsewhere; load at that of `modelmesh` on this machine, because
    ModelMesh has no tokens. Whoever may load can have this user's programs run."""

    tokens: Directory | None = None
    """A file of bearer tokens, a role and a token a line; readable by this user alone. Unset: there are none."""

    certificate: Directory | None = None
    """A file with the certificate (PEM) of this server, and those that vouch for it. Unset: no TLS."""

    key: Directory | None = None
    """The file of its private key. Unset: it is in the file of the certificate."""

    max_body_bytes: Bytes = 2**28
    """Bytes of one request's body, unpacked. 256 MiB holds a batch of 400 colour images of 224 by 224 as float32."""

    max_bodies_bytes: Bytes | None = None
    """Bytes of the bodies of all requests together that one front holds until they are answered; beyond it requests are
    refused, with 503 over HTTP and RESOURCE_EXHAUSTED over gRPC. Unset: four of the largest."""

    @model_validator(mode="after")
    def _nobody_is_let_in_by_mistake(self) -> FrontsConfig:
        if self.key is not None and self.certificate is None:
            raise ValueError("fronts.key is of a certificate: set fronts.certificate too")
        if self.max_bodies_bytes is not None and self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError("fronts.max_bodies_bytes must be at least max_body_bytes, or the largest never fits")
        ours = {"http": self.http, "grpc": self.grpc, "modelmesh": self.modelmesh}
        for name in ours.keys() & self.others.keys():
            raise ValueError(f"fronts.others.{name} is none of another package: set fronts.{name}")
        for name, address in {**ours, **{f"others.{name}": address for name, address in self.others.items()}}.items():
            if address is not None and self.anonymous is None and self.tokens is None and not is_loopback(address):
                raise ValueError(
                    f"fronts.{name} listens at {address}, which other machines reach: set fronts.tokens to a file with "
                    "lines such as `call SECRET`, or say with fronts.anonymous what everybody may do"
                )
        return self


class LimitsConfig(_Section):
    """Limits that keep one client or one model from starving the others."""

    max_message_bytes: Bytes = 2**30
    """Bytes of one request or answer, all its frames together. 1 GiB holds a batch of 1700 colour images of 224 by 224
    as float32, with room."""

    max_in_flight_bytes: Bytes = 4 * 2**30
    """Bytes of all requests together that the host holds for its workers; beyond it requests are refused with
    RESOURCE_EXHAUSTED. Four of the largest messages."""

    peer_buffer_bytes: Bytes = 32 * 2**20
    """Bytes that wait in the host for one process, a client's or a worker, that takes none. Beyond it nothing is read
    from the processes that send more to it, for a second in all; each time that it takes twice this earns another
    second. Then a client is dropped, loudly, and calls of a worker are refused with RESOURCE_EXHAUSTED. The host holds
    half of this of messages that one process has begun to send, and one more of max_message_bytes; beyond it only the
    oldest is read on, and its client is dropped, loudly, if a 32nd of this comes in none of ten seconds."""

    @model_validator(mode="after")
    def _one_message_fits(self) -> LimitsConfig:
        if self.max_in_flight_bytes < self.max_message_bytes:
            raise ValueError(
                "max_in_flight_bytes must be at least max_message_bytes, or the largest message never fits"
            )
        return self


class PluginConfig(_Section):
    """A finder, loader, initializer or sizer: what it is, and what it is made with."""

    type: Annotated[str, Field(min_length=1)]
    """A built-in name, the name of an entry point of an installed package, or an import path `module:attribute`."""

    config: dict[str, Any] = {}
    """Its keywords. Empty: those that it takes have defaults of their own."""

    @field_validator("config")
    @classmethod
    def _is_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_plain(value, "config")
        return value


PluginTable = dict[Annotated[str, Field(pattern=NAME)], PluginConfig]


class HostConfig(_Section):
    """Everything that can be set about a host; frozen, and equal after a round trip through JSON.

    Make one with `load_config`, which merges arguments, environment and file and raises typed errors.
    """

    name: Annotated[str, Field(pattern=NAME)] = paths.DEFAULT_NAME
    """The host's name, up to 64 letters, digits, dots, dashes and underscores. Hosts of different names run side by
    side."""

    runtime_dir: Directory
    """Directory (0700) of the sockets and the lock. Default: $XDG_RUNTIME_DIR/hostd/<name>, or hostd-<uid>/<name> under
    the system's temporary directory."""

    state_dir: Directory
    """Directory of what outlives the host. Default: $XDG_STATE_HOME/hostd/<name> (~/.local/state/hostd/<name>), or
    `state` in the runtime directory for a user without a home."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the host logs. At info: one line per spawn, ready, unload and exit."""

    log_format: Literal["text", "json"] = "text"
    """The shape of the host's own log: lines of text, or one JSON object a line with time, level, logger and message,
    and with model, worker and pid where it is about one."""

    models: ModelsConfig = ModelsConfig()
    workers: WorkersConfig = WorkersConfig()
    memory: MemoryConfig = MemoryConfig()
    metrics: MetricsConfig = MetricsConfig()
    fronts: FrontsConfig = FrontsConfig()
    limits: LimitsConfig = LimitsConfig()

    finders: PluginTable = {}
    """Finders by name; "default" is asked when a load names none. Empty: model.yaml, then MLflow's MLmodel, then the
    files themselves tell what a model is."""

    loaders: PluginTable = {}
    """Loaders by name, for model.yaml to choose from; "default" is used when neither it nor a file tells which. Empty:
    the built-in ones have names of their own."""

    initializers: PluginTable = {}
    """Initializers by name; "default" is used when neither the load nor model.yaml names one. Empty: what the loader
    returns is served as it is."""

    sizers: PluginTable = {}
    """Sizers by name; "default" estimates sizes that are neither known nor declared. Empty: the bytes on disk, times a
    factor."""

    preload: PreloadTable = {}
    """Models by id that are loaded at the start, and again by `hostd sync` if they are not loaded: a path, or a map
    with path, options, type, pin, memory_limit and more. Empty: none but those of the models directory."""

    @model_validator(mode="before")
    @classmethod
    def _place_directories(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        name = given.get("name", paths.DEFAULT_NAME)
        # An invalid name is reported as such; it must not reach a path first.
        name = name if isinstance(name, str) and "/" not in name else paths.DEFAULT_NAME
        # Only what is needed: there may be no place for the other.
        if "runtime_dir" not in given:
            given["runtime_dir"] = paths.runtime_dir(name)
        if "state_dir" not in given and isinstance(given["runtime_dir"], (str, Path)):
            given["state_dir"] = paths.state_dir(name, given["runtime_dir"])
        return given

    @field_validator("runtime_dir")
    @classmethod
    def _sockets_fit(cls, value: Path) -> Path:
        try:
            paths.check_socket_paths(value)
        except HostError as error:
            raise ValueError(error.message) from None
        return value

    @property
    def endpoint(self) -> str:
        """The endpoint at which clients reach this host.

        It follows from the runtime directory and cannot be set: the lock on that directory is what keeps two hosts from
        binding the same socket.
        """
        return paths.client_endpoint(self.runtime_dir)

    def to_json(self) -> str:
        """Return this configuration as JSON that `config_from_json` reads back to an equal one."""
        return self.model_dump_json()
