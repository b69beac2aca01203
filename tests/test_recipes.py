import dataclasses
import itertools

import pytest

from fpl_fast.trainer.config.io import config_from_dict, config_to_dict
from fpl_fast.trainer.data.datasets import class_table
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.recipes import METHOD_SUMMARIES, make_recipe, recipe_names
from fpl_fast.trainer.recipes.published import BACKBONES, BASELINES, PARTITIONS, find_published
from fpl_fast.trainer.recipes.tables import TRANSFORMERS, grid, published_number

DATA = ("synthetic", "folder", "voc", "city")
CPS = ("cps", "cps_cutmix", "fpl_cps", "fpl_cps_cutmix")
EMA = ("mean_teacher", "fpl_mean_teacher", "cutmix_seg", "fpl_cutmix_seg", "ael", "fpl_ael")
CCT = ("cct", "fpl_cct")
GCT = ("gct", "fpl_gct")
U2PL = ("u2pl", "fpl_u2pl")
WEAK_STRONG = ("fixmatch", "fpl_fixmatch", "unimatch", "fpl_unimatch")
CORRMATCH = ("corrmatch", "fpl_corrmatch")
V2 = ("unimatch_v2", "fpl_unimatch_v2")
METHODS = ("supervised", *CPS, *EMA, *CCT, *GCT, *U2PL, *WEAK_STRONG, *CORRMATCH, *V2)


def test_every_method_is_a_recipe_for_every_data_set():
    assert set(recipe_names()) == {f"{data}/{method}" for data in DATA for method in METHOD_SUMMARIES}
    assert set(METHODS) <= set(METHOD_SUMMARIES)


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_a_whole_configuration(name):
    config = make_recipe(name)
    assert config.recipe == name
    assert config.data.kind == name.split("/")[0]
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("data", DATA)
def test_recipes_on_images_start_from_imagenet(data):
    assert {make_recipe(f"{data}/{method}").model.pretrained for method in METHODS} == {data != "synthetic"}


def test_the_grid_holds_every_cell_once():
    cells = grid()
    keys = {(cell.recipe, cell.backbone, cell.partition) for cell in cells}
    assert len(keys) == len(cells)
    assert keys == {
        (f"{data}/{method}", *column)
        for data, parts in PARTITIONS.items()
        for method in METHOD_SUMMARIES
        for column in itertools.product(TRANSFORMERS if method in V2 else BACKBONES, parts)
    }
    for cell in cells:
        data, method = cell.recipe.split("/")
        assert cell.published == find_published(data, method, cell.backbone, cell.partition)
        config = make_recipe(cell.recipe, partition=cell.partition)
        assert (config.data.partition, config.train.steps) == (cell.partition, cell.steps)


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ("voc", {"1/16": 39_680, "1/8": 39_338, "1/4": 39_680, "1/2": 39_660}),
        ("city", {"1/32": 44_640, "1/16": 44_544, "1/8": 44_525, "1/4": 44_640, "1/2": 44_640}),
    ],
)
@pytest.mark.parametrize("method", ["supervised", *CPS, *CCT, *GCT])
def test_length_of_cps(data, steps, method):
    assert {part: make_recipe(f"{data}/{method}", partition=part).train.steps for part in steps} == steps
    assert make_recipe(f"{data}/{method}").train.steps == steps["1/8"]


def test_what_cps_trains_with():
    """Settings of FPL's code on top of CPS, with the factor that its eight processes hide."""
    for data, crop in (("voc", 512), ("city", 800)):
        config = make_recipe(f"{data}/fpl_cps_cutmix")
        assert config.augment.crop == config.eval.window == (crop, crop)
        assert config.eval.protocol == "cps"
        assert (config.optim.lr, config.optim.weight_decay) == (0.0025, 8e-4)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (8, 8)
        assert (config.model.backbone, config.model.output_stride, config.model.pretrained) == ("resnet50", 16, True)
        assert (config.method.threshold, config.method.max_positives) == (0.9, 3)


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ("voc", {"1/16": 49_600, "1/8": 46_320, "1/4": 39_680}),
        ("city", {"1/32": 36_000, "1/16": 34_800, "1/8": 32_600, "1/4": 27_800, "1/2": 18_600}),
    ],
)
@pytest.mark.parametrize("method", ["ael", "fpl_ael"])
def test_length_of_ael(data, steps, method):
    assert {part: make_recipe(f"{data}/{method}", partition=part).train.steps for part in steps} == steps


