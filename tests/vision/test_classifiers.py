"""Classifiers load from the formats of the field, group their labels, and give gradients."""

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_large
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from fairnb.errors import UserError
from fairnb.miniworld import models
from fairnb.profiles import Source
from fairnb.prompts.attributes import GENDER, RACE
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.encoders import load_clip
from fairnb.vision.faces import crop_faces
from tests.conftest import MINI

# FairFace's seven races, as hub classifiers name them, in FFD's four classes.
SEVEN = ["White", "Middle Eastern", "Latino_Hispanic", "Black", "Indian", "East Asian", "Southeast Asian"]
FOUR = {"WMELH": SEVEN[:3], "Black": "Black", "Indian": "Indian", "Asian": SEVEN[5:]}


def vit(folder, labels, size=32, **options):
    """A small ViT classifier with its image processor, as the hub holds them."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=size,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        **options,
    )
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(folder)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    ViTImageProcessor(size={"height": size, "width": size}, image_mean=mean, image_std=std).save_pretrained(folder)
    return model


@pytest.mark.parametrize("make", [models.resnet, models.convnext])
def test_logits_are_grouped_by_attribute(tmp_path, make):
    model = make(models.attribute_labels(), 48).eval()
    model.save_pretrained(tmp_path)
    classifier = load_classifier(tmp_path)
    assert classifier.classes == {
        "gender": ("female", "male"),
        "skin_tone": ("light", "medium", "brown", "dark"),
        "age": ("young", "old"),
    }
    images = torch.rand(3, 3, 48, 48, requires_grad=True)
    logits = classifier(images)
    torch.testing.assert_close(torch.cat([logits[a] for a in classifier.classes], 1), model(images).logits)
    logits["gender"].sum().backward()
    assert images.grad.abs().sum() > 0
    assert classifier(torch.rand(2, 3, 100, 100))["age"].shape == (2, 2)
    torch.testing.assert_close(classifier.probabilities(images)["skin_tone"].sum(1), torch.ones(3))


def test_hub_labels_are_mapped_and_pixels_normalised(tmp_path):
    model = vit(tmp_path, SEVEN)
    classifier = load_classifier(Source(model=str(tmp_path), labels={"race": FOUR}))
    assert classifier.classes == {"race": RACE.classes} and classifier.size == 32
    images = (torch.rand(4, 3, 32, 32) * 255).round() / 127.5 - 1
    processor = ViTImageProcessor.from_pretrained(tmp_path)
    pixels = processor(list(((images + 1) * 127.5).round().byte()), return_tensors="pt").pixel_values
    seven = model(pixels).logits.softmax(1)
    four = torch.stack([seven[:, :3].sum(1), seven[:, 3], seven[:, 4], seven[:, 5:].sum(1)], 1)
    torch.testing.assert_close(classifier.probabilities(images)["race"], four, rtol=1e-3, atol=1e-4)
    images.requires_grad_()
    classifier(images)["race"].square().sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"race": {**FOUR, "Asian": ["Indian", *SEVEN[5:]]}}, "label 'Indian' of .* is declared twice for race"),
        (None, "label 'White' of .* is not written attribute:class: declare 'labels'"),
        ({"race": {**FOUR, "Asian": "East Asian"}}, "label 'Southeast Asian' of .* belongs to no class"),
        ({"race": {**FOUR, "Asian": ["East Asian", "Thai"]}}, "has no label 'Thai': .* some of White, Middle Eastern"),
        ({"race": {**FOUR, "Indian": SEVEN[:0], "Asian": SEVEN[4:]}}, "give race no 'Indian'"),
        ({"race": {"white": "White"}}, "race has no class 'white'|belongs to no class"),
        ({"mood": {"good": SEVEN}}, "unknown attribute 'mood'"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, labels, says):
    vit(tmp_path, SEVEN)
    with pytest.raises(UserError, match=says):
        load_classifier(Source(model=str(tmp_path), labels=labels))


def test_clip_zero_shot():
    source = Source(
        model=str(MINI / "clip"),
        labels={"gender": {"male": "a photo of a man", "female": ["a photo of a woman", "a photo of a female pilot"]}},
    )
    classifier, clip = load_classifier(source), load_clip(MINI / "clip")
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    texts = clip.text_features(["a photo of a woman", "a photo of a female pilot", "a photo of a man"])
    three = (clip.model.logit_scale.exp() * clip.image_features(images) @ texts.T).softmax(1)
    expected = torch.stack([three[:, 0] + three[:, 1], three[:, 2]], 1)
    assert classifier.classes == {"gender": GENDER.classes}
    torch.testing.assert_close(classifier.probabilities(images)["gender"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="is a CLIP model: declare 'labels'"):
        load_classifier(MINI / "clip")


@pytest.mark.parametrize(
    ("suffix", "width", "columns"), [("pt", 2, (0, 1)), ("pth", 80, (40, 41)), ("safetensors", 2, (0, 1))]
)
def test_mobilenet_files_of_ffd(tmp_path, suffix, width, columns):
    """Its judge has two outputs, its guide CelebA's forty attributes in pairs, of which the 21st is Male."""
    torch.manual_seed(0)
    model = mobilenet_v3_large(num_classes=width).eval()
    path = tmp_path / f"gender.{suffix}"
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    classifier = load_classifier(
        Source(model=str(path), labels={"gender": dict(zip(GENDER.classes, columns, strict=True))})
    )
    faces = torch.rand(2, 3, 224, 224) * 2 - 1
    torch.testing.assert_close(classifier(faces)["gender"], model(faces)[:, list(columns)])
    assert classifier.size == 224 and not any(weight.requires_grad for weight in classifier.parameters())


