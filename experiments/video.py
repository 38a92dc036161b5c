def write(model, qpos, stem, say):
    return []