@pytest.mark.parametrize("method", ["ael", "fpl_ael"])
def test_what_ael_trains_with(method):
    """Settings of the public code and of FPL's code on top of it, with the factor that its eight processes hide."""
    voc, city = (make_recipe(f"{data}/{method}") for data in ("voc", "city"))
    for config, crop in ((voc, 513), (city, 769)):
        assert config.augment.crop == (crop, crop)
        assert config.augment.scale_range == (0.5, 2.0)
        assert (config.optim.lr, config.optim.head_lr_scale) == (0.00125, 10)
        assert (config.optim.weight_decay, config.optim.decay_all) == (8e-4, True)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (16, 8)
        assert (config.model.head, config.model.output_stride) == ("ael", 8)
        assert (config.method.sup_loss, config.method.aux_weight, config.method.unsup_weight) == ("ohem", 0.4, 1.0)
        assert (config.method.ohem_min_kept, config.method.ohem_group) == (100_000, 2)  # spec/ael.md section 5
        assert (config.method.ema_decay, config.method.bank_momentum) == (0.99, 0.999)
        assert (config.method.threshold, config.method.max_positives, config.method.weighting) == (0.9, 3, "concave")
    assert (voc.eval.protocol, city.eval.protocol, city.eval.window) == ("whole", "ael", (769, 769))
    trusted = {data: make_recipe(f"{data}/{method}").method.confidence_threshold for data in DATA}
    assert trusted == {data: 0.7 if method == "ael" and data != "city" else 0 for data in DATA}
    assert city.method.confidence_threshold == 0
    assert (voc.method.component_area, voc.method.bank_area, voc.method.paste_draws) == (0.03, 0.03, 1)
    assert (city.method.component_area, city.method.bank_area, city.method.paste_draws) == (0.005, 0.01, 3)


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ("voc", {"1/16": 99_200, "1/8": 92_560, "1/4": 79_360}),
        ("city", {"1/32": 86_400, "1/16": 83_760, "1/8": 78_000, "1/4": 66_960, "1/2": 44_640}),
    ],
)
@pytest.mark.parametrize("method", [*WEAK_STRONG, *CORRMATCH])
def test_length_of_unimatch(data, steps, method):
    """240 epochs on Cityscapes, 80 on VOC, of a loader of two images on each of four processes."""
    assert {part: make_recipe(f"{data}/{method}", partition=part).train.steps for part in steps} == steps


@pytest.mark.parametrize("method", WEAK_STRONG)
def test_what_unimatch_trains_with(method):
    """spec/methods.md section 3.7."""
    voc, city, folder = (make_recipe(f"{data}/{method}") for data in ("voc", "city", "folder"))
    for config, crop, lr, head in ((voc, 321, 0.001, 10), (city, 801, 0.005, 1), (folder, 321, 0.001, 10)):
        assert (config.augment.crop, config.augment.geometry) == ((crop, crop), "unimatch")
        assert config.augment.scale_range == (0.5, 2.0)
        assert (config.optim.lr, config.optim.head_lr_scale) == (lr, head)
        assert (config.optim.weight_decay, config.optim.decay_all) == (1e-4, True)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (8, 8)
        assert (config.model.head, config.model.output_stride) == ("unimatch", 16)
        assert config.method.ignore_padding
        gate = 0.95 if method in ("fixmatch", "unimatch") and config is not city else 0
        assert config.method.confidence_threshold == gate
        assert (config.method.loss, config.method.threshold) == ("fpl" if "fpl" in method else "ce", 0.9)
    assert (voc.eval.protocol, city.eval.protocol, city.eval.window) == ("whole", "unimatch", (801, 801))
    assert voc.method.sup_loss == folder.method.sup_loss == "ce"
    assert (city.method.sup_loss, city.method.ohem_min_kept, city.method.ohem_group) == ("ohem", 200_000, 2)
    if "unimatch" in method:
        assert (voc.method.strong_weight, voc.method.feature_weight, voc.method.feature_dropout) == (0.25, 0.5, 0.5)


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ("voc", {"1/16": 37_200, "1/8": 34_680, "1/4": 29_760}),
        ("city", {"1/32": 64_800, "1/16": 62_820, "1/8": 58_500, "1/4": 50_220, "1/2": 33_480}),
    ],
)
@pytest.mark.parametrize("method", V2)
def test_length_of_unimatch_v2(data, steps, method):
    """180 epochs on Cityscapes, 60 on VOC, of a loader of two or four images on each of four processes."""
    assert {part: make_recipe(f"{data}/{method}", partition=part).train.steps for part in steps} == steps


