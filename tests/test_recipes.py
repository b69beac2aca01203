import pytest

from fpl_fast.trainer.config_io import config_from_dict, config_to_dict
from fpl_fast.trainer.recipes import make_recipe, recipe_descriptions

CPS = ("cps", "cps_cutmix", "fpl_cps", "fpl_cps_cutmix")
EMA = ("mean_teacher", "fpl_mean_teacher", "cutmix_seg", "fpl_cutmix_seg", "ael", "fpl_ael")
METHODS = ("supervised", *CPS, *EMA)


def test_the_grid_is_complete():
    assert set(recipe_descriptions()) == {
        f"{data}/{method}" for data in ("synthetic", "folder", "voc", "city") for method in METHODS
    }


@pytest.mark.parametrize("name", recipe_descriptions())
def test_recipe_is_a_whole_configuration(name):
    config = make_recipe(name)
    assert config.recipe == name
    assert config.data.kind == name.split("/")[0]
    assert config_from_dict(config_to_dict(config)) == config
    assert "\n" not in recipe_descriptions()[name]


def test_methods_differ_as_their_names_say():
    made = {method: make_recipe(f"folder/{method}").method for method in METHODS}
    assert made["supervised"].name == "supervised"
    for method in EMA:
        assert made[method].name == method.removeprefix("fpl_")
        assert made[method].loss == ("fpl" if "fpl" in method else "ce" if method == "ael" else "mse")
    assert made["mean_teacher"].unsup_weight == 100  # spec/methods.md section 3.1
    assert (made["cutmix_seg"].mix_boxes, made["cutmix_seg"].mix_area) == (1, (0.5, 0.5))  # section 3.4
    assert made["fpl_ael"].weighting == "concave"  # spec/fpl.md section 6
    assert make_recipe("synthetic/ael").method.paste_exclude == (0, 1, 3, 4, 5)
    for method in CPS:
        assert made[method].name == "cps"
        assert made[method].loss == ("fpl" if "fpl" in method else "ce")
        assert made[method].cutmix is ("cutmix" in method)
        # spec/cps.md section 2, VOC
        assert made[method].unsup_weight == (1.0 if "cutmix" in method else 1.5)
    assert make_recipe("folder/cps").optim.lr == 0.0025  # section 3.1
    assert make_recipe("folder/cps").optim.weight_decay == 4e-4


def test_cityscapes_has_weights_of_its_own():
    for method in CPS:
        made = make_recipe(f"city/{method}").method
        assert (made.sup_loss, made.weighting) == ("ohem", "concave")
        assert made.unsup_weight == (5.0 if "cutmix" in method else 6.0)  # spec/cps.md section 2
        assert make_recipe(f"voc/{method}").method == make_recipe(f"folder/{method}").method


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("folder/fpl_cps_cutmx", "folder/fpl_cps_cutmix"), ("foldr/cps", "folder/cps"), ("synthetic", "synthetic/cps")],
)
def test_unknown_names_are_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"no such recipe '{name}': did you mean '{nearest}'"):
        make_recipe(name)
