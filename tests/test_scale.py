"""What docs/scale.md says of clusters, run here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from processes import free_port

from attcot_analysis.problems import save_problems
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab import generate_problems

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


@pytest.mark.long
def test_tasks_of_a_slurm_job_write_the_tables_of_one_process(tmp_path):
    problems = save_problems(generate_problems("arrows", 5, seed=0), tmp_path / "problems")
    (script,) = re.findall(r"^srun bash -c '\n(.*?)'$", PAGE.read_text("utf-8"), re.DOTALL | re.M)

    def tasks(count, run):
        places = f"{shipped(TESTBED_MODEL)} {problems} --out {run}"
        options = "--device cpu --batch-size 2 --max-new-tokens 40"
        command = script.replace("MODEL PROBLEMS --out RUN", f"{places} {options}")
        assert command != script
        started = []
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for rank in range(count):
            own = {"SLURM_NTASKS": count, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
            path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            environment = {**os.environ, **meeting, **path, **{k: str(v) for k, v in own.items()}}
            started.append(subprocess.Popen(["bash", "-c", command], env=environment))
        assert [one.wait(300) for one in started] == [0] * count
        files = sorted(file for file in (run / "tables").rglob("*") if file.is_file())
        return {str(file.relative_to(run)): file.read_bytes() for file in files}

    one, two = tasks(1, tmp_path / "one"), tasks(2, tmp_path / "two")
    assert any("access" in name for name in one) and one == two


def shards(folder, *words):
    """The table that the script of docs/scale.md makes of six items, in batches of two."""
    if not (folder / "problems").exists():
        save_problems(generate_problems("arrows", 6, seed=0), folder / "problems")
    pattern = r"^```python\n(# commitment.py.*?)```"
    (code,) = re.findall(pattern, PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ours = {'"MODEL"': repr(str(shipped(TESTBED_MODEL)))}
    ours |= {'"PROBLEMS"': repr(str(folder / "problems"))}
    ours |= {", 32": ", 2", "items)[": "items, max_new_tokens=40)["}
    for theirs, here in ours.items():
        assert theirs in code
        code = code.replace(theirs, here)
    (folder / "commitment.py").write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, "commitment.py", *words], cwd=folder, timeout=300, check=True)
    return (folder / "commitment.parquet").read_bytes()


@pytest.mark.long
def test_workers_of_datasets_write_the_table_of_one(tmp_path):
    one = shards(tmp_path, "1")
    assert pd.read_parquet(tmp_path / "commitment.parquet")["item"].nunique() == 6
    assert shards(tmp_path, "2") == one
