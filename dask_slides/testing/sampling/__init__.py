"""How `sample_slide` draws: the scene, the textures and the tiles made of both."""
