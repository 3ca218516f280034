"""Whether an ONNX file can do more than compute: looked at before any session is built.

A model folder may come from somebody else. What the tool writes has no control flow, no operators but ONNX's
own and onnxruntime's for 8 bits, and all of its constants inside the file, which is under a checksum. This
reads the protocol buffers itself, since an installation for scoring has no package that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from anomscan.errors import ModelDamaged

LARGEST = 2_000_000_000
"""Bytes of a graph; protocol buffers end there too."""
DOMAINS = frozenset((b"", b"ai.onnx", b"com.microsoft"))
CONTROL_FLOW = frozenset((b"Loop", b"Scan", b"If", b"SequenceMap"))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_OPSET_DOMAIN = 1


def check_graph(path: Path) -> None:
    """Refuse a graph that reads other files, runs code that is not ONNX's or loops.

    Raises:
        ModelDamaged: it does, or it is no graph, or one that is too large.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelDamaged(f"{path.name} is larger than an ONNX graph can be")
        with open(path, "rb") as file:
            _check_model(memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)), path.name)
    except OSError as error:
        raise ModelDamaged(f"cannot load the extractor {path.name}: {error.strerror}") from error
    except (IndexError, ValueError) as error:
        raise ModelDamaged(f"cannot load the extractor: {path.name} is not an ONNX graph") from error


def _check_model(model: memoryview, name: str) -> None:
    graphs = 0
    for field, value in _fields(model):
        if field == _MODEL_FUNCTIONS:
            raise ModelDamaged(f"{name} brings functions of its own, which is not allowed in a model")
        if field == _MODEL_OPSETS:
            opset = _fields(_bytes(value))
            domains = [bytes(_bytes(text)) for number, text in opset if number == _OPSET_DOMAIN]
            _check_domains(domains, name)
        if field == _MODEL_GRAPH:
            graphs += 1
            _check_graph(_bytes(value), name)
    if graphs != 1:
        raise ValueError("no graph")


def _check_graph(graph: memoryview, name: str) -> None:
    for field, value in _fields(graph):
        if field == _GRAPH_NODE:
            _check_node(_bytes(value), name)
        elif field == _GRAPH_INITIALIZER:
            _check_tensor(_bytes(value), name)
        elif field == _GRAPH_SPARSE:
            raise ModelDamaged(f"{name} has sparse constants, which is not allowed in a model")


def _check_node(node: memoryview, name: str) -> None:
    for field, value in _fields(node):
        if field == _NODE_OPERATOR and bytes(_bytes(value)) in CONTROL_FLOW:
            raise ModelDamaged(f"{name} has control flow, which is not allowed in a model")
        if field == _NODE_DOMAIN:
            _check_domains([bytes(_bytes(value))], name)
        if field == _NODE_ATTRIBUTE:
            for number, inner in _fields(_bytes(value)):
                if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    raise ModelDamaged(f"{name} has graphs inside a graph, which is not allowed in a model")
                if number == _ATTRIBUTE_TENSOR:
                    _check_tensor(_bytes(inner), name)


def _check_tensor(tensor: memoryview, name: str) -> None:
    for field, value in _fields(tensor):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value == 1):
            raise ModelDamaged(f"{name} reads constants from another file, which is not allowed in a model")


def _check_domains(domains: list[bytes], name: str) -> None:
    foreign = [domain for domain in domains if domain not in DOMAINS]
    if foreign:
        what = foreign[0].decode("utf-8", "replace")
        raise ModelDamaged(f"{name} has operators of {what!r}, which are not allowed in a model")


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: number and content. Raises IndexError or ValueError where it is none."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a protocol buffer")
        if length > len(message) - position:
            raise ValueError("a field ends behind its message")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
