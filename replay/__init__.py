"""Frame replay: every frame is stored once; stacks and n-step returns are built when sampling."""

from replay.frame_replay import FrameReplay, PrioritisedReplay
from replay.stacked import StackedReplay

__all__ = ["FrameReplay", "PrioritisedReplay", "StackedReplay"]
