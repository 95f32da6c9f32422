"""The small twin: a Qwen2.5-VL of a few million parameters, trained from nothing in this repo."""
