"""Pictures of the site, drawn by the library while the site is built."""

import io
from collections.abc import Callable

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from fpl_fast import fuzzy_positive_assignment, fuzzy_positive_loss, positive_gradient_score, pseudo_label_cross_entropy
from fpl_fast.trainer.data.sample import color_table
from fpl_fast.trainer.data.synthetic import SyntheticScenes

POSITIVE, NEGATIVE, PLAIN, INK = "#3949ab", "#b0b7c3", "#e07a3f", "#333a45"
CLASSES = ("road", "pavement", "building", "fence", "pole", "tree")
# A teacher that doubts between road and pavement, and a student that has learnt neither.
PROBABILITIES = torch.tensor([0.48, 0.33, 0.12, 0.04, 0.02, 0.01])
STUDENT = torch.tensor([0.4, -0.2, 0.9, 0.1, -0.5, 0.2])
THRESHOLD = 0.9
SETTINGS = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.edgecolor": NEGATIVE,
}


def pictures() -> dict[str, bytes]:
    """PNG files by name."""
    draw: dict[str, Callable[[Figure], None]] = {
        "ranks.png": draw_ranks,
        "gradient.png": draw_gradients,
        "weights.png": draw_weights,
        "maps.png": draw_maps,
    }
    return {name: _png(function) for name, function in draw.items()}


def draw_ranks(figure: Figure) -> None:
    """The classes of one pixel by rank, their cumulative probability, and the positives."""
    k, _ = fuzzy_positive_assignment(_pixel(PROBABILITIES.log()), threshold=THRESHOLD)
    axes = figure.add_subplot(title=f"One pixel of the teacher: K = {k.item()} positives at T = {THRESHOLD}")
    colors = [POSITIVE if rank < k.item() else NEGATIVE for rank in range(len(CLASSES))]
    axes.bar(CLASSES, PROBABILITIES.tolist(), color=colors, width=0.7)
    axes.step(CLASSES, PROBABILITIES.cumsum(0).tolist(), where="mid", color=INK, label="cumulative probability")
    axes.axhline(THRESHOLD, color=PLAIN, linestyle="--", label="threshold T")
    axes.legend(frameon=False, loc="center right")


def draw_gradients(figure: Figure) -> None:
    """The push of either loss on the student's logits of that pixel."""
    axes = figure.add_subplot(title="Push on the student's logits, −dL/dz")
    losses = {"pseudo-label cross entropy": pseudo_label_cross_entropy, "fuzzy positives": fuzzy_positive_loss}
    for offset, color, (name, loss) in zip((-0.2, 0.2), (PLAIN, POSITIVE), losses.items(), strict=True):
        student = _pixel(STUDENT).requires_grad_()
        loss(student, _pixel(PROBABILITIES.log())).backward()
        assert student.grad is not None
        push = (-student.grad.flatten()).tolist()
        axes.bar([place + offset for place in range(len(CLASSES))], push, width=0.38, color=color, label=name)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.legend(frameon=False)


def draw_weights(figure: Figure) -> None:
    """The weight of a pixel of two classes that matter, by the probability of the first."""
    axes = figure.add_subplot(title="Weight of a pixel with K = 1, by the probability of its first class")
    first = torch.linspace(0.5, 0.995, 100)
    teacher = torch.stack([first, 1 - first]).log().view(1, 2, 1, -1)
    student = torch.zeros_like(teacher)
    plain = fuzzy_positive_loss(student, teacher, reduction="none")
    for weighting in ("linear", "convex", "concave"):
        weighted = fuzzy_positive_loss(student, teacher, weighting=weighting, reduction="none")
        axes.plot(first.tolist(), (weighted / plain).flatten().tolist(), label=weighting)
    axes.set_xlabel("probability of the first class, the second has the rest")
    axes.legend(frameon=False)


def draw_maps(figure: Figure) -> None:
    """A scene, a doubtful teacher's pseudo-labels, the number of positives, and the score R of either loss."""
    scenes = SyntheticScenes(1, size=(128, 192), seed=3)
    scene = scenes[0]
    assert scene.label is not None
    student, teacher = (_doubtful(scene.label, scenes.num_classes, seed) for seed in (0, 1))
    k, _ = fuzzy_positive_assignment(teacher, threshold=THRESHOLD, max_positives=3)
    score = positive_gradient_score(student, teacher, scene.label[None].long(), threshold=THRESHOLD, max_positives=3)
    colors = torch.from_numpy(color_table(np.array(scenes.palette)))
    counts = {"cmap": ListedColormap(("#e8ecf1", "#f0a13c", "#a3195b")), "vmin": 1, "vmax": 3}
    scores = {"cmap": "RdBu", "vmin": -1, "vmax": 1}
    images: list[tuple[str, Tensor, dict[str, object]]] = [
        ("image", scene.image.permute(1, 2, 0), {}),
        ("pseudo-labels", colors[teacher.argmax(1)[0]], {}),
        ("K, the number of positives", k[0], counts),
        ("truth", colors[scene.label.long()], {}),
        ("R of the cross entropy", score.vanilla[0], scores),
        ("R of the fuzzy positive loss", score.fuzzy[0], scores),
    ]
    for place, (title, image, style) in enumerate(images, start=1):
        axes = figure.add_subplot(2, 3, place, title=title)
        axes.imshow(image.numpy(), interpolation="nearest", **style)
        axes.axis("off")


def _doubtful(label: Tensor, num_classes: int, seed: int) -> Tensor:
    """Logits (1, C, H, W) as of a network at an eighth of the image: the truth, blurred, and correlated noise."""
    generator = torch.Generator().manual_seed(seed)
    height, width = label.shape
    truth = torch.nn.functional.one_hot(label.long().clamp(max=num_classes), num_classes + 1)[..., :num_classes]
    low = torch.nn.functional.avg_pool2d(truth.permute(2, 0, 1)[None].float(), 12, 8, 2)
    noise = torch.randn(low.shape, generator=generator)
    return torch.nn.functional.interpolate(7 * low + noise, (height, width), mode="bilinear", align_corners=True)


def _pixel(logits: Tensor) -> Tensor:
    return logits.clone().view(1, -1, 1, 1)


def _png(draw: Callable[[Figure], None]) -> bytes:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained", dpi=130)
        draw(figure)
        FigureCanvasAgg(figure)
        target = io.BytesIO()
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
