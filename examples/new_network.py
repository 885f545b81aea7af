"""A new network is an Encoder: it turns frame stacks into features; the agent's own head follows.

python -m agents.dqn --env Pong --network examples.new_network:Residual:width=32 --nap --dueling --distribution c51
"""

from torch import nn

from agents.networks.encoders import Encoder


class Block(nn.Module):
    """Two convolutions next to a shortcut, after a convolution that halves the image (Espeholt et al. 2018)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.first, self.second = (nn.Conv2d(outputs, outputs, 3, padding=1) for _ in range(2))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.halve(x)
        return x + self.second(self.relu2(self.first(self.relu1(x))))


class Residual(Encoder):
    """Blocks of `width` channels until no side is longer than 11, and a hidden layer of `units`."""

    def __init__(self, stack, frame_shape, width: int = 16, units: int = 256):
        super().__init__()
        self.hidden = units
        channels, blocks = [self.channels(stack, frame_shape)], 0
        while max(frame_shape[-2:]) >> blocks > 11:
            blocks += 1
        channels += [width] * max(blocks, 1)
        self.blocks = nn.Sequential(*map(Block, channels, channels[1:]), nn.ReLU())

    def forward(self, pixels):
        return self.blocks(self.images(pixels))
