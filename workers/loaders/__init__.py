"""One small file per framework, each with a `load` of the shape of `hostd_workers.api.Loader`."""
