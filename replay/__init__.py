"""Frame replay: every frame is stored once; stacks and n-step returns are built when sampling."""

from replay.frame_replay import FrameReplay, PrioritisedReplay

__all__ = ["FrameReplay", "PrioritisedReplay"]
