"""Builds small ONNX models from their nodes."""

from __future__ import annotations

from onnx import helper


def save(file, nodes, inputs, outputs, initializers=()):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "graph",
        [value(*item) for item in inputs],
        [value(*item) for item in outputs],
        initializer=list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return str(file)
