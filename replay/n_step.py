"""n-step returns from windows of consecutive rewards."""

import torch

from replay.ring import ENDED, LIFE_LOST, TERMINATED


def n_step_return(
    reward: torch.Tensor, flags: torch.Tensor, gamma: float, cut_at_life_loss: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Discounted sum of the rewards up to the first ended step of each window (Sutton and Barto 2018, eq. 12.1).

    `reward` float32 and `flags` uint8 are [..., n]. Returns, each [...]: the sum of the first m rewards; the discount
    of the bootstrap value m steps later, gamma**m, or 0 where the window ends in a termination (or a lost life with
    `cut_at_life_loss`); and m, the number of rewards used (int64).
    """
    final = TERMINATED | (LIFE_LOST if cut_at_life_loss else 0)
    n = reward.shape[-1]
    if n == 1:  # the same in a quarter of the operations, which at this size are all overhead
        reward, last = reward.squeeze(-1), (flags.squeeze(-1) & final) != 0
        return reward, torch.where(last, 0.0, gamma).to(reward), torch.ones_like(last, dtype=torch.int64)
    powers = torch.pow(gamma, torch.arange(n + 1, dtype=torch.float32, device=reward.device))
    ended = (flags & (final | ENDED)) != 0
    used = (ended.cumsum(-1) - ended.long()) == 0
    total = torch.where(used, reward * powers[:n], 0.0).sum(-1)
    count = used.sum(-1)
    last = (((flags & final) != 0) & used).any(-1)
    return total, powers[count].masked_fill(last, 0.0), count