@pytest.mark.parametrize("method", V2)
def test_what_unimatch_v2_trains_with(method):
    """spec/methods.md section 3.9."""
    voc, city, folder = (make_recipe(f"{data}/{method}") for data in ("voc", "city", "folder"))
    for config, crop, batch in ((voc, 518, 16), (city, 798, 8), (folder, 518, 8)):
        assert (config.augment.crop, config.augment.geometry) == ((crop, crop), "unimatch")
        assert config.augment.scale_range == (0.5, 2.0)
        assert (config.optim.algorithm, config.optim.betas) == ("adamw", (0.9, 0.999))
        assert (config.optim.lr, config.optim.head_lr_scale, config.optim.power) == (5e-6, 40, 0.9)
        assert (config.optim.weight_decay, config.optim.decay_all) == (0.01, True)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (batch, batch)
        assert (config.model.backbone, config.model.head) == ("vit_small_patch14_dinov2", "dpt")
        assert (config.model.output_stride, config.model.pretrained) == (None, True)
        assert (config.method.ema_decay, config.method.strong_weight, config.method.dropout_share) == (0.996, 0.5, 0.5)
        assert config.method.ignore_padding
        assert config.method.confidence_threshold == (0.95 if method == "unimatch_v2" else 0)
        assert (config.method.loss, config.method.threshold) == ("fpl" if "fpl" in method else "ce", 0.9)
    assert (voc.eval.protocol, city.eval.protocol, city.eval.window) == ("whole", "ael", (798, 798))
    assert voc.method.sup_loss == folder.method.sup_loss == "ce"
    assert (city.method.sup_loss, city.method.ohem_min_kept, city.method.ohem_group) == ("ohem", 200_000, 2)


