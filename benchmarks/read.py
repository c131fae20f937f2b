"""How fast random batches are read: ours against memmap, zarr-python, zarrs, tensorstore, h5py and .npy files.

    python -m benchmarks.read [--json FILE] [--rounds N] [--folder DIR]

Samples of 2.4 MB, 0.6 MB and 8 KB in random batches of 64, ragged ones (1 MB on average, whole and crops of 64 rows) in
batches of 16, and a DataLoader with two workers; all from files that are in memory, into one array that is used again
where the reader can fill one. The zarr clients and h5py read the store's own files. memmap is `np.take(memmap, ids,
out=...)` on one big .npy file, the fastest way there is; it checks nothing and knows no names.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from torch.utils.data import DataLoader

from benchmarks._harness import interleaved, main, ratio, scratch, table
from benchmarks._zarr_clients import clients, opened
from pipeline.store import FeatureStore, ShardWriter

SIZES = {"2.4 MB": ((8, 196, 768), 128), "0.6 MB": ((8, 49, 768), 256), "8 KB": ((4096,), 4096)}
BATCH, SHARD, RAGGED_BATCH, CROP, WIDTH = 64, 128, 16, 64, 2048
Case = Callable[[], object]


def run(rounds: int, folder: str) -> dict:
    """Times every reader on every kind of sample, by turns."""
    versions = clients()
    present = [name for name, version in versions.items() if version]
    sizes = {}
    for title, (shape, samples) in SIZES.items():
        with scratch(folder) as place:
            cases = fixed(place, shape, samples, present)
            sizes[title] = compare(f"{title}, batches of {BATCH}", cases, rounds, BATCH)
            if title == "0.6 MB":
                loaders = loading(place, [f"s{number}" for number in range(samples)])
                workers = compare("0.6 MB, DataLoader with two workers, an epoch", loaders, rounds, samples)
    with scratch(folder) as place:
        whole, crops = ragged(place)
        sizes["ragged"] = compare(f"ragged, whole, batches of {RAGGED_BATCH}", whole, rounds, RAGGED_BATCH)
        sizes["ragged rows"] = compare(f"ragged, {CROP} rows, batches of {RAGGED_BATCH}", crops, rounds, RAGGED_BATCH)
    big = sizes["2.4 MB"]
    return {
        "mmap_vs_memmap": big["ours, mmap"]["vs_memmap"],
        "verified_vs_memmap": big["ours, mmap, verified"]["vs_memmap"],
        "vs_zarr_python": big["ours, mmap"]["vs_memmap"] / big["zarr-python"]["vs_memmap"],
        "sizes": sizes,
        "data_loader": workers,
        "versions": {**versions, "h5py": h5py.version.version},
        "rounds": rounds,
    }


def compare(title: str, cases: dict[str, Case], rounds: int, samples: int) -> dict[str, dict[str, float]]:
    """Times the cases and sets them beside the first one, memmap. Each reads `samples` samples a call."""
    seconds = interleaved(cases, rounds, warmup=2)
    base = next(iter(cases))
    result = {
        name: {"us_per_sample": 1e6 * median(times) / samples, "vs_memmap": ratio(seconds[base], times)}
        for name, times in seconds.items()
    }
    table(title, [{"reader": name, **row} for name, row in result.items()])
    return result


def batches(names: list, size: int) -> Iterator[list]:
    """The same random batches without end, for every reader."""
    rng = np.random.default_rng(1)
    return cycle([[names[i] for i in rng.permutation(len(names))[:size]] for _ in range(20)])


# --- fixed fields -----------------------------------------------------------------------------------------------------


def fixed(place: Path, shape: tuple[int, ...], samples: int, zarr_clients: list[str]) -> dict[str, Case]:
    write_all_forms(place, shape, samples)
    ids, numbers = [f"s{number}" for number in range(samples)], list(range(samples))
    out = np.empty((BATCH, *shape), np.float16)
    memmap = np.load(place / "all.npy", mmap_mode="r")
    hdf5 = h5py.File(place / "all.h5")["x"]
    stores = {
        "ours, mmap": FeatureStore(place / "float16"),
        "ours, mmap, verified": FeatureStore(place / "float16", verify=True),
        "ours, pread": FeatureStore(place / "float16", access="pread"),
        "ours, pread, verified": FeatureStore(place / "float16", verify=True, access="pread"),
    }
    if (place / "int8_scaled").exists():
        stores["ours, int8_scaled, verified"] = FeatureStore(place / "int8_scaled", verify=True)

    def each(read: Callable[[int], np.ndarray], picked: Iterator[list[int]]) -> None:
        for position, number in enumerate(next(picked)):
            out[position] = read(number)

    def from_tensorstore(picked: Iterator[list[int]]) -> None:
        shards = readers["tensorstore"]
        running = [shards[number // SHARD][number % SHARD].read() for number in next(picked)]
        for position, reading in enumerate(running):
            out[position] = reading.result()

    def together(store: FeatureStore, picked: Iterator[list[str]]) -> None:
        store.read(next(picked), "x", out=out)

    picked = batches(numbers, BATCH)
    cases: dict[str, Case] = {"memmap": lambda: np.take(memmap, next(picked), axis=0, out=out, mode="clip")}
    for name, store in stores.items():
        cases[name] = partial(together, store, batches(ids, BATCH))
    arrays = sorted((place / "float16").glob("*.zarr"))
    readers = {client: [opened(client, path / "x") for path in arrays] for client in zarr_clients}
    for client, shards in readers.items():
        if client != "tensorstore":
            read = lambda number, shards=shards: shards[number // SHARD][number % SHARD]  # noqa: E731
            cases[client] = partial(each, read, batches(numbers, BATCH))
    if "tensorstore" in readers:
        cases["tensorstore"] = partial(from_tensorstore, batches(numbers, BATCH))
    cases["h5py"] = partial(each, hdf5.__getitem__, batches(numbers, BATCH))
    cases[".npy a sample"] = partial(each, lambda number: np.load(place / f"{number}.npy"), batches(numbers, BATCH))
    return cases


def write_all_forms(place: Path, shape: tuple[int, ...], samples: int) -> None:
    """The same samples as a store, one .npy, one .h5 with a chunk a sample, and .npy files."""
    rng = np.random.default_rng(0)
    whole = np.lib.format.open_memmap(place / "all.npy", "w+", np.float16, (samples, *shape))
    for number in range(samples):
        whole[number] = rng.standard_normal(shape, np.float32)
        np.save(place / f"{number}.npy", whole[number])
    with h5py.File(place / "all.h5", "w") as file:
        file.create_dataset("x", data=whole, chunks=(1, *shape))
    for dtype in ("float16", "int8_scaled")[: 2 if len(shape) > 1 else 1]:
        for start in range(0, samples, SHARD):
            ids = [(f"s{number}", "digest") for number in range(start, min(start + SHARD, samples))]
            base = place / dtype / f"shard-{start // SHARD:03d}"
            with ShardWriter(base, ids, {"x": (shape, dtype)}, {"key": "benchmark"}) as writer:
                for number, sample in enumerate(writer.pending, start):
                    writer.put(sample, {"x": whole[number]}, {})
                writer.finish()


class Items:
    """A data set as PyTorch knows it: a sample an index."""

    def __init__(self, read: Callable[[object], np.ndarray], names: list) -> None:
        self.read, self.names = read, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read(self.names[index])


def loading(place: Path, ids: list[str]) -> dict[str, Case]:
    """Epochs of shuffled batches of 16 through worker processes that live on."""
    memmap = np.load(place / "all.npy", mmap_mode="r")
    store = FeatureStore(place / "float16")
    verified = FeatureStore(place / "float16", verify=True)
    readers = {
        "memmap": Items(lambda number: memmap[number].copy(), list(range(len(ids)))),
        "ours, mmap": Items(lambda sample: store.read([sample], "x")[0], ids),
        "ours, mmap, verified": Items(lambda sample: verified.read([sample], "x")[0], ids),
        ".npy a sample": Items(lambda number: np.load(place / f"{number}.npy"), list(range(len(ids)))),
    }
    loaders = {
        name: DataLoader(items, batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
        for name, items in readers.items()
    }
    return {name: lambda loader=loader: sum(len(batch) for batch in loader) for name, loader in loaders.items()}


# --- ragged fields ----------------------------------------------------------------------------------------------------


def ragged(place: Path, samples: int = 128) -> tuple[dict[str, Case], dict[str, Case]]:
    """Readers of whole samples, and of crops, of 64 to 448 rows of 2,048 channels."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(CROP, 7 * CROP, samples)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    whole = np.lib.format.open_memmap(place / "all.npy", "w+", np.float16, (int(ends[-1]), WIDTH))
    ids = [f"s{number}" for number in range(samples)]
    with ShardWriter(
        place / "store" / "shard-000",
        [(sample, "digest") for sample in ids],
        {"x": ((None, WIDTH), "float16")},
        {"key": "benchmark"},
    ) as writer:
        for number, sample in enumerate(ids):
            rows = rng.standard_normal((lengths[number], WIDTH), np.float32).astype(np.float16)
            whole[ends[number] : ends[number + 1]] = rows
            np.save(place / f"{number}.npy", rows)
            writer.put(sample, {"x": rows}, {})
        writer.finish()
    memmap = np.load(place / "all.npy", mmap_mode="r")
    hdf5 = h5py.File(place / "store" / "shard-000.h5")["x"]
    opened_before = [hdf5[sample] for sample in ids]
    stores = {
        "ours, mmap": FeatureStore(place / "store"),
        "ours, mmap, verified": FeatureStore(place / "store", verify=True),
        "ours, pread": FeatureStore(place / "store", access="pread"),
    }
    picks = [(number, int(rng.integers(0, lengths[number] - CROP + 1))) for number in range(samples)]

    def each(read: Callable[..., np.ndarray], picked: Iterator[list]) -> Case:
        return lambda: [read(*pick) for pick in next(picked)]

    def fresh() -> Iterator[list]:
        return batches(picks, RAGGED_BATCH)

    wholes = {"memmap": each(lambda n, _: memmap[ends[n] : ends[n + 1]].copy(), fresh())}
    crops = {"memmap": each(lambda n, at: memmap[ends[n] + at : ends[n] + at + CROP].copy(), fresh())}
    for name, store in stores.items():
        wholes[name] = each(lambda n, _, store=store: store.read_ragged([ids[n]], "x")[0], fresh())
        crops[name] = each(lambda n, at, store=store: store.read_rows(ids[n], "x", at, at + CROP), fresh())
    wholes["h5py"] = each(lambda n, _: opened_before[n][:], fresh())
    crops["h5py"] = each(lambda n, at: opened_before[n][at : at + CROP], fresh())
    wholes[".npy a sample"] = each(lambda n, _: np.load(place / f"{n}.npy"), fresh())
    crops[".npy a sample"] = each(
        lambda n, at: np.load(place / f"{n}.npy", mmap_mode="r")[at : at + CROP].copy(), fresh()
    )
    return wholes, crops


if __name__ == "__main__":
    main(run, {"rounds": 9}, rounds=3, folder="")
