"""Label propagation: features that tell where things are carry masks along, others do not; and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastssl import cli, data, evaluate, methods, transforms
from fastssl.evaluate._label_propagation import _overlap


class Painted(nn.Module):
    """Features that tell objects apart: each frame's own mask, which stands in its first channel."""

    num_features = 4

    def forward(self, x):
        shade = (transforms.to_pixels(x)[:, 0] * 255 / 100).round().long()
        return nn.functional.one_hot(shade, 4).movedim(3, 1).float()


def painted(clips):
    frames = clips.clips.clone()
    frames[:, :, 0] = clips.masks * 100
    return data.Clips(frames, clips.masks)


def test_features_that_know_the_objects_carry_their_masks():
    clips = painted(data.clips(12, 6, image_size=32))
    found = evaluate.label_propagation(Painted(), clips)
    assert found.similarity > 0.98
    assert found.copied < 0.5
    assert torch.equal(found.masks[:, 0], clips.masks[:, 0])
    assert len(found.by_frame) == 5
    assert found.scores == {"label propagation": found.similarity, "first mask left as it is": found.copied}


def test_features_that_know_nothing_do_not():
    class Constant(nn.Module):
        num_features = 3

        def forward(self, x):
            return torch.ones(len(x), 3, 8, 8)

    clips = data.clips(12, 6, image_size=32)
    found = evaluate.label_propagation(Constant(), clips)
    assert found.similarity < found.copied


def test_a_clip_that_stands_still_is_copied():
    clips = data.clips(6, 1, image_size=32)
    still = data.Clips(
        clips.clips.expand(-1, 4, -1, -1, -1).contiguous(), clips.masks.expand(-1, 4, -1, -1).contiguous()
    )
    found = evaluate.label_propagation(methods.small_resnet(3, 16, output_stride=8), still, k=1)
    assert found.copied == 1
    assert found.similarity > 0.8


def test_overlap_by_hand():
    true, found = torch.zeros(1, 2, 2, 3).byte(), torch.zeros(1, 2, 2, 3).byte()
    true[0, 1] = torch.tensor([[1, 1, 0], [1, 1, 0]])
    found[0, 1] = torch.tensor([[0, 1, 1], [0, 1, 1]])
    ratios = _overlap(found, true, 3)
    assert ratios.shape == (1, 1, 2)
    assert ratios[0, 0, 0].item() == pytest.approx(2 / 6)
    assert ratios[0, 0, 1].isnan()


def test_encoder_and_result():
    clips = data.clips(4, 3, image_size=16)
    encoder = methods.small_vit(3, 16).train()
    found = evaluate.label_propagation(encoder, clips, batch_size=3)
    again = evaluate.label_propagation(encoder, clips)
    assert encoder.training
    assert torch.equal(found.masks, again.masks)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["similarity"] == found.similarity
    assert told["protocol"]["k"] == 5
    assert told["protocol"]["map"] == [8, 8]


def test_the_command_line_judges_on_clips(tmp_path, capsys):
    methods.export_encoder(methods.small_resnet(3, 16), tmp_path, image_size=16, in_chans=3)
    assert cli.main(("evaluate", str(tmp_path), "--data", "clips")) == 0
    out = capsys.readouterr().out
    assert "clips: 100 test clips" in out
    table = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(table) == {"trained encoder", "untrained encoder"}
    scores = table["trained encoder"]["label_propagation"]["scores"]
    assert 0 < scores["first mask left as it is"] < 0.5
    assert f"{100 * scores['label propagation']:.1f}" in out


CLIPS = data.clips(2, 2, image_size=8)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda e: evaluate.label_propagation(None, CLIPS), TypeError, "encoder: got NoneType"),
        (lambda e: evaluate.label_propagation(e, data.shapes(3)), TypeError, "clips: got TensorImages"),
        (lambda e: evaluate.label_propagation(e, CLIPS, k=0), ValueError, "k: got 0"),
        (lambda e: evaluate.label_propagation(e, CLIPS, context=-1), ValueError, "context: got -1"),
        (lambda e: evaluate.label_propagation(e, CLIPS, batch_size=0), ValueError, "batch_size: got 0"),
        (lambda e: evaluate.label_propagation(e, CLIPS, temperature=0), ValueError, "temperature: got 0"),
        (lambda e: evaluate.label_propagation(e, data.clips(2, 1, image_size=8)), ValueError, "clips: got one frame"),
    ],
)
def test_bad_input(ask, error, says):
    with pytest.raises(error, match=says):
        ask(methods.small_resnet(3, 16))
