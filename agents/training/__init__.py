"""The training loop of an agent: acting, updates, schedules, metrics, what a checkpoint holds."""
