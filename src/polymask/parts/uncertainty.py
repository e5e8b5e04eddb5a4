"""How sure a network is of its answer, as a number that the mask of the right task makes small."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def entropy(logits: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
    """``H = -sum_c p_c log p_c`` over all outputs, the mean over rows (SupSup, Wortsman et al. 2020, section 3.3).

    It is *minimised*: the right task's mask is the one that lowers it.

    >>> entropy(torch.zeros(2, 4)).exp()
    tensor(4.)
    """
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def superfluous(logits: Float[Tensor, "n s"], labels: int) -> Float[Tensor, ""]:
    """``G = logsumexp_c z_c`` whose gradient reaches the outputs beyond the labels alone; the mean over rows.

    ``dG/dz_j = softmax_j`` for ``j >= labels``, as the cross-entropy has it for a logit that is not the target, and 0
    on the labels. It is *minimised*, like the entropy (SupSup, Wortsman et al. 2020, section 3.4).

    Args:
        logits: (rows, outputs).
        labels: how many outputs are labels; those beyond are superfluous.

    Raises:
        ValueError: if there is no output beyond the labels.

    >>> z = torch.zeros(1, 4, requires_grad=True)
    >>> superfluous(z, 2).backward()
    >>> z.grad
    tensor([[0.0000, 0.0000, 0.2500, 0.2500]])
    """
    if logits.shape[-1] <= labels:
        raise ValueError(
            f"expected outputs beyond the {labels} labels, found {logits.shape[-1]} in all: learn with spare= outputs, "
            "or ask by the entropy"
        )
    return torch.cat([logits[:, :labels].detach(), logits[:, labels:]], 1).logsumexp(-1).mean()
