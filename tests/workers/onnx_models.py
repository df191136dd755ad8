"""Builds small ONNX models from their nodes."""

from onnx import helper


def made(file, nodes, inputs, outputs, initializers=(), opset=17, **opsets):
    """Write a model of nodes and of what they take and give."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(initializers))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in opsets.items())]
    file.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    return str(file)


def save(file, nodes, inputs, outputs, initializers=()):
    """Write a model of nodes (operator, inputs, outputs) and tensors (name, type, shape)."""
    tensor = helper.make_tensor_value_info
    parts = (
        [helper.make_node(*node) for node in nodes],
        *([tensor(*one) for one in some] for some in (inputs, outputs)),
    )
    return made(file, *parts, initializers)
