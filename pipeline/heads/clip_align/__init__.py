"""clip_align: a video and a clinician's attention in one space, on cached tokens and cached maps."""
