"""Networks as plain modules: scratch CNNs, timm backbones, and how they divide into stages."""
