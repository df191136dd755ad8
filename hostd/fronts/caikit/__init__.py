"""caikit's own serving runtime, kept as it is, with each of its models in a process of a host.

`loader.Loader` is named in caikit's configuration, in place of its own loader. What it returns for a model is an object
of the model's own class whose methods run in a worker; when caikit drops it, the worker ends, and its memory with it.

In the serving process run `loader`, `sizer`, `hosting`, `remote`, `proxy` and `streams`; in the worker, `worker`; in
both, `codec`, `raised`, `context` and `tracing`; in the host, `finder`, so neither that nor this file imports caikit.
All else needs the extra `caikit`.
"""