@dataclass
class Evil:
    path: Path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_files_with_code_or_of_another_network_are_refused(tmp_path):
    evil, other = tmp_path / "evil.pt", tmp_path / "other.pth"
    evil.write_bytes(pickle.dumps({"classifier.3.bias": Evil(tmp_path / "ran")}))
    torch.save({"classifier.3.bias": torch.zeros(2)}, other)
    for path in (evil, other):
        with pytest.raises(UserError, match="no state dict of a MobileNetV3-Large") as caught:
            load_classifier(Source(model=str(path), labels={"gender": {"female": 0, "male": 1}}))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_several_models_answer_as_one(tmp_path):
    races, genders = tmp_path / "race", tmp_path / "gender"
    vit(races, SEVEN), vit(genders, ["Female", "Male"], size=16)
    sources = [
        Source(model=str(races), labels={"race": FOUR}),
        Source(model=str(genders), labels={"gender": {"female": "Female", "male": "Male"}}),
    ]
    (genders / "accuracy.json").write_text('{"accuracy": {"gender": 0.9}}')
    both, alone = load_classifier(sources), [load_classifier(source) for source in sources]
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    assert both.classes == alone[0].classes | alone[1].classes and both.size == 32
    assert both.accuracy == {"gender": 0.9} and alone[0].accuracy == {}
    for part in alone:
        for attribute, logits in part(images).items():
            assert torch.equal(both(images)[attribute], logits)
    with pytest.raises(UserError, match="two classifiers answer for the same attribute"):
        load_classifier([sources[0], sources[0]])


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no classifier at"):
        load_classifier(tmp_path / "nothing")
    models.resnet(["gender:female", "old"], 48).save_pretrained(tmp_path / "label")
    with pytest.raises(UserError, match="label 'old'"):
        load_classifier(tmp_path / "label")
    models.resnet(models.attribute_labels(), 48).save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded"):
        load_classifier(tmp_path / "cut")


def test_guide_and_judge_are_different_models():
    guide, judge = (load_classifier(MINI / name) for name in ("guide", "judge"))
    assert guide.classes == judge.classes and set(judge.accuracy) == set(judge.classes)
    assert type(guide.model) is not type(judge.model)


def test_a_damaged_accuracy_file_is_named(tmp_path):
    shutil.copytree(MINI / "judge", tmp_path / "judge")
    for content in ("{", "[]", '{"accuracy": {}, "confusion": {"gender": {}}}', '{"accuracy": 3}'):
        (tmp_path / "judge" / "accuracy.json").write_text(content)
        with pytest.raises(UserError, match="accuracy.json does not contain the accuracy"):
            load_classifier(tmp_path / "judge")


def test_features_are_what_the_last_layer_sees(tmp_path):
    model = vit(tmp_path, SEVEN)
    classifier = load_classifier(Source(model=str(tmp_path), labels={"race": FOUR}))
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    features = classifier.features(images)
    hidden = model.vit(classifier.pixels(images)).last_hidden_state[:, 0]
    torch.testing.assert_close(features, torch.nn.functional.normalize(hidden, dim=-1))
    features[:, 0].sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


def as_transformers_does(folder, picture):
    """Logits of a uint8 picture [C, H, W] by transformers alone."""
    pixels = AutoImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt").pixel_values
    return ViTForImageClassification.from_pretrained(folder)(pixels).logits.detach()


CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.8}
CROPPED = {"image_processor_type": "BitImageProcessor", "size": 48, "crop_size": 32, "do_center_crop": True}
BGR = {"image_processor_type": "MobileViTImageProcessor", "size": 40, "crop_size": 32, "resample": 2}


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"do_normalize": False}, 32),
        ({"do_normalize": False, "image_mean": None, "image_std": None}, 32),
        ({"do_rescale": False}, 32),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, 32),
        ({"resample": 3}, 32),
        ({"resample": 0}, 32),
        (CONVNEXT, 40),
        (CROPPED, 48),
        (BGR, 40),
    ],
)
def test_what_an_image_processor_does_is_followed(tmp_path, settings, side):
    vit(tmp_path, ["gender:male", "gender:female"])
    common = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(common | settings))
    classifier = load_classifier(tmp_path)
    assert classifier.size == side and classifier.classes == {"gender": GENDER.classes}
    spots = torch.rand(1, 3, 6, 6)
    picture = (torch.nn.functional.interpolate(spots, (64, 64), mode="bilinear") * 255).round()
    expected = as_transformers_does(tmp_path, picture[0].byte())[:, [1, 0]]
    torch.testing.assert_close(classifier(picture / 127.5 - 1)["gender"], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_mean": None, "image_std": None}, "does not work .*image_mean.* must both be specified"),
        ({"image_std": [0, 0, 0]}, "in a way that cannot be followed"),
        ({"size": {"height": 32, "width": 16}}, "gives no square pictures"),
        ({"size": {"height": 48, "width": 48}}, "does not take what its image processor makes"),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 32}}, "cannot be followed"),
        (None, "has no preprocessor_config.json, which says how pixels are scaled"),
    ],
)
def test_an_image_processor_that_cannot_be_followed_is_refused(tmp_path, settings, says):
    vit(tmp_path, ["Male", "Female"])
    path = tmp_path / "preprocessor_config.json"
    common = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    path.unlink() if settings is None else path.write_text(json.dumps(common | settings))
    with pytest.raises(UserError, match=says) as caught:
        load_classifier(Source(model=str(tmp_path), labels={"gender": {"male": "Male", "female": "Female"}}))
    assert "\n" not in str(caught.value)


def test_a_grey_model_sees_grey_faces(tmp_path):
    vit(tmp_path, ["gender:female", "gender:male"], num_channels=1)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4], image_std=[0.2]).save_pretrained(tmp_path)
    picture = (torch.rand(1, 3, 32, 32) * 255).round()
    grey = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).round().byte()
    expected = as_transformers_does(tmp_path, grey)
    torch.testing.assert_close(load_classifier(tmp_path)(picture / 127.5 - 1)["gender"], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (["gender:female", "gender:male"], {"problem_type": "multi_label_classification"}, "not choose one of its"),
        (["gender:male"], {}, r"does not choose one of its labels \(regression, 1 outputs\)"),
        (["gender:male", "gender:woman"], {}, "gender has no class 'woman'"),
        (["gender:male", "age:old"], {}, "the labels of .* give gender no 'female'"),
    ],
)
def test_outputs_that_are_no_shares_of_the_classes_are_refused(tmp_path, labels, options, says):
    vit(tmp_path, labels, **options)
    with pytest.raises(UserError, match=says):
        load_classifier(tmp_path)


def test_a_backbone_without_a_trained_head_is_refused(tmp_path):
    vit(tmp_path, ["gender:female", "gender:male"]).vit.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not trained: its files hold no classifier.bias"):
        load_classifier(tmp_path)


def test_no_faces_give_no_logits(tmp_path):
    vit(tmp_path / "vit", ["gender:female", "gender:male"])
    zero_shot = Source(model=str(MINI / "clip"), labels={"age": {"old": "an old person", "young": "a young person"}})
    both = load_classifier([Source(model=str(tmp_path / "vit")), zero_shot])
    images = torch.zeros(2, 3, 64, 64, requires_grad=True)
    crops = crop_faces(images[[]], torch.zeros(0, 4), both.size)
    logits = both(crops)
    assert {name: tuple(values.shape) for name, values in logits.items()} == {"gender": (0, 2), "age": (0, 2)}
    assert both.probabilities(crops)["age"].shape == (0, 2)
    assert both.features(crops).shape == (0, 32 + both.parts[1].model.texts.in_features)
    logits["gender"].sum().backward()
    assert images.grad.abs().sum() == 0


def test_all_missing_files_of_ffd_are_named_with_their_source():
    files = ["models/ffd/gender/a_MobileNetLarge.pt", "models/ffd/race/b_MobileNetLarge.pt"]
    with pytest.raises(UserError, match="gender/a_MobileNetLarge.pt and no .*race/b_.*data.zip .*5-trained-test-class"):
        load_classifier([Source(model=file, labels={"gender": {"female": 0, "male": 1}}) for file in files])
