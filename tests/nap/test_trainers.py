"""The recipes of docs/trainers.md: each runs, keeps the norms, and goes on from its checkpoint where it has one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs/trainers.md"
HELD = """
now = projection.norms()
assert list(now) == [prefix + name for name in ("0.weight", "2.weight")]
for name, norm in now.items():
    assert abs(norm / projection.initial_norms[name] - 1) < 1e-6, name
assert projection.updates == 10, projection.updates
untouched = build()[0].weight.detach()
trained = next(model.parameters()).detach()
trained = trained.full_tensor() if hasattr(trained, "full_tensor") else trained
assert (trained - untouched).abs().max() > 0.01
"""
LIGHTNING = """
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = build()

    def training_step(self, batch, index):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(epochs, path=None):  # of 4 steps
    callback, module = Project(), Module()
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[callback],
                                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16), ckpt_path=path)
    return trainer, module, callback.projection


trainer, _, first = fit(1)
trainer.save_checkpoint("first.ckpt")
_, resumed, projection = fit(2, "first.ckpt")
_, whole, other = fit(2)
"""
TRANSFORMERS = """
from transformers import Trainer, TrainingArguments


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = build()

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.model(x), labels)}


rows = [{"x": x, "labels": y} for x, y in data]


def train(folder, steps, resume=False):
    arguments = TrainingArguments(output_dir=folder, max_steps=steps, save_steps=4, learning_rate=1e-2, use_cpu=True,
                                  lr_scheduler_type="constant", per_device_train_batch_size=16, report_to=[],
                                  disable_tqdm=True)
    callback, model = Project(), Model()
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback]).train(resume_from_checkpoint=resume)
    return model, callback.projection


train("halves", 4)
resumed, projection = train("halves", 8, resume=True)
whole, other = train("whole", 8)
"""
SAME = """
assert projection.updates == other.updates == 8
for name, norm in other.initial_norms.items():
    assert torch.equal(projection.initial_norms[name], norm)
    assert abs(projection.norms()[name] / norm - 1) < 1e-6
assert len(projection.names) == 2
for one, two in zip(resumed.parameters(), whole.parameters(), strict=True):
    assert torch.equal(one, two)
"""
ACCELERATE = """
assert projection.updates == 2
before = {name: norm.clone() for name, norm in projection.initial_norms.items()}
for norm in projection.initial_norms.values():
    norm.mul_(2)
accelerator.load_state("state")
for name, norm in before.items():
    assert torch.equal(projection.initial_norms[name], norm)
    assert abs(projection.norms()[name] / norm - 1) < 1e-6
"""
LOADING = """
from transformers import AutoModelForCausalLM

ids = torch.arange(14).view(2, 7)
with torch.no_grad():
    expected = model(ids).logits
    assert torch.equal(same(ids).logits, expected)
    model.save_pretrained("plain")
    wrong = AutoModelForCausalLM.from_pretrained("plain").eval()(ids).logits
assert (wrong - expected).norm() > 0.01 * expected.norm()  # what the recipe is for
for call in (
    lambda: AutoModelForCausalLM.from_pretrained("model"),
    lambda: load_model(AutoModelForCausalLM.from_config(model.config), "model/model.nap.safetensors"),
):
    try:
        call()
    except (OSError, RuntimeError):
        continue
    raise AssertionError("not refused")
"""
PREFIX = {"DistributedDataParallel": "module."}
RECIPES = {
    "Gradient accumulation and GradScaler": ((), HELD),
    "DistributedDataParallel": ((), HELD),
    "FSDP2": ((), HELD),
    "Tensor parallelism": ((), HELD),
    "accelerate": (("accelerate",), ACCELERATE),
    "Lightning": (("lightning",), LIGHTNING + SAME),
    "transformers": (("transformers", "accelerate"), TRANSFORMERS + SAME),
    "Loading a normalised model": (("transformers", "safetensors"), LOADING),
}


def recipes() -> dict[str, str]:
    """The code under each heading of the guide that has some; the first is under its title."""
    sections = re.split(r"^#+ (.*)$", GUIDE.read_text(), flags=re.M)[1:]
    blocks = {
        title: "".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {title: code for title, code in blocks.items() if code}


def test_every_recipe_of_the_guide_is_run() -> None:
    others = ["Stable-Baselines3"]  # by test_stable_baselines.py
    assert [title for title in list(recipes())[1:] if title not in others] == list(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title: str, tmp_path: Path) -> None:
    libraries, checks = RECIPES[title]
    for library in libraries:
        if find_spec(library) is None:
            pytest.skip(f"needs {library}")
    setup, code = next(iter(recipes().values())), recipes()[title]
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "dist." in code else []
    # gloo's threads may abort a process that ends with them, after all is done; it leaves without their destructors
    end = "dist.destroy_process_group()\nimport os\nos._exit(0)" if spread else ""
    script = f"{setup}\n{code}\nprefix = {PREFIX.get(title, '')!r}\n{checks}\n{end}"
    (tmp_path / "recipe.py").write_text(script)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *spread, "recipe.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
