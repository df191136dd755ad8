"""A plugin for pytest that has caikit's own tests load every model in a process of a host: `pytest -p over_workers`.

Before anything is collected, because caikit's tests make the runtime's manager of models when they are imported.
"""

import caikit


def pytest_configure():
    loader = {"type": "HOSTD", "import_class": "hostd.fronts.caikit.loader.Loader"}
    caikit.configure(config_dict={"model_management": {"loaders": {"default": loader}}})
