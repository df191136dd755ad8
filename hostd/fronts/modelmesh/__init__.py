"""ModelMesh's interface for serving runtimes: it loads and unloads models here, and forwards inference by their ids.

`parameters` and `sizes` decide, `runtime` does, `server` serves it beside the Open Inference Protocol. Needs the extra
`grpc`.
"""
