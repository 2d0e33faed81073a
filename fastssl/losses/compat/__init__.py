"""Losses under the calls of other libraries: change the import, leave the rest of the loop.

| module | stands for |
|---|---|
| `lightly` | `lightly.loss` 1.6 |
| `pytorch_metric_learning` | `pytorch_metric_learning.losses` 2.9 |
| `open_clip` | `open_clip.loss` 3.3 |
| `supcon` | the SupCon paper's `losses.py` |
| `solo` | `solo.losses` of solo-learn 1.0.6 |
| `info_nce` | info-nce-pytorch 0.1.4 |
| `moco_v3` | `contrastive_loss` of MoCo v3 |
| `dino` | `DINOLoss` of DINO's `main_dino.py` |
| `dinov2` | `dinov2.loss` |

Constructors, calls, values and gradients are the originals', which these modules neither contain nor import. What
differs everywhere, on purpose:

- The scores are never stored, and neither are pairs or triplets of them.
- Losses and sums are float32 (float64 for float64) for 16-bit embeddings and under autocast, where some originals
  return 16 bits. Products take the type that they would take anyway.
- The positive stays out of the sum that it would drown, so small losses keep their digits (not SupCon's, whose sum
  holds its positives by definition), and no temperature overflows: at 0.01 exp(cos / temperature) does in
  solo-learn, pytorch-metric-learning takes no loss to be over 87, which is where 1 / float32 ends, and SupCon's
  differences from the largest score, that of a row with itself, can leave nothing of the rest.
- Bad input is refused in one sentence, and some input that the originals let pass: a temperature that is not > 0,
  labels or shapes that do not fit. There is no second derivative, except of NT-Xent.

Each module's docstring lists what else differs. In several processes the gradients are the originals' as well. Where
one of these scales them by 1 / processes, so does its stand-in, unless told ``exact_gradient=True``; fastssl's own
losses are exact always.
"""
