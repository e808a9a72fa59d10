"""Classifiers load from the formats of the field, group their labels, and give gradients."""

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_large
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from fairnb.errors import UserError
from fairnb.miniworld import models
from fairnb.profiles import Source
from fairnb.prompts.attributes import GENDER, RACE
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.encoders import load_clip
from tests.conftest import MINI

# FairFace's seven races, as hub classifiers name them, in FFD's four classes.
SEVEN = ["White", "Middle Eastern", "Latino_Hispanic", "Black", "Indian", "East Asian", "Southeast Asian"]
FOUR = {"WMELH": SEVEN[:3], "Black": "Black", "Indian": "Indian", "Asian": SEVEN[5:]}


def vit(folder, labels, size=32):
    """A small ViT classifier with its image processor, as the hub holds them."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=size, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
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
    for path in (evil, other, tmp_path / "none.pt"):
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
    hidden = model.vit(images * classifier.scale + classifier.shift).last_hidden_state[:, 0]
    torch.testing.assert_close(features, torch.nn.functional.normalize(hidden, dim=-1))
    features[:, 0].sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
