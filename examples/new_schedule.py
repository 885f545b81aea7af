"""A new schedule is a subclass of nap.Schedule; it may listen to a signal, which the training loop passes to `observe`.

python -m agents.dqn --env Pong --schedule examples.new_schedule:CoolDown:signal=td_error --lr 1e-3
python -m studies.grokking --schedule examples.new_schedule:CoolDown:factor=0.7,patience=20
"""

import nap


class CoolDown(nap.Schedule):
    """Multiplies the rate by `factor` when `patience` samples of the signal in a row were no lower than the lowest."""

    def __init__(self, optimizer, total_steps, *, factor: float = 0.5, patience: int = 5, signal: str = "loss"):
        self.factor, self.patience, self.signal = factor, patience, signal
        self.best, self.waited, self.cuts = float("inf"), 0, 0
        super().__init__(optimizer, total_steps)

    def shape(self, step):
        return self.factor**self.cuts

    def observe(self, signal):
        value = float(signal)
        self.waited = 0 if value < self.best else self.waited + 1
        self.best = min(self.best, value)
        if self.waited >= self.patience:
            self.waited, self.cuts = 0, self.cuts + 1

    def metrics(self):
        return {"cuts": self.cuts}

    def state_dict(self):
        return super().state_dict() | {"best": self.best, "waited": self.waited, "cuts": self.cuts}

    def load_state_dict(self, state):
        self.best, self.waited, self.cuts = state["best"], state["waited"], state["cuts"]
        super().load_state_dict(state)
