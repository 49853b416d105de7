"""Classification training of backbones."""