@pytest.mark.parametrize("partition", ["1/16", "1/8", "1/4"])
def test_what_cac_trains_with(partition):
    """spec/methods.md section 3.5 and its corrections."""
    voc, city = (make_recipe(f"{data}/cac", partition=partition) for data in ("voc", "city"))
    folder, synthetic = make_recipe("folder/cac"), make_recipe("synthetic/cac")
    for config, crop, base, lr, jitter in (
        (voc, 320, 400, 0.001, None),
        (city, 720, 2048, 0.01, (0.4, 0.4, 0.4, 0.1)),
        (folder, 320, None, 0.001, None),
    ):
        augment, method = config.augment, config.method
        assert (augment.crop, augment.base_size, augment.geometry) == ((crop, crop), base, "cac")
        assert (augment.scale_range, augment.jitter, method.pair_scales) == ((0.5, 2.0), jitter, (0.8, 2.0))
        assert (config.optim.lr, config.optim.head_lr_scale, config.optim.power) == (lr, 10, 0.9)
        assert (config.optim.weight_decay, config.optim.decay_all) == (1e-4, True)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (8, 8)
        assert (config.model.head, config.model.stem, config.model.output_stride) == ("cac", "plain", 16)
        assert (method.unsup_weight, method.confidence_threshold, method.temperature) == (0.1, 0.75, 0.1)
        assert (method.pair_overlap, method.start_share, method.feature_channels) == ((0.1, 1.0), 5 / 80, 128)
        assert (method.jitter, method.jitter_probability) == ((0.4, 0.4, 0.4, 0.1), 0.8)
        assert (method.grey_probability, method.blur_probability, method.blur_sigma) == (0.2, 0.5, (1.1, 1.1))
        assert (config.eval.protocol, method.sup_loss) == ("cac", "ce")
    assert (voc.train.steps, city.train.steps) == (80 * 1157,) * 2
    assert (voc.method.bank_steps, city.method.bank_steps) == (2, 1)
    cells = [config.train.batch_unlabelled * (config.augment.crop[0] // 8) ** 2 for config in (voc, city)]
    assert [voc.method.bank_cells, city.method.bank_cells] == cells  # all of a step
    crop = synthetic.augment.crop
    assert synthetic.method.bank_cells == synthetic.train.batch_unlabelled * crop[0] * crop[1] // 64


@pytest.mark.parametrize("method", CORRMATCH)
def test_what_corrmatch_trains_with(method):
    """spec/methods.md section 3.10: on UniMatch's settings, but for the encoder and the numbers of the method."""
    for data in ("voc", "city", "folder"):
        ours, theirs = make_recipe(f"{data}/{method}"), make_recipe(f"{data}/unimatch")
        assert ours.model == dataclasses.replace(theirs.model, output_stride=8)
        assert dataclasses.replace(ours, recipe="", model=theirs.model, method=theirs.method) == dataclasses.replace(
            theirs, recipe=""
        )
        config = ours.method
        assert (config.confidence_threshold, config.threshold_momentum) == ((0, 1) if data == "city" else (0.85, 0.999))
        assert (config.strong_weight, config.kl_weight, config.feature_weight) == (0.25, 0.25, 0.25)
        assert (config.correlation_weight, config.correlation_share, config.num_regions) == (0.25, 0.5, 128)
        assert (config.feature_dropout, config.ignore_padding) == (0.5, True)
        assert (config.loss, config.gated) == (("fpl", False) if "fpl" in method else ("ce", True))
        assert config.weighting == ("concave" if "fpl" in method else "none")
        assert config.sup_loss == ("ohem" if data == "city" else "ce")
    assert (config.ohem_group, make_recipe(f"city/{method}").method.ohem_min_kept) == (1, 100_000)
    assert make_recipe(f"city/{method}").method.ohem_group == 2


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "unimatch_v2"])
@pytest.mark.parametrize("data", DATA)
def test_fuzzy_positives_have_no_gate_and_weights_instead(data, name):
    """Behind the gate of the baseline they would be the cross entropy."""
    ours, theirs = (make_recipe(f"{data}/{method}") for method in (f"fpl_{name}", name))
    assert (ours.method.confidence_threshold, ours.method.weighting) == (0, "concave")
    same = {"loss": "ce", "weighting": "none", "confidence_threshold": theirs.method.confidence_threshold}
    assert dataclasses.replace(ours, recipe=theirs.recipe, method=dataclasses.replace(ours.method, **same)) == theirs


@pytest.mark.parametrize("data", PARTITIONS)
def test_fpl_and_its_baseline_differ_in_the_loss_alone(data):
    for fpl, baseline in BASELINES.items():
        ours, theirs = make_recipe(f"{data}/{fpl}"), make_recipe(f"{data}/{baseline}")
        same = dict.fromkeys(("loss", "weighting", "confidence_threshold"))
        bare = [dataclasses.replace(config, recipe="", method=CpsConfig()) for config in (ours, theirs)]
        assert bare[0] == bare[1]
        methods = [dataclasses.asdict(config.method) | same for config in (ours, theirs)]
        assert methods[0] == methods[1]


