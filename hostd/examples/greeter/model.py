"""The model of the examples: it greets."""


class Greeter:
    """Made once, in a process of its own."""

    def greet(self, name: str) -> str:
        """Greet somebody."""
        return f"Hello, {name}!"


def load(path: str) -> Greeter:  # noqa: ARG001 - what the loader calls
    """Return the model."""
    return Greeter()
