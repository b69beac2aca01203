import dataclasses
import re

import pytest

from fpl_fast.trainer import config as config_module
from fpl_fast.trainer.config import (
    AugmentConfig,
    CityscapesData,
    EvalConfig,
    FolderData,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SyntheticData,
    TrainConfig,
    VocData,
)
from fpl_fast.trainer.config.data import DATA_KINDS
from fpl_fast.trainer.config.io import (
    config_from_dict,
    config_to_dict,
    describe_fields,
    load_config,
    override_config,
    save_config,
)
from fpl_fast.trainer.config.words import describe_type
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.methods.adaptive_equalization import AelConfig
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.methods.fixmatch import FixMatchConfig
from fpl_fast.trainer.methods.mean_teacher import MeanTeacherConfig

DEFAULT = RunConfig(method=CpsConfig())
CHANGED = RunConfig(
    recipe="folder/cps",
    data=FolderData(
        root="some where",
        label_ignore=(11, 12),
        label_map={0: None, "1-3": "0-2", 255: 1},
        num_classes=3,
        class_names=("a", "no", "1"),
    ),
    augment=AugmentConfig(crop=(97, 31), scales=(0.5, 1.25), flip=0.0),
    model=ModelConfig(backbone="resnet18", output_stride=None, weights_file="w.pt"),
    method=CpsConfig(loss="ce", cutmix=False, max_positives=None, unsup_weight=1e-7, threshold_candidates=(0.84, 0.99)),
    optim=OptimConfig(lr=1e-5, weight_decay=0.0),
    train=TrainConfig(precision="bf16-mixed", compile=True, workers=0),
    eval=EvalConfig(protocol="cps", window=(33, 65)),
)


PUBLIC = dataclasses.replace(DEFAULT, data=VocData(root="voc", partition="1/32", partition_seed=7, val="train_aug.txt"))


@pytest.mark.parametrize("config", [DEFAULT, CHANGED, PUBLIC, dataclasses.replace(DEFAULT, data=CityscapesData())])
def test_yaml_round_trip(tmp_path, config):
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("text", "label_map"),
    [
        ("{0: null, 1-150: 0-149}", {0: None, "1-150": "0-149"}),
        ("{255: 1}", {255: 1}),
        ("{11: null}", {11: None}),
        ("{11: null, 12: null}", {11: None, 12: None}),
        ("{11-12: null}", {"11-12": None}),
        ('{"255": 1}', {"255": 1}),
        ("{0-3: 0, 7: 1}", {"0-3": 0, 7: 1}),
        ("null", None),
        ("{}", {}),
    ],
)
def test_label_maps_on_the_command_line(tmp_path, text, label_map):
    config = override_config(dataclasses.replace(DEFAULT, data=FolderData(num_classes=150)), ["--data.label_map", text])
    assert config.data.label_map == label_map
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    (tmp_path / "config.yaml").write_text(f"data:\n  kind: folder\n  num_classes: 150\n  label_map: {text}\n")
    assert load_config(tmp_path / "config.yaml").data.label_map == label_map


@pytest.mark.parametrize("text", ["0", "[0, 1]", "{0: 1.5}", "{a: 0}", "{0: [1]}", "{256: 0}"])
def test_wrong_label_maps_are_one_line(text):
    with pytest.raises(ValueError, match=r"data\.label_map") as error:
        override_config(dataclasses.replace(DEFAULT, data=FolderData()), ["--data.label_map", text])
    assert "\n" not in str(error.value)


def test_configs_are_frozen_and_keyword_only():
    config = DEFAULT
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.recipe = "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optim.lr = 1.0
    with pytest.raises(TypeError):
        OptimConfig(0.1)


SECTIONS = [getattr(config_module, name) for name in config_module.__all__ if name != "DataConfig"]