def test_methods_differ_as_their_names_say():
    made = {method: make_recipe(f"folder/{method}").method for method in METHODS}
    assert made["supervised"].name == "supervised"
    for method in EMA:
        assert made[method].name == method.removeprefix("fpl_")
        assert made[method].loss == ("fpl" if "fpl" in method else "ce" if method == "ael" else "mse")
    assert made["mean_teacher"].unsup_weight == 100
    assert (made["cutmix_seg"].ignore_padding, made["cutmix_seg"].divide_by_all) == (True, True)
    assert (made["cutmix_seg"].mix_boxes, made["cutmix_seg"].mix_area) == (1, (0.5, 0.5))
    assert made["fpl_ael"].weighting == "concave"
    for method in CCT:
        assert made[method].name == "cct"
        assert made[method].loss == ("fpl" if "fpl" in method else "mse")
        assert made[method].unsup_weight == (1 if "fpl" in method else 30)
    for method in GCT:
        assert made[method].name == "gct"
        assert made[method].loss == ("fpl" if "fpl" in method else "mse")
        assert made[method].unsup_weight == (1 if "fpl" in method else 100)
    for method in U2PL:
        assert made[method].name == "u2pl"
        assert made[method].loss == ("fpl" if "fpl" in method else "ce")
    for method in CPS:
        assert made[method].name == "cps"
        assert made[method].loss == ("fpl" if "fpl" in method else "ce")
        assert made[method].cutmix is ("cutmix" in method)
        assert made[method].unsup_weight == (1.0 if "cutmix" in method else 1.5)
    assert make_recipe("folder/cps").optim.lr == 0.0025
    assert make_recipe("folder/cps").optim.weight_decay == 4e-4


def test_cityscapes_has_weights_of_its_own():
    for method in CPS:
        made = make_recipe(f"city/{method}").method
        assert (made.sup_loss, made.weighting) == ("ohem", "concave")
        assert made.unsup_weight == (5.0 if "cutmix" in method else 6.0)
        assert make_recipe(f"voc/{method}").method == make_recipe(f"folder/{method}").method


@pytest.mark.parametrize("method", CCT)
def test_what_cct_trains_with(method):
    """The code of CPS: twelve decoders, no ramp, annealed labels; on Cityscapes OHEM as in its other rows."""
    voc, city = (make_recipe(f"{data}/{method}") for data in ("voc", "city"))
    for config in (voc, city):
        theirs = dataclasses.replace(make_recipe(config.recipe.replace(method, "cps")), recipe=config.recipe)
        assert dataclasses.replace(config, method=theirs.method) == theirs
        kinds = ("dropout", "cutout", "context", "object", "salient", "noise", "adversarial")
        assert [config.method.num_decoders(kind) for kind in kinds] == [2, 2, 2, 2, 2, 2, 0]
        assert (config.method.ramp_share, config.method.confidence_threshold) == (0, 0)
    assert (voc.method.sup_loss, voc.method.annealed_end, voc.method.background) == ("annealed", 0.99, (0,))
    assert (city.method.sup_loss, city.method.background) == ("ohem", (0, 1, 2, 3, 4, 8, 9, 10))


@pytest.mark.parametrize(
    ("recipe", "field", "names"),
    [
        ("synthetic/ael", "paste_exclude", {"sky", "building", "road", "pavement", "tree"}),
        ("synthetic/fpl_ael", "paste_exclude", {"sky", "building", "road", "pavement", "tree"}),
        ("synthetic/cct", "background", {"sky", "building", "road", "pavement", "tree", "fence"}),
        ("city/ael", "paste_exclude", {"sky", "building", "road", "sidewalk", "vegetation"}),
        ("city/cct", "background", {"sky", "building", "road", "sidewalk", "vegetation", "terrain", "wall", "fence"}),
        ("voc/ael", "paste_exclude", {"background"}),
    ],
)
def test_classes_that_recipes_name_by_number(recipe, field, names):
    config = make_recipe(recipe)
    known = class_table(config.data).names
    assert {known[number] for number in getattr(config.method, field)} == names


