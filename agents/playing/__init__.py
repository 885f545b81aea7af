"""Games played to be scored or filmed."""
