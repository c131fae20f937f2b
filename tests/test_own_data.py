"""The params in docs/own-data.md are read, and fit a data set that is laid out as the page says."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import parse_params
from pipeline.datasets import read_annotations

TEXT = (Path(__file__).parents[1] / "docs/own-data.md").read_text(encoding="utf-8")
SETS = [
    pytest.param(name, fields, id=f"{number}-{name}")
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
    for name, fields in yaml.safe_load(block)["datasets"].items()
]
FILES = {
    "UCF-101/Bow/v_Bow_g01_c01.avi": "",
    "ucfTrainTestlist/trainlist01.txt": "Bow/v_Bow_g01_c01.avi 1\n",
    "ucfTrainTestlist/testlist01.txt": "Bow/v_Bow_g02_c01.avi\n",
    "ucfTrainTestlist/classInd.txt": "1 Bow\n",
    **{f"films/{number}.mp4": "" for number in range(40)},
    "videos.csv": "file,activity\n1.mp4,cut\n",
    "clips.csv": "recording,activity,begin,end,person\n" + "".join(f"r.mp4,cut,{n},{n + 1},p{n}\n" for n in range(40)),
    "tags.jsonl": '{"path": "1.mp4", "tags": ["cut", "peel"]}\n',
}


@pytest.mark.parametrize("name, fields", SETS)
def test_the_params_of_the_page_list_a_data_set(tmp_path, name, fields):
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    if fields.get("table", "").endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"path": ["1.mp4"], "height": [1.0], "weight": [2]}), tmp_path / fields["table"])
    if name == "own" and fields["layout"] == "videos":
        fields = fields | {"videos": "films"}
    params = parse_params({"datasets": {name: fields | {"root": str(tmp_path)}}, "features": {}})
    found = read_annotations(params.datasets[name])
    assert len(found) and set(found["split"]) <= {"train", "val", "test", "all"}
    if "split" in fields:
        assert set(found["split"]) == {"train", "val", "test"}
