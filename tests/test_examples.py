"""docs/examples: every file learns, in a process of its own, and docs/integrations.md shows what stands in them."""

import ast
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fork_server import python

DOCS = Path(__file__).parents[1] / "docs"
SHARED = "toy"
EXAMPLES = sorted(path for path in (DOCS / "examples").glob("*.py") if path.stem != SHARED)
OPTIONAL = {"segmentation_models_pytorch", "transformers", "mmengine"}  # not among what make test installs
ARGUMENTS = {"compiled_step": ["aot_eager"]}  # the same graphs without a minute of C++
SAID = {"compiled_step": "graphs compiled: 2", "fixmatch": r"pixel: 1\.00 behind a gate of 0\.95, (?!1\.00)\d"}


def imported(path):
    """The packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[0] for name in names)


def example(path):
    """Parameter of an example, which is skipped where a package is missing."""
    missing = sorted(name for name in OPTIONAL & set(imported(path)) if importlib.util.find_spec(name) is None)
    advice = f"{', '.join(missing)} not installed: pip install -r docs/examples/requirements.txt"
    return pytest.param(path, id=path.stem, marks=pytest.mark.skipif(bool(missing), reason=advice))


@pytest.mark.parametrize("path", [example(path) for path in EXAMPLES])
def test_it_learns(path, tmp_path):
    """The labelled loss falls; the unlabelled one is a positive number whose gradient reaches the student."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = python(str(path), *ARGUMENTS.get(path.stem, []), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^step \d+: labelled (\S+), unlabelled ([^\s,]+)", done.stdout, flags=re.M)
    labelled, unlabelled = ([float(number) for number in column] for column in zip(*steps, strict=True))
    assert labelled[-1] < 0.75 * labelled[0], done.stdout
    assert all(0 < number < 10 for number in unlabelled), done.stdout
    gradients = re.findall(r"^norm of the unlabelled loss's gradient: (\S+)$", done.stdout, flags=re.M)
    assert gradients and all(0 < float(norm) < float("inf") for norm in gradients), done.stdout
    assert re.search(SAID.get(path.stem, ""), done.stdout), done.stdout
    assert not any(tmp_path.iterdir())  # an example leaves nothing where it was started


def torchvision_logits(images):
    """Any small logits, and what DeepLabV3 makes of them."""
    from torchvision.models.segmentation import DeepLabV3

    small = torch.randn(1, 4, images.shape[-2] // 16, images.shape[-1] // 16)
    return small, DeepLabV3(lambda _: {"out": small}, torch.nn.Identity())(images)["out"]


def smp_logits(images):
    """Any small logits, and what the end of DeepLabV3Plus makes of them."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    head = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=4).segmentation_head
    head[0] = torch.nn.Identity()
    small = torch.randn(1, 4, images.shape[-2] // 4, images.shape[-1] // 4)
    return small, head(small)


def segformer_logits(images):
    """The logits that SegFormer returns, and those that its own loss compares with labels."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.segformer import modeling_segformer

    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "decoder_hidden_size": 16, "num_labels": 4}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes)).eval()
    compared = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_segformer, "CrossEntropyLoss", lambda **_: lambda logits, _: compared.append(logits))
        small = model(images, labels=torch.zeros(images[:, 0].shape, dtype=torch.long)).logits
    return small, *compared


@pytest.mark.parametrize(
    ("logits", "align_corners"), [(torchvision_logits, False), (smp_logits, True), (segformer_logits, False)]
)
@torch.no_grad()
def test_how_a_library_interpolates(logits, align_corners):
    """The arguments on the page give the full logits that the library itself compares with labels."""
    images = torch.rand(1, 3, 64, 96)
    small, whole = logits(images)
    assert small.shape[-1] < whole.shape[-1] == images.shape[-1]
    same, other = (
        F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=align)
        for align in (align_corners, not align_corners)
    )
    torch.testing.assert_close(same, whole)
    assert (other - whole).abs().max() > 1e-3 * whole.std()


def sections():
    """The sections of the page, each with its heading."""
    return re.split(r"^## ", (DOCS / "integrations.md").read_text(encoding="utf-8"), flags=re.M)[1:]


def lines(text):
    """Lines without their indentation: an excerpt shows a method as a function."""
    return [line.strip() for line in text.strip().splitlines()]


def test_the_page_shows_the_examples():
    """Every example has a section, and what a section excerpts stands in its file, line for line."""
    shown = []
    for section in sections():
        for path in re.findall(r"\]\(examples/(\w+\.py)\)", section):
            text = "\n".join(lines((DOCS / "examples" / path).read_text(encoding="utf-8")))
            excerpts = re.findall(r"^```py(?:thon)?\n(.*?)^```", section, flags=re.S | re.M)
            assert excerpts or "```diff" in section, path
            for excerpt in excerpts:
                assert "\n".join(lines(excerpt)) in text, path
            shown.append(path)
    assert sorted(shown) == [path.name for path in EXAMPLES]


def test_the_page_shows_the_difference():
    """FixMatch before and after: at most five lines, as the two functions of the example differ."""
    text = (DOCS / "examples" / "fixmatch.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    (diff,) = re.findall(r"^```diff\n(.*?)^```", "".join(sections()), flags=re.S | re.M)
    for name, marks in (("before", " -"), ("after", " +")):
        body = text.splitlines()[functions[name].body[1].lineno - 1 : functions[name].end_lineno]  # below its docstring
        assert [line[1:].strip() for line in diff.splitlines() if line[0] in marks] == lines("\n".join(body))
    assert sum(line[0] in "+-" for line in diff.splitlines()) <= 5


def test_versions_are_pinned():
    """All that examples import beside the loss has its version in requirements.txt."""
    pins = (DOCS / "examples" / "requirements.txt").read_text(encoding="utf-8")
    pinned = {name.replace("-", "_") for name in re.findall(r"^([\w-]+)==[\d.]+$", pins, flags=re.M)}
    used = {name for path in EXAMPLES for name in imported(path)} - sys.stdlib_module_names - {SHARED, "fpl_fast"}
    assert pinned == used