@pytest.mark.parametrize("method", GCT)
def test_what_gct_trains_with(method):
    """The code of CPS: its script has four processes, and multiplies the detector's rate by them."""
    voc, city = (make_recipe(f"{data}/{method}") for data in ("voc", "city"))
    for config in (voc, city):
        theirs = dataclasses.replace(make_recipe(config.recipe.replace(method, "cps")), recipe=config.recipe)
        assert dataclasses.replace(config, method=theirs.method) == theirs
        assert (config.method.flaw_threshold, config.method.flaw_weight, config.method.detector_lr) == (0.6, 1, 4e-4)
        assert (config.method.detector_channels, config.method.detector_scale) == (64, 1)
    assert (voc.method.sup_loss, voc.method.ramp_share) == ("ce", 3 / 34)
    assert (city.method.sup_loss, city.method.ramp_share) == ("ohem", 3 / 137)
    assert make_recipe(f"synthetic/{method}").method.detector_scale == 2


@pytest.mark.parametrize("method", U2PL)
def test_what_u2pl_trains_with(method):
    """Settings of the public code, with the factor that its processes hide in the contrastive loss."""
    voc, city = (make_recipe(f"{data}/{method}") for data in ("voc", "city"))
    for config, crop in ((voc, 513), (city, 769)):
        assert config.augment.crop == (crop, crop)
        assert (config.train.batch_labelled, config.train.batch_unlabelled) == (16, 16)
        assert (config.model.head, config.model.output_stride) == ("ael", 8)
        assert (config.method.ema_decay, config.method.unreliable_percent) == (0.99, 20)
        assert (config.method.anchors, config.method.negatives, config.method.contrast_threshold) == (256, 50, 0.3)
        assert (config.method.bank_size, config.method.bank_size_first) == (30_000, 50_000)
        assert (config.method.mix_boxes, config.method.mix_area, config.method.mix_probability) == (1, (0.5, 0.5), 0.5)
        assert config.optim.decay_all
    assert (voc.optim.lr, voc.optim.head_lr_scale, voc.optim.weight_decay) == (0.001, 10, 1e-4)
    assert (city.optim.lr, city.optim.head_lr_scale, city.optim.weight_decay) == (0.01, 1, 5e-4)
    assert (voc.method.sup_loss, voc.method.aux_weight, voc.method.contrast_weight) == ("ce", 0, 0.25)
    assert (city.method.sup_loss, city.method.ohem_min_kept, city.method.aux_weight) == ("ohem", 100_000, 0.4)
    assert (city.method.contrast_weight, city.method.warmup_share, city.method.follow_share) == (0.125, 0, 1 / 200)
    assert (voc.method.warmup_share, voc.method.follow_share) == (1 / 80, 2 / 80)
    assert (voc.eval.protocol, city.eval.protocol, city.eval.window) == ("whole", "ael", (769, 769))
    steps = {part: make_recipe(f"voc/{method}", partition=part).train.steps for part in ("1/16", "1/8")}
    assert steps == {"1/16": 80 * 620, "1/8": 80 * 578}
    assert make_recipe(f"city/{method}", partition="1/2").train.steps == 200 * 93


def test_the_number_to_compare_a_run_with():
    config = make_recipe("city/fpl_ael", partition="1/16")
    assert published_number(config) == find_published("city", "fpl_ael", "resnet50", "1/16")
    model = dataclasses.replace(config.model, backbone="resnet18")
    assert published_number(dataclasses.replace(config, model=model)) is None
    assert published_number(make_recipe("folder/cps")) is None
    assert published_number(dataclasses.replace(config, recipe="")) is None
    assert published_number(dataclasses.replace(make_recipe("folder/cps"), recipe="city/cps")) is None


def test_parts_are_of_public_data_sets():
    with pytest.raises(ValueError, match="--partition goes with the data sets voc and city, got 'folder/cps'"):
        make_recipe("folder/cps", partition="1/8")
    with pytest.raises(ValueError, match=r"--partition must be one of 1/32, 1/16, 1/8, 1/4, 1/2, got '1/64'"):
        make_recipe("voc/cps", partition="1/64")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("folder/fpl_cps_cutmx", "folder/fpl_cps_cutmix"), ("foldr/cps", "folder/cps"), ("synthetic", "synthetic/gct")],
)
def test_unknown_names_are_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"no such recipe '{name}': did you mean '{nearest}'"):
        make_recipe(name)
