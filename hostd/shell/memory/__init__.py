"""Memory as the operating system measures it: of one process, of trees, of the machine; and its limits."""
