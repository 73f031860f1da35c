"""Writers of small files, independent of the library: what torch and Flax would write."""

import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile
import zlib

import msgpack
import numpy as np
import safetensors.numpy

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "complex64": "ComplexFloatStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Tensor:
    """Pickled as torch pickles a tensor: a view of a storage."""

    def __init__(self, array, *, transposed=False):
        self.array, self.transposed = array, transposed


class Storage:
    def __init__(self, key, array, count=None):
        self.key, self.array = key, array
        self.count = array.size if count is None else count


def fake_torch():
    """Modules whose names the pickles have."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only its name is used")

    def _rebuild_parameter(*arguments):
        raise AssertionError("only its name is used")

    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        function.__module__, function.__qualname__ = "torch._utils", function.__name__
        setattr(utils, function.__name__, function)
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


class TorchPickler(pickle.Pickler):
    def __init__(self, file, *, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, []

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        kind = getattr(sys.modules["torch"], STORAGES[value.array.dtype.name])
        identifier = ("storage", kind, value.key, "cuda:0", value.count)
        return (*identifier, None) if self.legacy else identifier

    def reducer_override(self, value):
        if not isinstance(value, Tensor):
            return NotImplemented
        array = value.array
        key = str(len(self.storages))
        stored = array.T if value.transposed else array
        storage = Storage(key, np.ascontiguousarray(stored).ravel())
        self.storages.append(storage)
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        if value.transposed:
            strides = tuple(reversed([int(np.prod(stored.shape[i + 1 :])) for i in range(2)]))
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        arguments = (storage, 0, array.shape, strides, False, collections.OrderedDict())
        return rebuild, arguments


def tensors(tree):
    if isinstance(tree, np.ndarray):
        return Tensor(tree, transposed=tree.ndim == 2)
    if isinstance(tree, dict):
        return collections.OrderedDict((key, tensors(value)) for key, value in tree.items())
    return tree


def torch_zip(tree, *, compression=zipfile.ZIP_STORED):
    pickled = io.BytesIO()
    pickler = TorchPickler(pickled, legacy=False)
    pickler.dump(tensors(tree))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("ckpt/data.pkl", pickled.getvalue())
        for storage in pickler.storages:
            archive.writestr(f"ckpt/data/{storage.key}", storage.array.tobytes())
        archive.writestr("ckpt/version", "3\n")
    return file.getvalue()


def torch_legacy(tree):
    file = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    for value in (MAGIC, 1001, system):
        pickle.dump(value, file, protocol=2)
    pickler = TorchPickler(file, legacy=True)
    pickler.dump(tensors(tree))
    # In another order than that of the tensors.
    storages = pickler.storages[::-1]
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())
    return file.getvalue()


def flax_msgpack(tree, *, chunk=None):
    def encoded(node):
        if isinstance(node, dict):
            return {key: encoded(value) for key, value in node.items()}
        if chunk is not None and isinstance(node, np.ndarray) and node.size > chunk:
            flat = node.ravel()
            chunks = [flat[i : i + chunk] for i in range(0, flat.size, chunk)]
            return {
                "__msgpack_chunked_array__": True,
                "shape": {str(i): n for i, n in enumerate(node.shape)},
                "chunks": {str(i): encoded(part) for i, part in enumerate(chunks)},
            }
        if isinstance(node, np.ndarray):
            parts = [list(node.shape), node.dtype.name, node.tobytes()]
            return msgpack.ExtType(1, msgpack.packb(parts))
        if isinstance(node, complex):
            return msgpack.ExtType(2, msgpack.packb([node.real, node.imag]))
        return node

    return msgpack.packb(encoded(tree))


def nested(flat, separator="."):
    tree = {}
    for name, value in flat.items():
        node = tree
        *parents, last = name.split(separator)
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def npy_records(arrays):
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def sparse_torch_zip(path, size):
    """A torch file with one storage of `size` bytes of zeros, which takes no space on the disk."""
    pickled = io.BytesIO()
    pickler = TorchPickler(pickled, legacy=False)
    small = s4_layer()
    big = Storage("big", np.zeros(0, np.float32), size // 4)
    rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2

    class Big:
        def __reduce__(self):
            return rebuild, (big, 0, (size // 4,), (1,), False, collections.OrderedDict())

    pickler.dump({"layer": tensors(small), "unused": Big()})
    members = [("x/data.pkl", pickled.getvalue())]
    members += [(f"x/data/{s.key}", s.array.tobytes()) for s in pickler.storages]
    with path.open("wb") as file:
        central = b""
        for name, content in [*members, ("x/data/big", size)]:
            length = content if isinstance(content, int) else len(content)
            offset = file.tell()
            # The checksum of the zeros is left out: the storage is never read as a whole.
            check = 0 if isinstance(content, int) else zlib.crc32(content)
            sizes = (check, length, length, len(name), 0)
            fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, *sizes)
            file.write(b"PK\x03\x04" + fields + name.encode())
            if isinstance(content, int):
                file.seek(length, 1)
            else:
                file.write(content)
            central += b"PK\x01\x02" + struct.pack("<H", 20) + fields
            central += struct.pack("<HHHII", 0, 0, 0, 0, offset) + name.encode()
        start = file.tell()
        count = len(members) + 1
        file.write(central)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(central), start, 0))


def sparse_safetensors(path, size):
    """The same as a safetensors file, with the large array last."""
    content = safetensors.numpy.save({f"layer.{name}": a for name, a in s4_layer().items()})
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    offsets = [len(data), len(data) + size]
    header["unused"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    os.truncate(path, path.stat().st_size + size)


SPARSE = {"torch": sparse_torch_zip, "safetensors": sparse_safetensors}


def s4_layer(channels=3, states=4, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return {
        "D": draw(channels).astype(np.float32),
        "kernel.C": draw((channels, states, 2)).astype(np.float32),
        "kernel.log_dt": draw(channels).astype(np.float32) - 3,
        "kernel.log_A_real": draw((channels, states)).astype(np.float32),
        "kernel.A_imag": draw((channels, states)).astype(np.float32),
    }


def s5_layer(channels=3, states=4, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return {
        "Lambda_re": -np.exp(draw(states)).astype(np.float32),
        "Lambda_im": np.exp(draw(states)).astype(np.float32),
        "B": draw((states, channels, 2)).astype(np.float32),
        "C": draw((channels, states, 2)).astype(np.float32),
        "D": draw(channels).astype(np.float32),
        "log_step": draw((states, 1)).astype(np.float32) - 3,
    }


def s4_network(layers=2, channels=3, states=4, inputs=2, classes=5, batch_norm=False):
    draw = np.random.default_rng(7).standard_normal
    flat = {
        "encoder.weight": draw((channels, inputs)),
        "encoder.bias": draw(channels),
        "decoder.weight": draw((classes, channels)),
        "decoder.bias": draw(classes),
    }
    for number in range(layers):
        layer = s4_layer(channels, states, number)
        flat |= {f"s4_layers.{number}.{name}": array for name, array in layer.items()}
        path = f"s4_layers.{number}.output_linear.0"
        flat[f"{path}.weight"] = draw((2 * channels, channels, 1))
        flat[f"{path}.bias"] = draw(2 * channels)
        flat[f"norms.{number}.weight"] = 1 + 0.1 * draw(channels)
        flat[f"norms.{number}.bias"] = draw(channels)
        if batch_norm:
            flat[f"norms.{number}.running_mean"] = draw(channels)
            flat[f"norms.{number}.running_var"] = np.exp(draw(channels))
            flat[f"norms.{number}.num_batches_tracked"] = np.asarray(3)
    return {
        name: np.asarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        for name, array in flat.items()
    }


def s5_network(layers=2, channels=3, states=4, inputs=2, classes=5):
    """Variables of lindermanlab/S5 with batch norm, as a nested tree."""
    draw = np.random.default_rng(8).standard_normal
    params = {
        "encoder.encoder.kernel": draw((inputs, channels)),
        "encoder.encoder.bias": draw(channels),
        "decoder.kernel": draw((channels, classes)),
        "decoder.bias": draw(classes),
    }
    statistics = {}
    for number in range(layers):
        path = f"encoder.layers_{number}"
        layer = s5_layer(channels, states, number)
        params |= {f"{path}.seq.{name}": array for name, array in layer.items()}
        params |= {f"{path}.norm.scale": 1 + draw(channels), f"{path}.norm.bias": draw(channels)}
        params |= {f"{path}.out2.kernel": draw((channels, channels)), f"{path}.out2.bias": draw(3)}
        statistics |= {
            f"{path}.norm.mean": draw(channels),
            f"{path}.norm.var": np.exp(draw(channels)),
        }
    flat = {f"params.{name}": array for name, array in params.items()}
    flat |= {f"batch_stats.{name}": array for name, array in statistics.items()}
    return nested({name: np.asarray(array, np.float32) for name, array in flat.items()})
