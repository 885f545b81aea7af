"""Named presets: one small, strict YAML file each."""
