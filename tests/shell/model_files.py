"""Files of models that have nothing but names, and a model.yaml if need be."""

from hostd.finders import find_spec


def made(directory, *names, yaml=None):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    if yaml is not None:
        (directory / "model.yaml").write_text(yaml)
    return str(directory)


def spec_of(directory, yaml):
    return find_spec("m", made(directory, yaml=yaml))
