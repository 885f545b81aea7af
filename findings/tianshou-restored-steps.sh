#!/usr/bin/env bash
# Tianshou 2.0.1: what TensorboardLogger gives back of a log.
#
# restore_logged_data returns the values of each tag without the steps they were written at; a tag that is written more
# or less often than its scope's env_step cannot be placed any more. restore_data, for a run that goes on, stores the
# step of the last training record in last_log_train_step; log_training_data reads last_log_training_step, which stays
# -1, so the first training record after a resume is written whatever training_interval is. Seen:
#   written at 700, 1400: restored [3. 5.], type ndarray, without steps
#   after restore_data: last_log_train_step 1400, last_log_training_step -1
#   training records now: 3 (the third is 1 step after the second, with training_interval 1000)
# The exit code is not 0 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
pip install --quiet torch==2.13.0 tianshou==2.0.1 gymnasium==1.4.0 tensorboard==2.21.0
cd "$folder"
python - <<'PYTHON'
import numpy as np
from tianshou.utils import TensorboardLogger
from torch.utils.tensorboard import SummaryWriter

logger = TensorboardLogger(SummaryWriter("log"), training_interval=500, save_interval=1)
for step, value in ((700, 3.0), (1400, 5.0)):
    logger.log_training_data({"returns_stat": {"mean": value}}, step)
logger.save_data(1, 1400, 10, lambda epoch, env_step, update_step: "checkpoint")
logger.finalize()

curve = TensorboardLogger.restore_logged_data("log")["training"]["returns_stat"]["mean"]
print(f"written at 700, 1400: restored {curve}, type {type(curve).__name__}, without steps")
assert isinstance(curve, np.ndarray) and curve.shape == (2,), curve

resumed = TensorboardLogger(SummaryWriter("log"), training_interval=1000)
assert resumed.restore_data() == (1, 1400, 10)
print("after restore_data:", "last_log_train_step", resumed.last_log_train_step, end=", ")
print("last_log_training_step", resumed.last_log_training_step)
assert resumed.last_log_train_step == 1400 and resumed.last_log_training_step == -1
resumed.log_training_data({"returns_stat": {"mean": 7.0}}, 1401)
resumed.finalize()
curve = TensorboardLogger.restore_logged_data("log")["training"]["returns_stat"]["mean"]
print("training records now:", len(curve))
assert len(curve) == 3, curve
PYTHON
