"""Clips out of videos: frames sampled by time, through PyAV or torchcodec."""
