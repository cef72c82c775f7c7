"""`attnbias export METHOD`: a checkpoint as one graph, with its attention maps beside the scores."""

from __future__ import annotations

from collections.abc import Callable

from attnbias.cli.options import method_commands, read_request, typed_fields, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.requests import ExportRequest
from attnbias.methods.engine.screen import say


def _command(method: Description) -> Callable[..., None]:
    def command(**typed: object) -> None:
        fields = typed_fields(method, typed, ExportRequest)
        request = read_request(ExportRequest, typed, method=method.name, fields=fields)
        from attnbias.methods.engine.export import export

        graph = export(request)
        shape = "(B, 3, H, W)" if graph.any_size else f"(B, 3, {graph.image_size}, {graph.image_size})"
        first, *others = graph.inputs
        say(
            f"{graph.file}: {', '.join([f'{first} {shape}', *others])} -> {', '.join(graph.outputs)}; map {graph.map}, "
            f"{graph.classes} classes"
        )
        if graph.parity is not None:
            say(graph.parity)

    return with_options(command, ExportRequest, method)


export = method_commands(
    "export",
    ExportRequest,
    _command,
    "Write a checkpoint as an ONNX or torch.export graph.",
    "--load-from RUN --check photos",
    "--load-from RUN --format torch-export --out model.pt2",
    "--load-from RUN --top-k 1",
)
