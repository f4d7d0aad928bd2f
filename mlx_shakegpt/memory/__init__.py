"""How well a text is known by heart. Reads public functions of model and corpus only."""