@pytest.mark.parametrize("cls", [*SECTIONS, *(method.Config for method in METHODS.values())])
def test_every_field_is_described(cls):
    described = describe_fields(cls)
    for field in dataclasses.fields(cls):
        assert described[field.name].endswith((".", "...", '"...')), field.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(lr=0.0), "optim.lr must be > 0, got 0.0"),
        (lambda: OptimConfig(momentum=1.0), r"optim.momentum must be in \[0, 1\), got 1.0"),
        (lambda: OptimConfig(weight_decay=-1e-4), "optim.weight_decay must be >= 0, got -0.0001"),
        (lambda: AugmentConfig(crop=(0, 3)), r"augment.crop must be >= 1 pixel on either side, got \(0, 3\)"),
        (lambda: AugmentConfig(scales=()), "augment.scales must be one or more factors > 0"),
        (lambda: AugmentConfig(geometry="unimatch"), r"augment.scale_range must be a pair such as '\[0.5, 2.0\]' with"),
        (lambda: AugmentConfig(flip=1.5), r"augment.flip must be in \[0, 1\], got 1.5"),
        (lambda: CpsConfig(threshold=0.0), r"method.threshold must be in \(0, 1\], got 0.0"),
        (
            lambda: CpsConfig(threshold_candidates=(0.9, 0.8)),
            r"method.threshold_candidates must be ascending numbers in \(0, 1\], such as \[0.84, 0.94\], got \(0.9,",
        ),
        (lambda: CpsConfig(threshold_candidates=(0.8, 0.8)), "method.threshold_candidates must be ascending"),
        (lambda: CpsConfig(threshold_candidates=(0.0, 0.8)), "method.threshold_candidates must be ascending"),
        (lambda: CpsConfig(threshold_candidates=(0.8, 1.01)), "method.threshold_candidates must be ascending"),
        (lambda: CpsConfig(threshold_candidates=(float("nan"),)), "method.threshold_candidates must be ascending"),
        (lambda: CpsConfig(threshold_window=4), "method.threshold_window must be an odd number from 3 to 15, got 4"),
        (lambda: CpsConfig(threshold_window=17), "method.threshold_window must be an odd number from 3 to 15, got 17"),
        (
            lambda: CpsConfig(threshold=0.95, threshold_candidates=(0.8, 1.0)),
            "method.threshold must be left at 0.9 with method.threshold_candidates, which replace it, got 0.95",
        ),
        (
            lambda: FixMatchConfig(confidence_threshold=0.95, threshold_candidates=(0.84, 0.94)),
            "method.confidence_threshold must be below method.threshold_candidates 0.94 with method.loss fpl",
        ),
        (lambda: CpsConfig(max_positives=0), "method.max_positives must be >= 1 or null, got 0"),
        (lambda: CpsConfig(unsup_weight=-1.0), "method.unsup_weight must be >= 0, got -1.0"),
        (lambda: CpsConfig(mix_boxes=0), "method.mix_boxes must be >= 1, got 0"),
        (lambda: CpsConfig(mix_area=(0.5, 0.2)), r"method.mix_area must be an ascending pair in \(0, 1\], got"),
        (lambda: MeanTeacherConfig(ema_decay=1.1), r"method.ema_decay must be in \[0, 1\], got 1.1"),
        (lambda: AelConfig(paste_draws=0), "method.paste_draws must be >= 1, got 0"),
        (
            lambda: AelConfig(paste_scales=(0.1, 0.9)),
            r"paste_scales must be two factors around 1, .*, got \(0.1",
        ),
        (lambda: AugmentConfig(scale_range=(1.5, 2.0)), r"scale_range must be two factors around 1, .*, got \(1.5"),
        (
            lambda: AugmentConfig(scale_range=(0.5, 1e9)),
            r"scale_range must be .* at most 16, .*, got \(0.5, 1000000",
        ),
        (lambda: AugmentConfig(base_size=10**6), "augment.base_size must be from 1 to 16384 pixels, got 1000000"),
        (
            lambda: RunConfig(method=AelConfig(donor_lead=8), train=TrainConfig(workers=4)),
            "method.donor_lead must be > 8, the batches that train.workers read ahead, got 8",
        ),
        (lambda: OptimConfig(head_lr_scale=0.0), "optim.head_lr_scale must be > 0, got 0.0"),
        (lambda: TrainConfig(steps=0), "train.steps must be >= 1, got 0"),
        (lambda: TrainConfig(accumulate=0), "train.accumulate must be >= 1, got 0"),
        (lambda: TrainConfig(workers=-1), "train.workers must be >= 0, got -1"),
        (lambda: TrainConfig(seed=-1), "train.seed must be >= 0, got -1"),
        (lambda: SyntheticData(seed=-1), "data.seed must be >= 0, got -1"),
        (lambda: FolderData(std=(1.0, 0.0, 1.0)), "data.std must be > 0"),
        (lambda: VocData(ignore_index=256), r"data.ignore_index must be in \[0, 255\], got 256"),
        (lambda: FolderData(ignore_index=-1), r"data.ignore_index must be in \[0, 255\], got -1"),
        (lambda: EvalConfig(every=0), "eval.every must be >= 1, got 0"),
        (lambda: SyntheticData(num_labelled=0), "data.num_labelled must be >= 1, got 0"),
        (lambda: SyntheticData(std=(1.0, 0.0, 1.0)), "data.std must be > 0"),
        (lambda: FolderData(num_classes=1), r"data.num_classes must be in \[2, 255\], got 1"),
        (lambda: FolderData(num_classes=2, class_names=("a",)), "data.class_names must be empty or 2 names"),
        (
            lambda: FolderData(num_classes=2, class_names=("a", "b\n")),
            "data.class_names must be names without control characters",
        ),
    ],
)
def test_broken_rules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"lrr": 1.0}}, "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
        ({"optm": {"lr": 1.0}}, "unknown key 'optm.lr': did you mean 'optim.lr'?"),
        ({"data": {"root": "x"}}, "unknown key 'data.root'"),  # a folder's key in synthetic data
        ({"data": {"ignore_index": 0}}, "unknown key 'data.ignore_index'"),  # scenes mark void themselves
        ({"method": {"name": "cps", "loss": "mse"}}, "method.loss"),
        ({"method": {"name": "cp"}}, f"method.name must be one of {', '.join(METHODS)}, got"),
        ({"method": {"paste_draws": 1}}, "unknown key 'method.paste_draws': a setting of ael, not of cps"),
        ({"method": {"tresholt": 1}}, "unknown key 'method.tresholt': did you mean 'method.threshold'?"),
        ({"optim": 3}, "optim must hold keys and values, got 3"),
        ({"data": {"kind": "vok"}}, "data.kind must be one of synthetic, folder, voc, city, got 'vok'"),
        ({"data": {"kind": [1]}}, "data.kind must be one of synthetic, folder, voc, city, got [1]"),
        ({"method": {"name": {"a": 1}}}, "unimatch_v2, corrmatch, got {'a': 1}"),
        ({1: 2}, "unknown key 1"),
        ({"data": {"kind": "voc", "partition": "1/3"}}, "data.partition"),
        ({"optim": {"lr": "fast"}}, "optim.lr"),
        ({"optim": {"lr": -1}}, "optim.lr must be > 0"),
        ({"train": {"steps": 1.5}}, "train.steps"),
        ({"augment": {"crop": [1, 2, 3]}}, "augment.crop"),
        ([1, 2], "must hold keys and values, got [1, 2]"),
        (None, "must hold keys and values, got nothing"),
        ({"train": {"steps": "abc"}}, "train.steps must be an integer, got 'abc'"),
        ({"augment": {"crop": 512}}, "augment.crop must be two integers such as '[512, 512]', got 512"),
        (
            {"eval": {"protocol": "csp"}},
            "eval.protocol must be one of cps, ael, ael_crop, cac, unimatch, whole, got 'csp'",
        ),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError) as caught:
        config_from_dict(values, source="run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_no_number_is_infinite(method):
    config = RunConfig(method=METHODS[method].Config())
    for section in (getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "recipe"):
        name = next(name for name, value in vars(config).items() if value is section)
        for key, value in vars(section).items():
            if isinstance(value, float):
                with pytest.raises(ValueError, match=rf"{key} must be .*, got inf$"):
                    dataclasses.replace(config, **{name: dataclasses.replace(section, **{key: float("inf")})})


def test_an_infinite_number_is_one_line(tmp_path):
    for section, key, text, got in (
        ("optim", "lr", ".inf", "inf"), ("optim", "weight_decay", "1e400", "inf"),
        ("augment", "scales", "[1.0, .inf]", r"\(1\.0, inf\)"),
    ):  # fmt: skip
        (tmp_path / "c.yaml").write_text(f"{section}: {{{key}: {text}}}")
        with pytest.raises(ValueError, match=rf"^.*c\.yaml: {section}\.{key} must be finite, got {got}$"):
            load_config(tmp_path / "c.yaml")
        with pytest.raises(ValueError, match=rf"^{section}\.{key} must be finite, got {got}$"):
            override_config(DEFAULT, [f"--{section}.{key}", text])


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("optim: [1, 2\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: must be YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match=r"empty\.yaml: must hold keys and values"):
        load_config(tmp_path / "empty.yaml")


def test_a_person_may_write_4e_4(tmp_path):
    (tmp_path / "c.yaml").write_text("optim: {weight_decay: 8e-4}\n")  # a string by YAML 1.1's rules
    assert load_config(tmp_path / "c.yaml").optim.weight_decay == 8e-4


def test_overrides():
    changed = override_config(
        DEFAULT,
        ["--optim.lr", "1e-3", "--augment.crop=[64, 96]", "--method.max_positives", "null", "--train.compile", "true"],
    )
    assert changed.optim.lr == 1e-3
    assert changed.augment.crop == (64, 96)
    assert changed.method.max_positives is None
    assert changed.train.compile is True
    assert (
        dataclasses.replace(
            changed, **{name: getattr(DEFAULT, name) for name in ("optim", "augment", "method", "train")}
        )
        == DEFAULT
    )


def test_overrides_keep_what_the_configuration_holds():
    assert override_config(CHANGED, []) == CHANGED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.lrx", "1"], "unknown option --optim.lrx: did you mean '--optim.lr'?"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--optim.lr"], "optim.lr"),
        (["--train.precision", "fp8"], "train.precision"),
        (["--augment.flip=2"], "augment.flip must be in [0, 1]"),
        (["stray"], "stray"),
        (["--augment.crop", "512"], "augment.crop must be two integers such as '[512, 512]', got '512'"),
        (["--augment.crop=[512]"], "augment.crop must be two integers such as '[512, 512]', got '[512]'"),
        (["--augment.crop", "[a, b]"], "augment.crop must be two integers such as '[512, 512]', got '[a, b]'"),
        (["--augment.scales", "0.5"], "augment.scales must be a list of numbers such as '[0.5, 2.0]', got '0.5'"),
        (["--augment.scale_range", "3"], "must be two numbers such as '[0.5, 2.0]', or null, got '3'"),
        (["--model.output_stride", "x"], "model.output_stride must be an integer, or null, got 'x'"),
        (["--train.compile", "maybe"], "train.compile must be true or false, got 'maybe'"),
        (["--train.steps"], "train.steps must be an integer, got nothing"),
        (["--train.steps", "--optim.lr", "1"], "train.steps must be an integer, got nothing"),
        (["--train.precision", "fp8"], "train.precision must be one of 32-true, bf16-mixed, 16-mixed, got 'fp8'"),
    ],
)
def test_bad_overrides(arguments, message):
    with pytest.raises(ValueError) as caught:
        override_config(DEFAULT, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_defaults_and_units(capsys):
    with pytest.raises(SystemExit) as left:
        override_config(CHANGED, ["--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: 1e-05" in shown  # of this configuration, not of the class
    assert "Height and width of a training crop, pixels" in shown


def test_every_method_s_settings_of_an_early_run_are_read():
    """One class held the settings of all methods, and config.yaml held them all."""
    every = {"name": "mean_teacher"}
    for method in METHODS.values():
        every |= {key: value for key, value in dataclasses.asdict(method.Config()).items() if key != "name"}
    every |= dataclasses.asdict(MeanTeacherConfig()) | {"loss": "mse", "ema_decay": 0.9}
    config = config_from_dict({"method": every}, source="run.yaml")
    assert config.method == MeanTeacherConfig(loss="mse", ema_decay=0.9)
    del every["donor_lead"]  # not written by a run
    with pytest.raises(ValueError, match=r"unknown key 'method\.\w+': a setting of"):
        config_from_dict({"method": every}, source="run.yaml")


def test_a_method_offers_its_own_settings_alone():
    own = {"name", "sup_loss", "ohem_min_kept", "ohem_group", "aux_weight", "engine"}
    assert {field.name for field in dataclasses.fields(METHODS["supervised"].Config)} == own
    with pytest.raises(ValueError, match=r"unknown option --method\.ema_decay: a setting of mean_teacher, cutmix"):
        override_config(DEFAULT, ["--method.ema_decay", "0.5"])


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_every_setting_has_words_for_what_it_may_be(kind):
    """And none of them are Python's."""
    config = dataclasses.replace(DEFAULT, data=DATA_KINDS[kind]())
    for section in dataclasses.fields(config):
        if section.name == "recipe":
            continue
        for field in dataclasses.fields(getattr(config, section.name)):
            words = describe_type(field.type)
            assert not re.search("a value|class|typing|tuple|str|int\\b|None|bool|float", words), (field, words)
