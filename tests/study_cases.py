"""Files of studies, shared by their tests."""

import yaml


def write(tmp_path, **values):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


GRID = {
    "recipes": ["synthetic/cps", "synthetic/fpl_cps"],
    "partitions": {"1/8": {"data.num_labelled": 8}, "1/4": {"data": {"num_labelled": 16}}},
    "variants": {"usual": {}, "fast": {"optim.lr": 0.1}},
    "seeds": [3, 5],
    "settings": {"train": {"steps": 30}, "eval.every": 10},
}
