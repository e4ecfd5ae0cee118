"""What keeps a whole file from being read for now is never called damage."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from faults import sentence
from PIL import Image
from transformers import AutoConfig

from attcot_analysis.cli import Exit, exit_of
from attcot_analysis.errors import AttCoTError, NoMemoryError, RunError
from attcot_analysis.measures.check import check_model
from attcot_analysis.models import load_mllm
from attcot_analysis.models.inputs import read_image
from attcot_analysis.models.load import out_of_memory
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.problems.data.place import Place, picture
from attcot_analysis.problems.data.records import rows
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.claims.table import read_values
from attcot_lab.testbed.arrows import generate_arrows

MEMORY = [
    MemoryError(),
    pa.ArrowMemoryError("malloc of size 4096 failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError("HIP out of memory"),
]
DISK = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.EACCES, errno.EIO)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    table = pd.DataFrame({"item": ["a", "b"], "x": [1.0, 2.0]})
    run = RunFolder.create(folder / "run", {"seed": 0})
    values = {name: "x" for name in ("model", "family", "scale", "kind", "arm", "metric")}
    run.write_table("values", table[["item"]].assign(**values, seed=0, value=1.0))
    run.parts("maps").write(0, [[0, 1]], ["a", "b"], Part(table, {"a": np.ones(3)}))
    run.parts("access").write(0, [[0], [1]], ["a", "b"], Part(table[:1]))
    save_problems(generate_arrows(2, seed=0), folder / "problems")
    return folder


def readers(folder):
    run, own = RunFolder(folder / "run"), folder / "problems"
    image = sorted((own / "images").iterdir())[0]
    parquet = run.table_path("values")
    return [
        ((pq, "ParquetFile"), lambda: run.read_table("values")),
        ((pq, "ParquetFile"), lambda: list(run.read_blocks("maps"))),
        ((pq, "ParquetFile"), lambda: run.parts("access").missing([[0], [1]], ["a", "b"])),
        ((safetensors.numpy, "load"), lambda: run.read_arrays("maps")),
        ((json, "loads"), lambda: run.manifest),
        ((pq, "ParquetFile"), lambda: read_values(folder / "run")),
        ((Image, "open"), lambda: load_problems(own)),
        ((Image, "open"), lambda: read_image(image)),
        ((Image, "open"), lambda: picture(image.name, "row 1", [image.parent])),
        ((pq, "ParquetFile"), lambda: list(rows(Place(str(parquet), parquet, ""), "test"))),
        ((AutoConfig, "from_pretrained"), lambda: load_mllm(shipped(TESTBED_MODEL))),
    ]


@pytest.mark.parametrize("error", MEMORY + DISK, ids=lambda error: repr(error)[:40])
def test_it_is_said_to_be_what_it_is(places, monkeypatch, fault, error):
    def fails(*_, **__):
        raise error

    for place, read in readers(places):
        if isinstance(error, RuntimeError) and place[0] is not AutoConfig:
            continue
        read()
        with fault("no memory, or a disk that does not answer"):
            with monkeypatch.context() as patch, pytest.raises((AttCoTError, MemoryError)) as found:
                patch.setattr(*place, fails)
                read()
            code, said = exit_of(found.value)
            assert "damaged" not in said and "delete" not in said and "get it again" not in said
            if error in MEMORY:
                assert "emory" in said and code == Exit.NO_ROOM
            else:
                assert error.strerror in sentence(found.value)
        read()


def test_damage_is_still_damage(places):
    path = places / "run" / "tables" / "values.parquet"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-9])
        with pytest.raises(RunError, match=r"values.parquet is damaged .*; delete it"):
            RunFolder(places / "run").read_table("values")
    finally:
        path.write_bytes(whole)


def test_a_batch_that_reads_a_picture_without_memory_is_halved():
    assert out_of_memory(NoMemoryError("There is not enough memory for image x."))
    assert not out_of_memory(RunError("There is not enough memory for image x."))


def test_a_check_that_memory_ran_out_of_is_no_verdict(monkeypatch):
    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    monkeypatch.setattr(type(mllm.model), "forward", fails)
    with pytest.raises((NoMemoryError, torch.OutOfMemoryError)):
        check_model(mllm)
