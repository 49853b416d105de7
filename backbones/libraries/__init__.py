"""Classification networks of torchvision, timm and pytorchcv as backbones."""
