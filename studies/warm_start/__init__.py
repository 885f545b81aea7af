"""The warm-start study: does a network first trained on part of the data end up worse, and what closes the gap?"""
