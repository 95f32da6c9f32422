"""Clips out of videos: frames sampled by time, through torchcodec or PyAV."""
